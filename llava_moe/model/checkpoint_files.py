"""The small files of a checkpoint that stand beside its weights: in a folder, or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from llava_moe.errors import UserError
from llava_moe.files.regular_file import check_regular, read_regular
from llava_moe.text.structured_text import StructuredTextError, decode, parse_json


def read_chat_template(reference: str) -> str | None:
    """The chat template in a checkpoint's own files, the processor's before the tokenizer's; None: there is none.

    Args:
        reference: a folder or hub id.

    Raises:
        UserError: a file that should be text or JSON is not.
    """
    if path := file_of(reference, "chat_template.jinja"):
        return _read_text(path)
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        found = read_json(reference, name).get("chat_template")
        if isinstance(found, list):  # several, by name
            named = [one for one in found if isinstance(one, dict)]
            found = {one.get("name"): one.get("template") for one in named}.get("default")
        if isinstance(found, str) and found.strip():
            return found
    return None


def check_generation_config(reference: str) -> None:
    """Refuse a ``generation_config.json`` that transformers would leave aside without a word, end tokens and all.

    Raises:
        UserError: it is no JSON object, or its ``eos_token_id`` is no token and no list of tokens.
    """
    path = file_of(reference, "generation_config.json")
    if path is None:
        return
    settings = _parsed(path)
    if not isinstance(settings, dict):
        raise UserError(f"{path} holds no JSON object: copy the checkpoint again")
    told = settings.get("eos_token_id")
    tokens = told if isinstance(told, list) else [] if told is None else [told]
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in tokens):
        raise UserError(f"{path}: eos_token_id={str(told)[:80]} is no token number and no list of them: fix it there")


def read_json(reference: str, name: str) -> dict[str, Any]:
    """A JSON object among a checkpoint's files; empty where it has none of that name.

    Raises:
        UserError: the file is no JSON.
    """
    path = file_of(reference, name)
    if path is None:
        return {}
    settings = _parsed(path)
    return settings if isinstance(settings, dict) else {}


def refuse_irregular(reference: str) -> None:
    """Refuse a folder with a named pipe, a device or a socket in it: opening it waits forever.

    Raises:
        UserError: naming it.
    """
    folder = Path(reference).expanduser()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.exists() and not path.is_dir():
            try:
                check_regular(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}): copy the checkpoint again") from error


def file_of(reference: str, name: str) -> Path | None:
    """Where a file of a checkpoint lies, fetched from the hub if need be; None where it has none of that name."""
    if (folder := Path(reference).expanduser()).is_dir():
        return path if (path := folder / name).is_file() else None
    try:
        found = cached_file(
            reference,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except (OSError, ValueError):  # no such repository: loading its weights says so
        return None
    return None if found is None else Path(found)


def _parsed(path: Path) -> Any:
    try:
        return parse_json(_read_text(path))
    except StructuredTextError as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy the checkpoint again") from error


def _read_text(path: Path) -> str:
    try:
        return decode(read_regular(path))
    except (OSError, StructuredTextError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason}): copy the checkpoint again") from error
