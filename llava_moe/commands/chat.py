"""``llava-moe chat``: talk to a run, or to a Hugging Face LLaVA checkpoint, about images."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from llava_moe.chat.answer import Decoding
from llava_moe.chat.line import image_path
from llava_moe.chat.session import Session, open_picture
from llava_moe.chat.terminal import Terminal
from llava_moe.data.images.transform import ImageTransform
from llava_moe.runs.console import say_notes
from llava_moe.runs.image_reading import reading_asked
from llava_moe.terminal.console import VisibleConsole

if TYPE_CHECKING:
    from llava_moe.assemble import Assembled


def chat(plain: Mapping[str, Any]) -> int:
    """Talk, or answer the one question."""
    try:
        return _talk(plain)
    except KeyboardInterrupt:
        sys.stderr.write("llava-moe: interrupted\n")
        return 130


def _talk(plain: Mapping[str, Any]) -> int:
    image = None if plain["image"] is None else image_path(plain["image"])
    if image is not None:
        open_picture(image, ImageTransform())
    if plain["num_threads"] is not None:
        torch.set_num_threads(int(plain["num_threads"]))
    transformers.utils.logging.disable_progress_bar()
    is_interactive = plain["prompt"] is None and sys.stdin.isatty()
    with VisibleConsole(stderr=True).status("loading the model"):
        assembled = _open(plain)
    say_notes(VisibleConsole(stderr=True), assembled.notes)
    decoding = Decoding(**{field.name: plain[field.name] for field in dataclasses.fields(Decoding)})
    session = Session(assembled.model, assembled.encoder, assembled.attached, decoding)
    terminal = Terminal(session, decoding.max_new_tokens, is_interactive)
    torch.manual_seed(plain["seed"])
    if image is not None:
        terminal.attach(image)
    if plain["prompt"] is None:
        return terminal.talk(_welcome(plain, assembled, session))
    terminal.answer(plain["prompt"])
    return 0


def _open(plain: Mapping[str, Any]) -> Assembled:
    from llava_moe.assemble import restore
    from llava_moe.runs.scored_model import open_named

    if plain["run"] is None:
        return open_named(plain["model"], plain["dtype"], reading=reading_asked(plain["data"]))
    return restore(plain["run"], dtype=plain["dtype"])


def _welcome(plain: Mapping[str, Any], assembled: Assembled, session: Session) -> str:
    """What one talks to, and what to type."""
    from llava_moe.files.checkpoints import newest_checkpoint

    if plain["run"] is None:
        template = assembled.encoder.template
        asked = "its chat template" if template.kind == "chat" else "LLaVA-1.5's format"
        source = f"{plain['model']['path']} by {asked}"
    else:
        checkpoint = newest_checkpoint(Path(plain["run"]))
        source = f"{checkpoint.parent.parent} at {checkpoint.name}"
    parameter = next(assembled.model.parameters())
    where = f"{str(parameter.dtype).removeprefix('torch.')} on {parameter.device.type}"
    first = (
        "It captions images: drag one into this window, or type its path."
        if session.captions
        else "Ask a question; drag an image into this window, or type its path, to ask about it."
    )
    return f"{source}, {_name_of(assembled)}, {where}\n{first} /help tells more; Ctrl-D leaves."


def _name_of(assembled: Assembled) -> str:
    """The adapter with those of its settings that are not the defaults and fit a line."""
    if not assembled.has_adapter:
        return "no adapter"
    config: Any = assembled.attached.config
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    settings = [f"{name}={value}" for name, value in values.items() if name == "r" or value != defaults[name]]
    return f"{type(config).__name__}({', '.join(setting for setting in settings if len(setting) <= 32)})"
