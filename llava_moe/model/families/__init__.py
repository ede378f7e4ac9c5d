"""Families of vision-language models: one file per family says what differs from the others."""

from __future__ import annotations

from llava_moe.errors import UserError
from llava_moe.model.architecture import Architecture, name_of
from llava_moe.model.families.llava import LLAVA
from llava_moe.model.families.protocol import BaseFacts, Family, PartNames

__all__ = ["FAMILIES", "LLAVA", "BaseFacts", "Family", "PartNames", "family_of"]

FAMILIES: list[Family] = [LLAVA]
"""Every family that a model may be of; the first that takes an architecture builds it."""


def family_of(architecture: Architecture) -> Family:
    """The family that an architecture is built by.

    Raises:
        UserError: there is none.
    """
    for family in FAMILIES:
        if family.takes(architecture):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise UserError(f"model {name_of(architecture)} is of no family that is known here: {known}")
