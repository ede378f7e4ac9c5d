"""What was found, in words: one sentence a question, the same whatever the answer is."""

from __future__ import annotations

from collections.abc import Sequence

from studies.conflict.contrasts import Contrast, Found

_WHAT = {"loss": "held-out loss", "accuracy": "closed accuracy"}
_UNITS = {"loss": "nats a token", "accuracy": "points"}
_MOST_NAMED = 3
METHODS = {"lora": "LoRA", "llava_mole": "LLaVA-MoLE", "mixlora": "Conditional MixLoRA"}


def method_name(method: str) -> str:
    """A method as it is written."""
    return METHODS.get(method, method)


def signed(contrast: Contrast, number: float) -> str:
    """``+0.012``, in nats, or ``+1.2``, in points."""
    return f"{number:+.3f}" if contrast.measure == "loss" else f"{100 * number:+.1f}"


def interval(contrast: Contrast) -> str:
    """An effect with its interval: ``+0.012 (-0.003 to +0.027)``."""
    effect = contrast.effect
    low, high = signed(contrast, effect.low), signed(contrast, effect.high)
    return f"{signed(contrast, effect.value)} ({low} to {high})"


def sentences(found: Found) -> list[str]:
    """The conflict first, then each mixture against the baseline; empty where no interval can be told yet."""
    told = []
    for one in dict.fromkeys((mean.method, mean.against) for mean in found.means):
        means = [mean for mean in found.means if (mean.method, mean.against) == one]
        told.append(_answer(means, [row for row in found.single if (row.method, row.against) == one]))
    return told


def _answer(means: Sequence[Contrast], single: Sequence[Contrast]) -> str:
    method = method_name(means[0].method)
    domains, ranks = {row.domain for row in single}, {row.rank for row in single}
    over = f"means over {len(domains)} domains, ranks {_listed(sorted(rank for rank in ranks if rank is not None))}"
    over += f" and {min(len(mean.seeds) for mean in means)} seeds, 95 % intervals"
    if means[0].against == "alone":
        verdict = _verdict(
            means,
            f"Domains conflict: {method} trained on all of them does worse on a domain than {method} of that domain "
            "alone",
            f"No conflict: {method} trained on all domains does better on a domain than {method} of it alone",
            f"No conflict was seen: {method} of all domains and of one alone cannot be told apart",
            f"{method} of all domains does worse than of one alone by one measure and better by the other",
        )
        harmed = list(dict.fromkeys(row.domain for row in single if row.is_worse and row.stands))
        if harmed and not any(mean.is_worse for mean in means):
            verdict = (
                f"Domains conflict in part: {method} of all domains does worse on {_listed(harmed)} than {method} "
            )
            verdict += "of it alone, though not in the mean"
        verdict += ", at equal samples of the domain"
    else:
        beside = "LoRA of equal size on the same mix" if means[0].method != "lora" else "the baseline"
        verdict = _verdict(
            means,
            f"{method} does worse than {beside}",
            f"{method} does better than {beside}",
            f"{method} and {beside} cannot be told apart",
            f"{method} does worse than {beside} by one measure and better by the other",
        )
    parts = [f"{_WHAT[mean.measure]} {interval(mean)} {_UNITS[mean.measure]}" for mean in means]
    return f"{verdict}: {' and '.join(parts)}, {over}. {_single(single)}"


def _verdict(means: Sequence[Contrast], worse: str, better: str, neither: str, both: str) -> str:
    is_worse, is_better = any(mean.is_worse for mean in means), any(mean.is_better for mean in means)
    return both if is_worse and is_better else worse if is_worse else better if is_better else neither


def _single(single: Sequence[Contrast]) -> str:
    """How many of the single intervals say what."""
    worse = [row for row in single if row.is_worse]
    better = [row for row in single if row.is_better]
    stand = [row for row in single if row.stands]
    told = f"Of its {len(single)} single intervals {len(worse)} lie on the side of worse and {len(better)} on that of "
    told += f"better; {len(stand)} stand after Holm over all of the page"
    places = [_place(row) for row in stand[:_MOST_NAMED]]
    places += [f"{len(stand) - _MOST_NAMED} more"] if len(stand) > _MOST_NAMED else []
    return told + (f": {_listed(places)}." if stand else ".")


def _place(row: Contrast) -> str:
    return f"{row.measure} of {row.domain} at rank {row.rank}, {interval(row)}"


def _listed(parts: Sequence[object]) -> str:
    *first, last = map(str, parts)
    return f"{', '.join(first)} and {last}" if first else last
