"""The key that an unknown one was meant to be."""

from __future__ import annotations

from collections.abc import Sequence

from llava_moe.text.did_you_mean import did_you_mean

# What other trainers (LLaVA, Hugging Face, PEFT) call a setting, where its letters lead nowhere or astray.
ELSEWHERE = {
    "lr": "stage.learning_rates.adapter",
    "learning_rate": "stage.learning_rates.adapter",
    "mm_projector_lr": "stage.learning_rates.projector",
    "batch_size": "train.global_batch_size",
    "per_device_train_batch_size": "train.global_batch_size",
    "num_train_epochs": "train.epochs",
    "model_max_length": "train.max_length",
    "save_steps": "train.save_every",
    "output_dir": "out",
    "data_path": "path",
    "data.path": "path",
    "image_folder": "images",
    "data.images": "images",
    "model_name_or_path": "model.path",
    "lora_r": "adapter.r",
    "lora_alpha": "adapter.lora_alpha",
    "lora_dropout": "adapter.lora_dropout",
    "report_to": "log.wandb",
}


def suggest(word: str, known: Sequence[str]) -> str:
    """``" (did you mean X?)"`` with the nearest known name, or nothing."""
    elsewhere = ELSEWHERE.get(word)
    if elsewhere in known:
        return f" (did you mean {elsewhere}?)"
    by_last_name = {key.rpartition(".")[2]: key for key in known}
    return did_you_mean(word, known, cutoff=0.5) or did_you_mean(
        word.rpartition(".")[2], by_last_name, shown=by_last_name.__getitem__
    )
