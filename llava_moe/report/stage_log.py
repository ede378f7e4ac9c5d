"""What a stage's folder says about its training: log, configuration, environment, records left out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_moe.errors import UserError


@dataclass(frozen=True)
class StageLog:
    """One stage as its folder holds it; whatever file is missing is empty here.

    ``steps`` are the objects of ``log.jsonl`` in order of their step, ``validations`` those of ``validation.jsonl``,
    ``config`` is the text of ``config.yaml``.
    """

    name: str
    steps: tuple[Mapping[str, Any], ...] = ()
    config: str = ""
    environment: Mapping[str, Any] | None = None
    quarantine: tuple[Mapping[str, Any], ...] = ()
    validations: tuple[Mapping[str, Any], ...] = ()

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


def read_stage(folder: Path) -> StageLog:
    """Read a stage's folder.

    Raises:
        UserError: a file that is there cannot be read.
    """
    steps = {step["step"]: step for step in _read_lines(folder / "log.jsonl") if "step" in step}
    environment = folder / "environment.json"
    config = folder / "config.yaml"
    try:
        return StageLog(
            name=folder.name,
            steps=tuple(steps[number] for number in sorted(steps)),
            config=config.read_text(encoding="utf-8") if config.exists() else "",
            environment=json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else None,
            quarantine=tuple(_read_lines(folder / "quarantine.jsonl")),
            validations=tuple(_read_lines(folder / "validation.jsonl")),
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the stage in {folder}: {error}; mend or delete the file named") from error


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; a last line without its end was cut short and is left out."""
    if not path.exists():
        return []
    *lines, _cut_short = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in lines if line]
    except ValueError as error:
        raise UserError(f"{path} has a line that is not JSON ({error}); mend or delete it") from error


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
