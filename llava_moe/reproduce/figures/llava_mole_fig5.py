"""LLaVA-MoLE, Fig. 5: how many experts are enough, what more of them give, and where they begin to cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.grid.in_words import interval
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import level_table
from llava_moe.reproduce.build import Build, models_of, note_of_hard
from llava_moe.reproduce.lines import Curve, line_chart
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_ONE = {"label": str, "words": [str]}
_MOLE, _HARD, _EVEN = "llava_mole", "llava_mole_hard", "llava_mole_even"


def cells(build: Build) -> None:
    """A LoRA of the general domain and of the mix, and each model of each number of experts, for every seed."""
    setup = build.setup
    for seed in setup.seeds:
        build.train("lora", setup.axis("alone", _ONE)["words"], setup.domains[:1], seed)
        build.train("lora", setup.axis("lora", _ONE)["words"], setup.domains, seed)
        for model, told in models_of(setup).items():
            for experts in _experts_of(setup, model):
                words = _words(setup, told["words"], experts)
                build.train(model, words, setup.domains, seed, **_label(setup, experts))


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Lines over numbers of experts; whether few suffice, whether more improve, and whether many cost."""
    ways, alone, lora = _ways(setup), *_loras(setup)
    of_mix = [lora, *(way for of_model in ways.values() for way in of_model.values())]
    curves = [Curve(way.name, [(None, way)], domains) for way, domains in ((alone, setup.domains[:1]), (lora, ()))]
    labels = {name: told["label"] for name, told in models_of(setup).items()}
    curves += [
        Curve(labels[name], [(float(experts), way) for experts, way in sorted(_line(setup, ways, name).items())])
        for name in ways
    ]
    drawing = line_chart(results, curves, setup.domains, "experts", setup.title)
    caption = "Bars are 95 % intervals over seeds and items; those of equal parameters meet the others at "
    return FigureContent(
        answers=answers_of(setup, results),
        pictures=(Picture("experts", drawing, f"{caption}{_shared(setup)} experts."),) if drawing else (),
        tables=tuple(level_table(results, [alone, *of_mix], setup.domains, kind) for kind in ("accuracy", "loss")),
        contrasts=tuple(_more(setup, results)),
        ways=tuple(of_mix),
        ours=_ours(setup, results),
        notes=(
            *note_of_hard(setup),
            f"Trained on {', '.join(setup.domains)}: which domains the paper's figure was trained on is not available "
            "to us.",
            f"Equal parameters: the rank goes down as experts are added, so that all are as large as {_shared(setup)} "
            "experts. Equal operations: a kernel that executes one expert a token takes as many operations whatever "
            "the number of experts, but for the router; those told here were executed.",
        ),
    )


def answers_of(setup: Setup, results: Results) -> tuple[Contrast, ...]:
    """The fewest and the shared number against a LoRA on the general domain; then each step up, over all domains."""
    general, (_, lora), mole = setup.domains[0], _loras(setup), _ways(setup)[_MOLE]
    answers = [
        contrast(
            results,
            f"LLaVA-MoLE of {experts} experts does better on {general} than a LoRA on the same mix",
            lora,
            mole[experts],
            [general],
            expected="better",
        )
        for experts in _few(setup)
    ]
    some, many = _more_experts(setup)
    further = f"LLaVA-MoLE of {some} experts does better than of {_shared(setup)}, the mean over domains"
    decline = f"LLaVA-MoLE of {many} experts does worse than of {some}, the mean over domains"
    answers.append(contrast(results, further, mole[_shared(setup)], mole[some], setup.domains, expected="better"))
    answers.append(contrast(results, decline, mole[some], mole[many], setup.domains, expected="worse"))
    return tuple(answers)


def _more(setup: Setup, results: Results) -> list[Contrast]:
    """By measure: each number against the LoRA, domain by domain; hard beside it; more experts of equal parameters."""
    ways, (_, lora), found = _ways(setup), _loras(setup), []
    for kind in ("accuracy", "loss"):
        for experts, mole in ways[_MOLE].items():
            found += [contrast(results, "", lora, mole, [domain], kind) for domain in setup.domains]
            if _HARD in ways:
                found.append(contrast(results, "", ways[_HARD][experts], mole, setup.domains, kind))
        shared = ways[_MOLE][_shared(setup)]
        for of_model in ways.values():
            start = of_model.get(_shared(setup), shared)
            found += [
                contrast(results, "", start, way, setup.domains, kind) for way in of_model.values() if way != start
            ]
    return found


def _ours(setup: Setup, results: Results) -> dict[str, str]:
    """Our differences beside what the article tells in words."""
    general, (_, lora), mole = setup.domains[0], _loras(setup), _ways(setup)[_MOLE]
    some, many = _more_experts(setup)
    pairs: dict[str, list[tuple[int, Ways, Sequence[str]]]] = {
        "few": [(experts, lora, [general]) for experts in _few(setup)],
        "more": [(some, mole[_shared(setup)], setup.domains)],
        "decline": [(many, mole[some], setup.domains)],
    }
    against = {"few": f"a LoRA, on {general}", "more": f"{_shared(setup)} experts", "decline": f"{some} experts"}
    ours = {}
    for name, rows in pairs.items():
        told = []
        for experts, before, domains in rows:
            compared = results.against(before.labels, mole[experts].labels, "accuracy", domains)
            if compared is not None:
                told.append(f"{experts} experts {interval(compared)}")
        if told:
            ours[name] = f"{', '.join(told)} points of accuracy against {against[name]}"
    return ours


def _loras(setup: Setup) -> tuple[Ways, Ways]:
    """The LoRA of the general domain alone, and that of the mix."""
    alone, lora = setup.axis("alone", _ONE)["label"], setup.axis("lora", _ONE)["label"]
    return Ways(alone, {"model": "lora", "on": setup.domains[0]}), Ways(lora, {"model": "lora", "on": "mix"})


def _ways(setup: Setup) -> dict[str, dict[int, Ways]]:
    """Model to number of experts to how it is called."""
    return {
        model: {
            experts: Ways(
                f"{told['label']}, {experts} experts", {"model": model, "on": "mix", **_label(setup, experts)}
            )
            for experts in _experts_of(setup, model)
        }
        for model, told in models_of(setup).items()
    }


def _line(setup: Setup, ways: Mapping[str, Mapping[int, Ways]], model: str) -> dict[int, Ways]:
    """The points of a model; that of equal parameters has the shared number of experts in common with the first."""
    return {_shared(setup): ways[_MOLE][_shared(setup)], **ways[model]}


def _label(setup: Setup, experts: int) -> dict[str, Any]:
    """The number as a label; none where other figures have the same runs."""
    return {} if experts == _shared(setup) else {"experts": f"k{experts}"}


def _words(setup: Setup, words: Sequence[str], experts: int) -> list[str]:
    even = setup.axis("even", {str: int}).get(experts, 0)
    return [word.format(experts=experts, even=even, even_alpha=2 * even) for word in words]


def _experts_of(setup: Setup, model: str) -> tuple[int, ...]:
    experts = setup.axis("even", {str: int}) if model == _EVEN else setup.axis("experts", [int])
    return tuple(sorted(experts))


def _shared(setup: Setup) -> int:
    num: int = setup.axis("shared_experts", int)
    return num


def _few(setup: Setup) -> list[int]:
    return [experts for experts in _experts_of(setup, _MOLE) if experts <= _shared(setup)]


def _more_experts(setup: Setup) -> tuple[int, int]:
    """Some more than the shared number, and the most."""
    more = [experts for experts in _experts_of(setup, _MOLE) if experts > _shared(setup)]
    return more[0], more[-1]
