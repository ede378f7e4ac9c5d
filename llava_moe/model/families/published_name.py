"""What published folders call a tensor of a family's model."""

from __future__ import annotations

from llava_moe.errors import UserError
from llava_moe.model.families.protocol import Family


def published_name(name: str, family: Family) -> str:
    """The published name of a tensor, such as ``language_model.model.norm.weight``, from its name in memory.

    Raises:
        UserError: published folders have no such tensor.
    """
    for root, published in family.published_roots.items():
        if name.startswith(root):
            return published + name.removeprefix(root)
    raise UserError(
        f"the model holds {name}, which published {family.name} folders have no name for: export another base"
    )
