"""Configurations and weights as transformers opens them; whatever it trips over is told as the user's to fix."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from llava_moe.errors import StoppedBySignalError, UserError
from llava_moe.model.architecture import resolve
from llava_moe.model.checkpoint_files import refuse_irregular
from llava_moe.model.kinds import refuse_other_kind
from llava_moe.model.sizes import refuse_more_than_on_file, refuse_sizes_without_end

ConfigKind = TypeVar("ConfigKind", bound=PreTrainedConfig)


def read_config(kind: Any, model_types: tuple[str, ...], reference: str) -> Any:
    """The configuration of a checkpoint.

    Args:
        kind: transformers' class of the model; ``model_types``: what ``config.json`` may call it.
        reference: hub id, folder, or ``embedded:NAME``.

    Raises:
        UserError: it is not there, is damaged, or is of another type.
    """
    path = resolve(reference)
    refuse_irregular(path)
    with told("model", reference):
        refuse_other_kind(path, reference, model_types)
        return kind.config_class.from_pretrained(path)


def read_weights(
    kind: Any, model_types: tuple[str, ...], reference: str, dtype: torch.dtype, *, is_part: bool = False
) -> Any:
    """A model with the weights of a checkpoint, all of them there.

    Args:
        kind, model_types, reference: as for :func:`read_config`.
        is_part: it is a tower or a language model by itself, whose sizes nothing else judges.

    Raises:
        UserError: as :func:`read_config`, or its weights do not fill it.
    """
    path = resolve(reference)
    refuse_irregular(path)
    with told("model", reference):
        refuse_other_kind(path, reference, model_types)
        config = kind.config_class.from_pretrained(path)
        if is_part:
            refuse_sizes_without_end({"config.json": config}, reference)
        refuse_more_than_on_file(path, reference, config)
        model, account = kind.from_pretrained(path, dtype=dtype, output_loading_info=True)
    if missing := sorted(account["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"model {reference} lacks the weights {missing[0]}{more}, which would be left at random: copy its files "
            "again, or take the checkpoint that is whole"
        )
    return model


def random_weights(kind: Any, config: PreTrainedConfig, dtype: torch.dtype, name: str) -> Any:
    """A model of a configuration as its initialization leaves it.

    Raises:
        UserError: numbers of the configuration do not fit each other.
    """
    # Trap: numbers that do not fit each other are told by whatever of torch or transformers meets them first.
    with told("model", name, "built"):
        return kind._from_config(config, dtype=dtype)


def shaped_config(kind: type[ConfigKind], given: Mapping[str, Any], part: str) -> ConfigKind:
    """A configuration with the fields that ``model.architecture.{part}`` gives, all others as transformers has them.

    Raises:
        UserError: it has no such field, or a value is none for it.
    """
    where, known = f"model.architecture.{part}", kind().to_dict()
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UserError(f"unknown key {where}.{unknown[0]}: take the fields of transformers' {kind.__name__}")
    try:
        return kind(**given)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {str(error).strip().splitlines()[-1].strip()}; fix these numbers") from error


@contextmanager
def told(what: str, reference: str, failed: str = "loaded") -> Iterator[None]:
    """Say of what transformers trips over which checkpoint it is.

    Raises:
        UserError: in the place of whatever it raised.
    """
    try:
        yield
    except (UserError, StoppedBySignalError):
        raise
    except pickle.UnpicklingError as error:  # torch would advise to open it all the same
        raise UserError(
            f"{what} {reference} holds more than tensors in a .bin file, and nothing else is unpickled here: take its "
            "safetensors form"
        ) from error
    except Exception as error:
        # Trap: on damaged files transformers and tokenizers raise what they happen to meet, assertions of torch and
        # the bare Exception among it.
        raise UserError(f"{what} {reference} cannot be {failed}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
