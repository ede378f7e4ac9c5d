"""The two files of an adapter's folder, and our own settings in them. Nothing is ever unpickled.

``adapter_config.json`` holds ``method``, ``format_version``, ``base`` (the model that it was trained on) and every
hyper-parameter; ``adapter_model.safetensors`` one tensor per expert, named after the module it belongs to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava_moe.adapters.core.field_types import first_misfit
from llava_moe.adapters.core.quote_value import quote_value
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.adapters.formats.hub_name import hub_id
from llava_moe.errors import UserError
from llava_moe.files.regular_file import check_regular, open_regular, read_regular
from llava_moe.text.structured_text import StructuredTextError, parse_json

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
FORMAT_VERSION = 1
# A hundred experts on every linear of a large model take a tenth of it.
MOST_BYTES = 16 * 2**20
HEAD = ("method", "format_version", "base")

Config = TypeVar("Config")


def write_folder(
    folder: Path, target_model: TargetModel, method: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write an adapter of our own methods, with what it was trained on."""
    base = target_model.describe()
    base["name"] = hub_id(base["name"])
    head = {"method": method, "format_version": FORMAT_VERSION, "base": base}
    write_settings(folder, {**head, **settings})
    write_tensors(folder, tensors)


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``adapter_config.json``."""
    (folder / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write ``adapter_model.safetensors``, sorted by name."""
    # Experts are views of one wide tensor, and safetensors refuses tensors that share memory.
    own = {name: tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(tensors)}
    save_file(own, folder / TENSORS_FILE, metadata={"format": "pt"})


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Say of what goes wrong with a folder's settings which folder it is.

    Raises:
        UserError: the same with the place, or what a value of a wrong kind led to.
    """
    path = folder / CONFIG_FILE
    try:
        yield
    except UserError as error:
        raise error if str(folder) in str(error) else UserError(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has a value that is none of its setting's ({error})") from error


def read_settings(folder: Path) -> dict[str, Any]:
    """Read ``adapter_config.json``.

    Raises:
        UserError: it is not there, cannot be read, or is not a JSON object.
    """
    path = folder / CONFIG_FILE
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"{path} is no adapter's settings: it has {size} bytes; write the adapter again")
        settings = parse_json(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not an adapter folder: it has no {CONFIG_FILE}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); copy the adapter again") from error
    except StructuredTextError as error:
        raise UserError(f"{path} is not valid JSON ({error}); write the adapter again") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path} must hold a JSON object, not a {type(settings).__name__}")
    return settings


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read ``adapter_model.safetensors``.

    Raises:
        UserError: it is not there, is damaged or no safetensors file, or a tensor holds a NaN or an infinity.
    """
    path = folder / TENSORS_FILE
    if not path.is_file():
        raise UserError(f"{folder} has no {TENSORS_FILE}; other formats, such as .bin, are not read: convert it first")
    try:
        check_regular(path)
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        if _is_pickle(path):
            raise UserError(
                f"{path} is a pickle under another name, and nothing is unpickled here: convert it to safetensors"
            ) from error
        raise UserError(f"{path} is damaged ({error}); copy or write it again") from error
    refuse_nonfinite(path, tensors)
    return tensors


def refuse_nonfinite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that are NaN or infinite: every answer would be.

    Raises:
        UserError: naming the first such tensor.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(f"{path}: {name} holds NaN or infinite weights: take an earlier checkpoint")


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as torch's files do: a zip archive, or a bare pickle of protocol 2 or later."""
    try:
        with open_regular(path) as file:
            start = file.read(4)
    except OSError:  # what cannot be read is damaged, and no pickle
        return False
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def config_from(kind: type[Config], settings: Mapping[str, Any], folder: Path) -> Config:
    """Rebuild a method from its settings; every hyper-parameter must be there and no other.

    Those that a method names as ``later_fields`` came after its first files, which mean their defaults.

    Raises:
        UserError: the format is newer than this program, or a hyper-parameter is missing or unknown.
    """
    path = folder / CONFIG_FILE
    version = settings.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        told = version if isinstance(version, str) and version.isalnum() else quote_value(version)
        raise UserError(f"{path} has format_version {told}; this program reads {FORMAT_VERSION}: use a matching one")
    assert dataclasses.is_dataclass(kind)  # a method, never what a file says
    wanted = {field.name for field in dataclasses.fields(kind)}
    given = {name: value for name, value in settings.items() if name not in HEAD}
    missing = sorted(wanted - given.keys() - set(getattr(kind, "later_fields", ())))
    unknown = sorted(given.keys() - wanted)
    if missing or unknown:
        raise UserError(
            f"{path} does not describe a {kind.__name__}: missing {quote_value(missing)}, "
            f"unknown {quote_value(unknown)}"
        )
    if misfit := first_misfit(kind, given):
        raise UserError(f"{path}: {misfit}; write the adapter again")
    return kind(**given)
