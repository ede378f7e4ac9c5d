"""How much the expert that serves a token says about the token's domain, in bits, with error bars over records.

Tokens of a record are not independent: whatever is drawn or permuted here is a cluster, which is a record or the
records of one image together. Domains count alike, whatever the number of their tokens.

Shape suffixes: C clusters, M domains, U routers (or routers by kind of token), K experts, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 1000
_CELLS_AT_ONCE = 8_000_000


def entropy_bits(shares: np.ndarray) -> np.ndarray:
    """-sum_k s_k log2 s_k over the last axis, in bits; NaN where the shares are."""
    safe = np.where(shares > 0, shares, 1.0)
    return np.asarray(np.where(np.isnan(shares).any(-1), np.nan, -(safe * np.log2(safe)).sum(-1)))


def shares_of(served: np.ndarray) -> np.ndarray:
    """``served`` divided by its sum over the last axis; NaN where nothing was served."""
    total = served.sum(-1, keepdims=True)
    return np.divide(served, total, out=np.full(served.shape, np.nan), where=total > 0)


def information_bits(served: np.ndarray) -> np.ndarray:
    """I(expert; domain) = H(mean_m s_m) - mean_m H(s_m), in bits, with s_m a domain's shares and domains alike likely.

    This is the Jensen-Shannon divergence of the domains' shares: 0 where all domains are served alike, log2 of the
    number of domains where the expert names the domain. Domains without a token have no part.

    Args:
        served: [..., M, K] how many tokens of each domain each expert served.

    Returns:
        [...]; NaN where fewer than two domains have tokens.
    """
    shares = shares_of(served)
    is_there = ~np.isnan(shares).any(-1)
    num = is_there.sum(-1)
    weights = is_there / np.maximum(num, 1)[..., None]
    filled = np.where(is_there[..., None], shares, 0.0)
    mean = (filled * weights[..., None]).sum(-2)
    bits = entropy_bits(mean) - (entropy_bits(filled) * weights).sum(-1)
    # Rounding may leave a difference of two equal entropies just below 0.
    return np.asarray(np.where(num >= 2, np.maximum(bits, 0.0), np.nan))


@dataclass(frozen=True)
class Information:
    """Mutual information of expert and domain by router, in bits, each [U].

    Attributes:
        plug_in: of the counts as they are; few records bias it upwards.
        bits: with its bias taken off by the jackknife over clusters.
        low, high: 95 % interval over clusters, by the pivotal bootstrap, widened to hold ``bits``.
        chance_mean, chance_high: mean and 95th percentile of the plug-in where domains are dealt to clusters at random.
        p_value: share of such deals, this one counted in, with at least this plug-in.
        mean: the same of the mean over routers, [1]; None in that itself.
    """

    plug_in: np.ndarray
    bits: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance_mean: np.ndarray
    chance_high: np.ndarray
    p_value: np.ndarray
    mean: Information | None = None


def measure_information(
    served_CUK: np.ndarray, domains_C: np.ndarray, num_domains: int, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Information:
    """Estimate I(expert; domain) of every router, and of their mean.

    - jackknife: I - sum_m (n_m - 1)/n_m sum_{c in m} (I_{-c} - I), n_m the clusters of domain m;
    - bootstrap: clusters are drawn within their domains; the interval is [2 I - q_97.5, 2 I - q_2.5], whose ends carry
      the bias of the plug-in with the opposite sign (Davison and Hinkley 1997, section 5.2), cut to the possible range;
    - chance: domains are permuted over clusters.

    Args:
        served_CUK: tokens that each expert served, by cluster and router.
        domains_C: the domain of each cluster.

    Raises:
        ValueError: no resamples, or a domain with fewer than two clusters.
    """
    sizes_M = np.bincount(domains_C, minlength=num_domains)
    if num_resamples < 1 or sizes_M.min() < 2:
        raise ValueError(f"{num_resamples} resamples of {sizes_M.tolist()} clusters: one and two are the least")
    own_MC = (domains_C == np.arange(num_domains)[:, None]).astype(np.float64)
    plug_in_1U = _weighed(served_CUK, own_MC[None])
    left_CU = _weighed(served_CUK, own_MC[None] * (1 - np.eye(len(domains_C)))[:, None])
    generator = np.random.default_rng(seed)
    drawn_RU = _weighed(served_CUK, _bootstrap(own_MC, sizes_M, num_resamples, generator))
    chance_RU = _weighed(served_CUK, _permuted(domains_C, num_domains, num_resamples, generator))
    factors_C = ((sizes_M - 1) / sizes_M)[domains_C]
    cap = np.log2(min(num_domains, served_CUK.shape[-1]))
    by_router = _summary(plug_in_1U[0], left_CU, drawn_RU, chance_RU, factors_C, cap)
    plug_in_11, left_C1, drawn_R1, chance_R1 = map(_mean_over_routers, (plug_in_1U, left_CU, drawn_RU, chance_RU))
    mean = _summary(plug_in_11[0], left_C1, drawn_R1, chance_R1, factors_C, cap)
    return Information(**{**vars(by_router), "mean": mean})


def _mean_over_routers(values_XU: np.ndarray) -> np.ndarray:
    """[X, 1]; of the routers that have a value."""
    is_there = ~np.isnan(values_XU)
    total_X1 = np.where(is_there, values_XU, 0.0).sum(-1, keepdims=True)
    num_X1 = is_there.sum(-1, keepdims=True)
    return np.divide(total_X1, num_X1, out=np.full(total_X1.shape, np.nan), where=num_X1 > 0)


def _summary(
    plug_in_U: np.ndarray,
    left_CU: np.ndarray,
    drawn_RU: np.ndarray,
    chance_RU: np.ndarray,
    factors_C: np.ndarray,
    cap: float,
) -> Information:
    bits_U = np.clip(plug_in_U - (factors_C[:, None] * (left_CU - plug_in_U)).sum(0), 0.0, cap)
    low_U, high_U = 2 * plug_in_U - np.percentile(drawn_RU, [97.5, 2.5], axis=0)
    # What differs by the rounding of sums alone is as strong as this deal.
    as_strong_U = (chance_RU >= plug_in_U - 1e-12).sum(0)
    return Information(
        plug_in=plug_in_U,
        bits=bits_U,
        low=np.minimum(np.clip(low_U, 0.0, cap), bits_U),
        high=np.maximum(np.clip(high_U, 0.0, cap), bits_U),
        chance_mean=chance_RU.mean(0),
        chance_high=np.percentile(chance_RU, 95, axis=0),
        p_value=np.where(np.isnan(plug_in_U), np.nan, (1 + as_strong_U) / (1 + len(chance_RU))),
    )


def _weighed(served_CUK: np.ndarray, weights_RMC: np.ndarray) -> np.ndarray:
    """The plug-in information [R, U] where cluster c counts ``weights_RMC`` times in domain m."""
    num_clusters, num_routers, num_experts = served_CUK.shape
    at_once = max(1, _CELLS_AT_ONCE // (weights_RMC.shape[0] * weights_RMC.shape[1] * num_experts))
    parts = []
    for start in range(0, num_routers, at_once):
        part_CX = served_CUK[:, start : start + at_once].reshape(num_clusters, -1)
        sums_RMuK = (weights_RMC @ part_CX).reshape(*weights_RMC.shape[:2], -1, num_experts)
        parts.append(information_bits(sums_RMuK.swapaxes(1, 2)))
    return np.concatenate(parts, axis=1)


def _bootstrap(own_MC: np.ndarray, sizes_M: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
    weights_RMC = np.zeros((num, *own_MC.shape))
    for domain, size in enumerate(sizes_M.tolist()):
        places = np.flatnonzero(own_MC[domain])
        weights_RMC[:, domain, places] = generator.multinomial(size, np.full(size, 1 / size), size=num)
    return weights_RMC


def _permuted(domains_C: np.ndarray, num_domains: int, num: int, generator: np.random.Generator) -> np.ndarray:
    dealt_RC = generator.permuted(np.broadcast_to(domains_C, (num, len(domains_C))), axis=1)
    return (dealt_RC[:, None] == np.arange(num_domains)[:, None]).astype(np.float64)
