"""The atlas of one checkpoint: shares, entropies, dead experts, information and probe, by kind of token.

Shape suffixes: N records, C clusters, M domains, U routers, G kinds of token, K experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llava_moe.analyze.atlas.information import (
    NUM_RESAMPLES,
    Information,
    entropy_bits,
    measure_information,
    shares_of,
)
from llava_moe.analyze.atlas.probe import Probe, probe_domains

ALL_KINDS = "all"
"""All tokens of a record together."""
DEAD_BELOW = 0.05
"""Of the even share 1 / K: an expert with less is called dead."""


@dataclass(frozen=True)
class Measured:
    """What was counted at one checkpoint; records in one order for all checkpoints.

    Attributes:
        step: optimizer steps taken before.
        served_NUGK, doubt_NUG: as in :class:`~llava_moe.analyze.atlas.counts.RecordRouting`.
        changed_NUG: decisions that differ from those at the checkpoint before; None at the first.
    """

    step: int
    served_NUGK: np.ndarray
    doubt_NUG: np.ndarray
    changed_NUG: np.ndarray | None = None


@dataclass(frozen=True)
class RecordSet:
    """The records that were counted.

    Attributes:
        names: the domains.
        domains_N: the domain of each record.
        clusters_N: records of one number show one image: they are drawn and held back together.
    """

    names: tuple[str, ...]
    domains_N: np.ndarray
    clusters_N: np.ndarray


@dataclass(frozen=True)
class KindAtlas:
    """One kind of token at one checkpoint. Where a domain has no such token its numbers are NaN.

    Attributes:
        served_MUK: tokens (or records, decided on as a whole) that each expert served.
        share_MUK: the same as shares of the domain's.
        entropy_MU: of the shares, in bits.
        doubt_MU: mean over decisions of the entropy of what was chosen from, in bits.
        share_UK: mean share over the domains that have tokens.
        is_there_UK: False where a gate has no such expert.
        is_dead_UK: whether that mean is below :data:`DEAD_BELOW` times the even share.
        changed_MU: share of decisions that differ from the checkpoint before; None at the first.
        domains: those with at least two clusters of records with such tokens, in which information and probe are.
        information: of expert and domain by router; None with fewer than two such domains.
        probe: of the domain by the shares of all routers; None likewise.
    """

    served_MUK: np.ndarray
    share_MUK: np.ndarray
    entropy_MU: np.ndarray
    doubt_MU: np.ndarray
    share_UK: np.ndarray
    is_there_UK: np.ndarray
    is_dead_UK: np.ndarray
    changed_MU: np.ndarray | None
    domains: tuple[str, ...]
    information: Information | None
    probe: Probe | None

    @property
    def num_experts_U(self) -> np.ndarray:
        """How many experts each router has."""
        return np.asarray(self.is_there_UK.sum(-1))


def summarize(
    measured: Measured,
    records: RecordSet,
    kinds: Sequence[str],
    num_experts_U: np.ndarray,
    *,
    are_weights: bool = False,
    dead_below: float = DEAD_BELOW,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, KindAtlas]:
    """The atlas by kind of token; where there are several kinds, one of all tokens leads.

    Args:
        kinds: the names of the G.
        num_experts_U: how many experts each router chooses from.
        are_weights: the parts are a gate's weights, of which exactly 0 means that the gate has no such expert.
    """
    if len(kinds) > 1:
        together = [values.sum(2, keepdims=True) for values in (measured.served_NUGK, measured.doubt_NUG)]
        changed = measured.changed_NUG
        whole = None if changed is None else np.concatenate([changed.sum(2, keepdims=True), changed], axis=2)
        measured = replace(
            measured,
            served_NUGK=np.concatenate([together[0], measured.served_NUGK], axis=2),
            doubt_NUG=np.concatenate([together[1], measured.doubt_NUG], axis=2),
            changed_NUG=whole,
        )
        kinds = (ALL_KINDS, *kinds)
    return {
        kind: _of_kind(measured, place, records, num_experts_U, are_weights, dead_below, num_resamples, seed)
        for place, kind in enumerate(kinds)
    }


def _of_kind(
    measured: Measured,
    place: int,
    records: RecordSet,
    num_experts_U: np.ndarray,
    are_weights: bool,
    dead_below: float,
    num_resamples: int,
    seed: int,
) -> KindAtlas:
    served_NUK = measured.served_NUGK[:, :, place]
    own_MN = (records.domains_N == np.arange(len(records.names))[:, None]).astype(np.float64)
    served_MUK = np.tensordot(own_MN, served_NUK, 1)
    num_MU = served_MUK.sum(-1)
    share_MUK = shares_of(served_MUK)
    is_there_UK = np.arange(served_MUK.shape[-1]) < num_experts_U[:, None]
    if are_weights:
        is_there_UK &= (served_MUK > 0).any(0)
    has_tokens_MU = num_MU > 0
    share_UK = np.where(has_tokens_MU[..., None], share_MUK, 0.0).sum(0) / np.maximum(has_tokens_MU.sum(0), 1)[:, None]
    even_U1 = 1 / np.maximum(is_there_UK.sum(-1, keepdims=True), 1)
    names, information, probe = _told_by(served_NUK, records, num_resamples, seed)
    changed = measured.changed_NUG
    return KindAtlas(
        served_MUK=served_MUK,
        share_MUK=share_MUK,
        entropy_MU=entropy_bits(share_MUK),
        doubt_MU=_ratio(np.tensordot(own_MN, measured.doubt_NUG[:, :, place], 1), num_MU),
        share_UK=share_UK,
        is_there_UK=is_there_UK,
        is_dead_UK=is_there_UK & (share_UK < dead_below * even_U1) & has_tokens_MU.any(0)[:, None],
        changed_MU=None if changed is None else _ratio(np.tensordot(own_MN, changed[:, :, place], 1), num_MU),
        domains=names,
        information=information,
        probe=probe,
    )


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)


def _told_by(
    served_NUK: np.ndarray, records: RecordSet, num_resamples: int, seed: int
) -> tuple[tuple[str, ...], Information | None, Probe | None]:
    """What the routing of records says of their domain, among domains where two clusters or more have such tokens."""
    has_tokens_N = served_NUK.sum((1, 2)) > 0
    kept = [
        domain
        for domain in range(len(records.names))
        if len(np.unique(records.clusters_N[has_tokens_N & (records.domains_N == domain)])) > 1
    ]
    names = tuple(records.names[domain] for domain in kept)
    if len(kept) < 2:
        return names, None, None
    is_in_N = has_tokens_N & np.isin(records.domains_N, kept)
    domains_N = np.searchsorted(kept, records.domains_N[is_in_N])
    served_NUK, clusters_N = served_NUK[is_in_N], records.clusters_N[is_in_N]
    served_CUK, domains_C = _by_cluster(served_NUK, clusters_N, domains_N)
    information = measure_information(served_CUK, domains_C, len(kept), num_resamples, seed)
    shares_NF = np.nan_to_num(shares_of(served_NUK)).reshape(len(served_NUK), -1)
    return names, information, probe_domains(shares_NF, domains_N, len(kept), clusters_N, seed)


def _by_cluster(served_NUK: np.ndarray, clusters_N: np.ndarray, domains_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the records of a cluster; a cluster that reaches into two domains is one in each."""
    pairs_N2 = np.stack([domains_N, clusters_N], axis=1)
    found_C2, of_N = np.unique(pairs_N2, axis=0, return_inverse=True)
    served_CUK = np.zeros((len(found_C2), *served_NUK.shape[1:]))
    np.add.at(served_CUK, of_N.ravel(), served_NUK)
    return served_CUK, found_C2[:, 0]


def strongest_routers(atlas: Mapping[str, KindAtlas], kind: str, num: int) -> list[int]:
    """The routers of the highest information of a kind, best first; the first ones where there is none."""
    information = atlas[kind].information
    num_routers = atlas[kind].served_MUK.shape[1]
    if information is None:
        return list(range(min(num, num_routers)))
    order_U = np.argsort(-np.nan_to_num(information.bits, nan=-1.0), kind="stable")
    return [int(one) for one in order_U[:num]]
