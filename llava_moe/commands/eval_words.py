"""What ``eval`` is asked for: one model (a run, a Hugging Face LLaVA, a server's), or results of scored runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_moe.config.image_keys import refuse_for_run
from llava_moe.config.key_limits import EVAL
from llava_moe.config.validator import check_settings
from llava_moe.errors import UserError
from llava_moe.eval.protocol import find_protocol
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.runs.named_files import know_benchmarks
from llava_moe.runs.named_server import server_of
from llava_moe.runs.out_folder import refuse_unwritable

# Keys that mean something for one kind of model alone, and the key that makes it that kind.
BELONGS_TO = {
    "peft": "path",
    "template": "path",
    "image_mode": "path",
    "name": "endpoint",
    "api_key_env": "endpoint",
    "timeout": "endpoint",
    "attempts": "endpoint",
}


def check_words(config: Mapping[str, Any], num_processes: int = 1) -> None:
    """Refuse what can be told from the settings and the disk, before anything is loaded.

    Raises:
        UserError: a value that a setting cannot have, an unknown benchmark or protocol, no model, or no such run.
    """
    check_settings(config, EVAL)
    find_protocol(config["protocol"])
    know_benchmarks(config["benchmarks"])
    _check_images(config)
    if config["out"]:
        refuse_unwritable(Path(config["out"]))
    if config["held_out"] and config["runs"] is None:
        raise UserError("held_out= measures the runs of runs=: give runs=[FOLDER,FOLDER], or leave it out")
    if results_wanted(config):
        return
    check_one_model(config, num_processes)
    if config["run"] is not None:
        newest_checkpoint(Path(config["run"]))


def _check_images(config: Mapping[str, Any]) -> None:
    if config["images"] is not None:
        from llava_moe.runs.own_questions import image_folders

        image_folders("images", config["images"], config["benchmarks"])


def results_wanted(config: Mapping[str, Any]) -> list[str]:
    """The keys that ask for what is read from files of scored runs; none where a model is to be scored."""
    judge = config["judge"]
    asked = {
        "runs=": config["runs"] is not None,
        "leaks=": config["leaks"],
        "judge.": judge["endpoint"] is not None or judge["name"] is not None,
    }
    return [key for key, is_asked in asked.items() if is_asked]


def check_one_model(config: Mapping[str, Any], num_processes: int = 1) -> None:
    """Hold the settings of the model against each other, before anything is loaded.

    Raises:
        UserError: no model, several, a setting of another kind of model, or an endpoint asked by several processes.
    """
    model = config["model"]
    given = [f"{key}=" for key, value in _ways(config).items() if value is not None]
    if len(given) != 1:
        told = f", not {' and '.join(given)} together" if given else ""
        raise UserError(
            "eval needs one model: run=FOLDER, model.path= a LLaVA checkpoint's folder or hub id, or model.endpoint= "
            f"an address{told}"
        )
    refuse_for_run(config)
    for key, owner in BELONGS_TO.items():
        if model[key] is not None and model[owner] is None:
            raise UserError(f"model.{key}= belongs to model.{owner}=, which is not given: leave it out, or give both")
    if model["endpoint"] is not None:
        if model["name"] is None:
            raise UserError("model.endpoint= needs model.name=, the name that the server knows the model by")
        if config["dtype"] is not None:
            raise UserError("dtype= is the server's affair where model.endpoint= is given: leave it out")
        if num_processes > 1:
            raise UserError(
                f"one process asks an endpoint, not {num_processes}: start llava-moe eval without a launcher"
            )
        server_of(model)


def _ways(config: Mapping[str, Any]) -> dict[str, Any]:
    model = config["model"]
    return {"run": config["run"], "model.path": model["path"], "model.endpoint": model["endpoint"]}
