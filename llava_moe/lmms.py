"""The earlier name of ``lmms_eval_plugin``, for scripts that ask it where the tasks are."""

from llava_moe.lmms_eval_plugin import task_folder

__all__ = ["task_folder"]
