"""Rows of several examples: told by position_ids that restart, and kept apart in the attention.

transformers keeps the examples of a row apart only where it is called without a cache and without an attention mask,
and where the model makes its mask from its positions; otherwise a token sees all before it, and nothing says so.

Shape suffixes: B rows, T tokens.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llava_moe.kv_cache import find_cache


def text_positions(positions: Any) -> Tensor | None:
    """``position_ids`` [B or 1, T] by which a row is packed: of multimodal ones, the leading fourth axis."""
    if not isinstance(positions, Tensor):
        return None
    if positions.ndim == 3 and positions.shape[0] == 4:
        return positions[0]
    return positions if positions.ndim == 2 else None


def example_starts(positions_BT: Tensor, is_token_BT: Tensor) -> Tensor:
    """bool [B, T], where an example starts within a row, by the rule with which transformers builds its packed mask.

    A position that is not its predecessor plus one starts one, unless it goes on after silent tokens.
    """
    starts_BT = torch.zeros_like(is_token_BT)
    starts_BT[:, 1:] = positions_BT[:, 1:] != positions_BT[:, :-1] + 1
    # Nor does a token start an example that goes on after silent ones, as a batch of conversations does.
    columns_T = torch.arange(positions_BT.shape[1], device=positions_BT.device)
    last_BT = torch.where(is_token_BT, columns_T, -1).cummax(1).values[:, :-1].clamp(min=0)
    starts_BT[:, 1:] &= positions_BT[:, 1:] != positions_BT.gather(1, last_BT) + 1
    return starts_BT & is_token_BT


def keep_examples_apart(language_model: nn.Module) -> torch.utils.hooks.RemovableHandle:
    """From now on no call of ``language_model`` lets the examples of one row see each other.

    A call whose ``position_ids`` restart within a row is made without a cache and without a mask that silences nothing,
    as if it had been asked for so. Costs a device synchronisation only where a cache or a mask comes with positions of
    more than one token, or where the model makes its mask from something else.

    Returns:
        the handle that takes this back.

    Raises (the call):
        ValueError: such a row comes with a cache of the caller's, or with a mask that silences some of its tokens; or
            the model does not tell examples apart at all (Falcon, OPT).
    """
    hook = partial(_call_apart, packs=makes_mask_from_positions(type(language_model)))
    return language_model.register_forward_pre_hook(hook, with_kwargs=True)


def makes_mask_from_positions(kind: type[nn.Module]) -> bool:
    """Whether a language model of transformers hands ``position_ids`` to what makes its attention mask.

    Read from the text of its ``forward``, or of one that it inherits: nothing else tells it, and running a model to see
    is dear.
    """
    return any(_hands_positions_to_a_mask(vars(base)["forward"]) for base in kind.__mro__ if "forward" in vars(base))


def _hands_positions_to_a_mask(forward: Any) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(forward)))
    except (OSError, TypeError, SyntaxError):
        return False
    for node in ast.walk(tree):
        keys: set[Any] = set()
        if isinstance(node, ast.Call) and "mask" in ast.unparse(node.func):
            keys = {keyword.arg for keyword in node.keywords}
        elif isinstance(node, ast.Dict):
            # Models with several kinds of mask gather the arguments of all first.
            keys = {key.value for key in node.keys if isinstance(key, ast.Constant)}
        if {"position_ids", "attention_mask"} <= keys:
            return True
    return False


def _call_apart(
    language_model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], packs: bool
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    named = named_arguments(language_model, args, kwargs)
    tokens = named.get("inputs_embeds") if named.get("inputs_embeds") is not None else named.get("input_ids")
    positions, mask = text_positions(named.get("position_ids")), named.get("attention_mask")
    if positions is None or not isinstance(tokens, Tensor) or tokens.shape[1] < 2:
        return None
    rows, length = tokens.shape[:2]
    if positions.shape[-1] != length or (mask is not None and not _is_padding_mask(mask, length)):
        return None  # whoever builds the attention's own mask has said what sees what
    cache = find_cache(named)
    use_cache = named.get("use_cache")
    if use_cache is None:
        use_cache = getattr(getattr(language_model, "config", None), "use_cache", False)
    if packs and mask is None and cache is None and not use_cache:
        return None
    is_token_BT = torch.ones(rows, length, dtype=torch.bool, device=tokens.device)
    if mask is not None:
        is_token_BT = mask[:, -length:].to(tokens.device).bool().expand(rows, length)
    starts_BT = example_starts(positions.to(tokens.device).expand(rows, length), is_token_BT)
    # The first token that is not silent starts an example whatever its position.
    starts_BT &= is_token_BT.cumsum(1) > 1
    if not bool(starts_BT.any()):
        return None
    if not packs:
        raise ValueError(
            f"position_ids restart within a row: it holds several examples, which {type(language_model).__name__} does "
            "not keep apart: give each example a row"
        )
    if cache is not None:
        raise ValueError(
            "position_ids restart within a row: it holds several examples, which a key-value cache cannot keep apart: "
            "call the model with use_cache=False and without a cache, or give each example a row"
        )
    if not bool(is_token_BT.all()) or (mask is not None and mask.shape[-1] != length):
        raise ValueError(
            "position_ids restart within a row: it holds several examples, which transformers does not keep apart "
            "beside an attention_mask with zeros: leave the mask out, or give each example a row"
        )
    apart = {name: value for name, value in named.items() if name != "attention_mask"}
    return (), apart | {"use_cache": False}


def _is_padding_mask(mask: Any, length: int) -> bool:
    return isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[-1] >= length


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    # The class's own forward: another library may have patched the module's.
    given = inspect.signature(type(module).forward).bind_partial(module, *args).arguments if args else {}
    return {**{name: value for name, value in given.items() if value is not module}, **kwargs}
