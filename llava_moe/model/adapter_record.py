"""The base that an adapter's folder was trained on, told in the folder itself: it may be copied out of its run.

Its sizes alone would let it onto another version of the embedded base without a word. ``base.json`` beside the two
files of the adapter holds what ``environment.json`` does of the base; PEFT does not read it.
"""

from __future__ import annotations

import json
from pathlib import Path

from llava_moe.embedded_base import say
from llava_moe.errors import UserError
from llava_moe.files.our_files import read_object
from llava_moe.model.recorded_weights import BaseWeights

ADAPTER_RECORD = "base.json"
TOKENIZER = "tokenizer"
_SHAPE = {"embedded_base?": {"version": int, "fingerprint": str, "parts": {str: str}}}


def record_of_adapter(folder: Path, weights: BaseWeights) -> None:
    """Write ``base.json`` into an adapter's folder."""
    (folder / ADAPTER_RECORD).write_text(json.dumps(weights.record(), indent=2) + "\n", encoding="utf-8")


def refuse_other_adapter(folder: Path, here: BaseWeights, *, has_own_base: bool = False) -> str | None:
    """Refuse an adapter's folder that was trained on another version of the embedded base than is here.

    Other bases than embedded ones have no version: a LoRA of one of them may be meant for its relatives.

    Args:
        has_own_base: the weights of its base lie beside it and are taken; what is left is how text becomes tokens.

    Returns:
        A line to tell of a folder that does not say which base it was trained on; earlier releases and PEFT write such.

    Raises:
        UserError: naming both, or ``base.json`` is damaged.
    """
    if here.embedded is None:
        return None
    path = folder / ADAPTER_RECORD
    told = read_object(path, "put it back, or delete it to go without", _SHAPE) if path.is_file() else {}
    before = told.get("embedded_base")
    if before is None:
        if has_own_base:
            return None
        return f"{folder} does not say of what base it is: whether of {here.embedded}, which is here, cannot be told"
    theirs, ours = before["parts"], here.embedded.parts
    parts = [part for part in here.parts if part == TOKENIZER or not has_own_base]
    if any(theirs[part] != ours.get(part) for part in parts if part in theirs):
        raise UserError(
            f"{folder} was trained on {say(before['version'], before['fingerprint'])}, and this llava-moe has "
            f"{here.embedded}: train it again, or install the llava-moe release whose base it was"
        )
    return None
