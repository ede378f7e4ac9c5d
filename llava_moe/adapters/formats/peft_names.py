"""PEFT's tensor names in the words of the model at hand, also where an earlier transformers called its parts otherwise.

Before transformers 4.52 a vision-language model kept its parts at the top: ``language_model.model.layers`` is today's
``model.language_model.layers``. PEFT renames the tensors of a LoRA as transformers does those of a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn

from llava_moe.adapters.core.target_model import ALL_LINEAR, TargetModel
from llava_moe.adapters.core.targets import matching

PREFIX = "base_model.model."
OLD_LANGUAGE_MODEL = "language_model.model."

# (start of an earlier name, today's); tried in order, and taken only where the model has a part of that name.
_RENAMED = (
    (re.compile(r"language_model\.(?=lm_head\.)"), ""),
    (re.compile(re.escape(OLD_LANGUAGE_MODEL)), "model.language_model."),
    (re.compile(r"(?=(?:vision_tower|multi_modal_projector)\.|image_newline$)"), "model."),
)
_TOWER = (".vision_tower.vision_model.", ".vision_tower.")


def names_here(names: Collection[str], model: nn.Module) -> dict[str, str]:
    """The full name in ``model`` of each of PEFT's tensor names; one that is unknown there stays as it is."""
    known = {name for name, _ in model.named_modules()}
    known |= {name for name, _ in model.named_parameters(remove_duplicate=False)}
    plain = {name: name.removeprefix(PREFIX) for name in names}
    taken = set(plain.values())
    here = {}
    for name, given in plain.items():
        candidates = [given] if _owner(given) in known else list(_candidates(given))
        # Where the file has a tensor of that name already, this one is none of the model's.
        injection = [one for one in candidates if _owner(one) in known and (one == given or one not in taken)]
        here[name] = injection[0] if injection else given
    return here


def _candidates(name: str) -> Iterable[str]:
    for start, today in _RENAMED:
        if found := start.match(name):
            moved = today + name[found.end() :]
            yield from (moved, moved.replace(*_TOWER))
    yield name.replace(*_TOWER)


def _owner(name: str) -> str:
    """The module that a LoRA's tensor adapts, or the parameter that a tensor is."""
    return name.partition(".lora_")[0]


def chosen_by_any_name(
    target_model: TargetModel, targets: str | Iterable[str], excluded: str | Iterable[str], modules: Collection[str]
) -> tuple[str, ...] | None:
    """``modules`` in the model's order where ``targets`` names exactly these, by today's names or by the earlier ones.

    Args:
        targets, excluded: as PEFT takes them, written for whichever names the model had then.
        modules: the linears that the folder's tensors adapt, by today's names.
    """
    inside = f"{target_model.language_model_name}."
    earlier = {f"{OLD_LANGUAGE_MODEL}{name.removeprefix(inside)}": name for name in target_model.linears}
    for names in ({name: name for name in target_model.linears}, earlier):
        chosen = list(names) if targets == ALL_LINEAR else matching(names, _as_targets(targets))
        left_out = set(matching(names, _as_targets(excluded)))
        found = tuple(names[name] for name in chosen if name not in left_out)
        if set(found) == set(modules):
            return found
    return None


def _as_targets(targets: Any) -> Any:
    return targets if isinstance(targets, str) else [target for target in targets if isinstance(target, str)]
