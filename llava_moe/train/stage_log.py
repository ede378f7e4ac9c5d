"""What a stage's folder says about its training: log, configuration, environment, records left out."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_moe.files.our_files import MAYBE_NUMBER, NUMBER, damaged_beside, read_object, read_sound_objects, read_text
from llava_moe.text.secrets import without_secrets


@dataclass(frozen=True)
class StageLog:
    """One stage as its folder holds it; whatever file is missing is empty here.

    ``steps`` are the objects of ``log.jsonl`` in order of their step, ``validations`` those of ``validation.jsonl``,
    ``config`` is the text of ``config.yaml``, free of secrets that an earlier release kept there, ``damaged`` says
    which lines of these files could not be read.
    """

    name: str
    steps: tuple[Mapping[str, Any], ...] = ()
    config: str = ""
    environment: Mapping[str, Any] | None = None
    quarantine: tuple[Mapping[str, Any], ...] = ()
    validations: tuple[Mapping[str, Any], ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains with supervised tokens, in order of first appearance."""
        names: dict[str, None] = {}
        for step in self.steps:
            names.update(dict.fromkeys(step.get("domains", {})))
        return tuple(names)

    @property
    def has_held_out_loss(self) -> bool:
        """Whether records that were not trained on were measured on the way."""
        return any(one.get("domains") for one in self.validations)

    @property
    def seconds(self) -> float:
        """Time spent in the logged steps."""
        return float(sum(step.get("seconds", 0.0) for step in self.steps))


@dataclass(frozen=True)
class DomainAccount:
    """What a domain gave to a stage, summed over the logged steps."""

    domain: str
    samples: int
    supervised_tokens: int
    left_out: int


@dataclass(frozen=True)
class ExpertShares:
    """Where a layer's tokens went: ``shares[domain][expert]`` sums to 1 over experts; entropy is in nats."""

    layer: str
    shares: Mapping[str, tuple[float, ...]]
    entropy: Mapping[str, float]


REMEDY = "fix or delete that file"
_LEDGER = {"loss?": MAYBE_NUMBER, "samples?": NUMBER, "supervised_tokens?": NUMBER}
_ROUTED = {"share": [MAYBE_NUMBER], "entropy": MAYBE_NUMBER}
_MEASURED = ("loss", "load_balance_loss", "objective", "learning_rate", "grad_norm", "padding_share")
_COUNTED = ("tokens", "supervised_tokens", "seconds", "samples", "peak_memory_bytes", "epoch", "tokens_per_second")
STEP = {
    "step?": int,
    **{f"{name}?": MAYBE_NUMBER for name in _MEASURED},
    **{f"{name}?": NUMBER for name in _COUNTED},
    "domains?": {str: _LEDGER},
    "experts?": {str: {str: _ROUTED}},
}
"""A line of ``log.jsonl``."""
VALIDATION = {
    "step": int,
    "held_out_loss?": MAYBE_NUMBER,
    "domains?": {str: _LEDGER},
    "benchmarks": {str: {str: MAYBE_NUMBER}},
}
"""A line of ``validation.jsonl``."""


ACCOUNTS: Mapping[str, Any] = {
    "log.jsonl": STEP | {"step": int},
    "validation.jsonl": VALIDATION,
    "quarantine.jsonl": {},
}
"""Files of a line an object that tell of a run without being part of it: one bad line costs that line."""


def read_stage(folder: Path) -> StageLog:
    """Read a stage's folder; of its accounts, what can be read.

    Raises:
        UserError: a file that is there cannot be read.
    """
    found, damaged = {}, []
    for name, shape in ACCOUNTS.items():
        found[name], lost = read_sound_objects(folder / name, REMEDY, shape)
        if num_lost := len(lost) + _num_set_aside(folder / name):
            damaged.append(_told(name, num_lost, found[name]))
    steps = {step["step"]: step for step in found["log.jsonl"]}
    environment, config = folder / "environment.json", folder / "config.yaml"
    return StageLog(
        name=folder.name,
        steps=tuple(steps[number] for number in sorted(steps)),
        config=without_secrets(read_text(config, REMEDY)) if config.exists() else "",
        environment=read_object(environment, REMEDY) if environment.exists() else None,
        quarantine=tuple(found["quarantine.jsonl"]),
        validations=tuple(found["validation.jsonl"]),
        damaged=tuple(damaged),
    )


def _num_set_aside(path: Path) -> int:
    return sum(map(len, read_sound_objects(damaged_beside(path), REMEDY)))


def _told(name: str, num_lost: int, kept: Sequence[Mapping[str, Any]]) -> str:
    lines = "1 line" if num_lost == 1 else f"{num_lost:,} lines"
    gaps = missing_steps([one["step"] for one in kept]) if name == "log.jsonl" else []
    shown = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in gaps[:5])
    more = f" and {len(gaps) - 5} more stretches" if len(gaps) > 5 else ""
    return f"{lines} of {name}" + (f"; missing here: step {shown}{more}" if gaps else "")


def missing_steps(logged: Sequence[int]) -> list[tuple[int, int]]:
    """The first and last step of each stretch that a log lacks, whatever the distance between two of its lines."""
    steps = [0, *sorted(set(logged))]
    # The last step of a run is logged whatever its number.
    apart = math.gcd(*(b - a for a, b in itertools.pairwise(steps[:-1] if len(steps) > 2 else steps))) or 1
    return [(a + apart, b - 1 - (b - 1) % apart) for a, b in itertools.pairwise(steps) if b - a > apart]


def account_domains(stage: StageLog) -> tuple[DomainAccount, ...]:
    """Samples and supervised tokens of each domain over the logged steps, and its records left out."""
    samples: Counter[str] = Counter()
    supervised: Counter[str] = Counter()
    left_out = Counter(str(record.get("domain", "")) for record in stage.quarantine)
    for step in stage.steps:
        for domain, ledger in step.get("domains", {}).items():
            samples[domain] += ledger.get("samples", 0)
            supervised[domain] += ledger.get("supervised_tokens", 0)
    names = dict.fromkeys([*stage.domains, *left_out])
    return tuple(DomainAccount(name, samples[name], supervised[name], left_out[name]) for name in names)


def count_reasons(stage: StageLog) -> tuple[tuple[str, str, int], ...]:
    """(source, reason, records) of what was left out, most frequent first."""
    counts = Counter((str(record.get("source")), str(record.get("reason"))) for record in stage.quarantine)
    return tuple((source, reason, number) for (source, reason), number in counts.most_common())


def last_expert_shares(stage: StageLog, last: int = 50) -> tuple[ExpertShares, ...]:
    """Mean share of each expert and mean entropy, by layer and domain, of the last ``last`` steps with any."""
    logged = [step["experts"] for step in stage.steps if step.get("experts")][-last:]
    sums: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for experts in logged:
        for layer, domains in experts.items():
            for domain, routed in domains.items():
                if None not in (*routed["share"], routed["entropy"]):  # of a step that was not finite
                    sums[layer][domain].append(routed)
    return tuple(
        ExpertShares(
            layer=layer,
            shares={domain: _mean_shares([one["share"] for one in routed]) for domain, routed in domains.items()},
            entropy={domain: sum(one["entropy"] for one in routed) / len(routed) for domain, routed in domains.items()},
        )
        for layer, domains in sums.items()
    )


def _mean_shares(shares: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(sum(of_expert) / len(shares) for of_expert in zip(*shares, strict=True))
