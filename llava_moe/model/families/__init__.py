"""Families of vision-language models: one file per family says what differs from the others."""

from __future__ import annotations

from llava_moe.model.families.llava import LLAVA
from llava_moe.model.families.protocol import BaseFacts, Family, PartNames
from llava_moe.model.families.registry import ARCHITECTURES, FAMILIES, family_of

__all__ = ["ARCHITECTURES", "FAMILIES", "LLAVA", "BaseFacts", "Family", "PartNames", "family_of"]
