"""Who served the tokens of one record, by router and kind of token.

Shape suffixes: T tokens of the record, U routers, G kinds of token, K experts, X decisions (T, or 1 for a record).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from llava_moe.adapters.core.load_balance import AnyRouting
from llava_moe.adapters.core.router import ExampleRouting, Routing
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.data.encode import IGNORED

KINDS = ("image", "prompt", "answer")
"""Places of an image; text that is read alone; text that is learned. A token counts where the router reads it."""
WHOLE = "record"
"""The one kind there is where a record is decided on as a whole."""
_NATS_TO_BITS = 1 / np.log(2)


@dataclass(frozen=True)
class Router:
    """One thing that decides.

    Attributes:
        name: as :meth:`~llava_moe.adapters.Attached.routings` calls it.
        layer: its decoder layer; -1 where it stands in none.
        part: what of the layer it decides for, such as ``mlp`` or ``self_attn.q_proj.A``.
    """

    name: str
    layer: int
    part: str

    @staticmethod
    def of(name: str) -> Router:
        """Read layer and part from a name."""
        inside = re.sub(r"(^|\.)expert_gate$", "", name)
        layer = TargetModel.layer_of(f"{inside}.")
        block = TargetModel.block_of(f"{inside}.")
        part = inside if block is None else inside[len(block) :].lstrip(".")
        return Router(name, -1 if layer is None else layer, part or ("model" if layer is None else "block"))


@dataclass(frozen=True)
class RecordRouting:
    """What all routers decided on one record.

    Attributes:
        served_UGK: float64, how many tokens of a kind each expert served, a token that several serve in parts; where a
            record is decided on as a whole it is one decision of the one kind ``record``.
        doubt_UG: float64, the sum over those of the entropy, in bits, of what was chosen from.
        kinds_T: int8, the kind of each token.
        parts_UXK: float32, the part of each expert in each decision, to compare with another checkpoint's; an integer
            ``chosen_UT`` in its place where each token has one expert.
        chosen_UT: int16, the one expert of each token; None where there is no such.
    """

    served_UGK: np.ndarray
    doubt_UG: np.ndarray
    kinds_T: np.ndarray
    parts_UXK: np.ndarray | None
    chosen_UT: np.ndarray | None


def kinds_of(input_ids_T: np.ndarray, labels_T: np.ndarray, image_token_id: int) -> np.ndarray:
    """The kind of each token of a record, int8 [T], as places in :data:`KINDS`."""
    kinds_T = np.where(labels_T != IGNORED, 2, 1).astype(np.int8)
    kinds_T[input_ids_T == image_token_id] = 0
    return kinds_T


def decides_by_record(routings: Mapping[str, AnyRouting]) -> bool:
    """Whether the routers of a pass over one record decided on it as a whole.

    Raises:
        ValueError: some did and some did not.
    """
    whole = {isinstance(one, ExampleRouting) and len(one.probs_SK) == 1 for one in routings.values()}
    if len(whole) != 1:
        raise ValueError("routers that decide by token and by record stand in one model")
    return whole.pop()


def num_experts_of(routings: Mapping[str, AnyRouting]) -> np.ndarray:
    """How many experts each router chooses from, int64 [U]."""
    probs = [one.probs_SK if isinstance(one, ExampleRouting) else one.probs_BTK for one in routings.values()]
    return np.array([one.shape[-1] for one in probs])


def count_record(routings: Mapping[str, AnyRouting], kinds_T: np.ndarray) -> RecordRouting:
    """Count the decisions of a forward pass over one record alone.

    A decision for several experts counts in equal parts for each that was chosen, or by the weights where all serve.

    A router that chooses from fewer experts than another has zeros in the place of the rest.

    Raises:
        ValueError: they were not given this record alone.
    """
    if decides_by_record(routings):
        parts = [_parts(one) for one in routings.values() if isinstance(one, ExampleRouting)]
        doubts = [_entropy(one.probs_SK) for one in routings.values() if isinstance(one, ExampleRouting)]
        parts_U1K, doubt_U1 = _stacked(parts), np.stack(doubts)
        return RecordRouting(parts_U1K, doubt_U1, kinds_T, parts_U1K.astype(np.float32), None)
    doubt_UT = np.stack([_token_doubt(name, one, len(kinds_T)) for name, one in routings.items()])
    in_kind_TG = (kinds_T[:, None] == np.arange(len(KINDS))).astype(np.float64)
    singles = [one for one in routings.values() if isinstance(one, Routing)]
    chosen = [one.chosen_BT.flatten().cpu().numpy().astype(np.int16) for one in singles]
    if len(chosen) == len(routings):
        chosen_UT = np.stack(chosen)
        parts_UTK = (chosen_UT[..., None] == np.arange(num_experts_of(routings).max())).astype(np.float64)
        kept = None
    else:
        parts_UTK = _stacked([_token_parts(one) for one in routings.values()])
        chosen_UT, kept = None, parts_UTK.astype(np.float32)
    served_UGK = in_kind_TG.T @ parts_UTK
    return RecordRouting(served_UGK, doubt_UT @ in_kind_TG, kinds_T, kept, chosen_UT)


def changed_parts(before: RecordRouting, after: RecordRouting) -> np.ndarray:
    """How much of each kind's tokens goes to another expert than before, summed over tokens: float64 [U, G].

    Of one decision it is half the sum over experts of the difference of their parts: 0 or 1 where a token has one
    expert, the share of factors that were exchanged where it has several.

    Raises:
        ValueError: the two are of different records.
    """
    if not np.array_equal(before.kinds_T, after.kinds_T):
        raise ValueError("the routings of two records cannot be compared")
    if before.chosen_UT is not None and after.chosen_UT is not None:
        moved_UX = (before.chosen_UT != after.chosen_UT).astype(np.float64)
    elif before.parts_UXK is not None and after.parts_UXK is not None:
        moved_UX = np.abs(before.parts_UXK.astype(np.float64) - after.parts_UXK).sum(-1) / 2
    else:
        raise ValueError("the routings of two methods cannot be compared")
    if moved_UX.shape[1] == 1 != len(before.kinds_T):
        return moved_UX
    return np.asarray(moved_UX @ (before.kinds_T[:, None] == np.arange(len(KINDS))))


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    most = max(one.shape[-1] for one in parts)
    return np.stack([np.pad(one, ((0, 0), (0, most - one.shape[-1]))) for one in parts])


def _entropy(probs_XK: torch.Tensor) -> np.ndarray:
    """In bits, float64 [X]."""
    return torch.special.entr(probs_XK.double()).sum(-1).cpu().numpy() * _NATS_TO_BITS


def _parts(routing: ExampleRouting) -> np.ndarray:
    """The part of each expert in each of the S decisions, float64 [S, K]."""
    if routing.chosen_SC is None:
        return routing.probs_SK.double().cpu().numpy()
    num_experts = routing.probs_SK.shape[-1]
    return torch.nn.functional.one_hot(routing.chosen_SC, num_experts).double().mean(1).cpu().numpy()


def _token_parts(routing: AnyRouting) -> np.ndarray:
    if isinstance(routing, Routing):
        num_experts = routing.probs_BTK.shape[-1]
        return torch.nn.functional.one_hot(routing.chosen_BT.flatten(), num_experts).double().cpu().numpy()
    return _parts(routing)[routing.segments_BT.flatten().cpu().numpy()]


def _token_doubt(name: str, routing: AnyRouting, num_tokens: int) -> np.ndarray:
    if isinstance(routing, Routing):
        doubt_T = _entropy(routing.probs_BTK.flatten(0, -2))
    else:
        segments_T = routing.segments_BT.flatten().cpu().numpy()
        if (segments_T < 0).any():
            raise ValueError("a token of the record belongs to no decision")
        doubt_T = _entropy(routing.probs_SK)[segments_T]
    if len(doubt_T) != num_tokens:
        raise ValueError(f"{name} routed {len(doubt_T)} tokens, the record has {num_tokens}")
    return doubt_T
