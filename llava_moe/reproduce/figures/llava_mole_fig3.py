"""LLaVA-MoLE, Fig. 3: what each mixture of domains costs a LoRA, and what LLaVA-MoLE makes of the same mixture."""

from __future__ import annotations

from collections.abc import Mapping

from llava_moe.grid.in_words import interval, shown
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture, Table
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build, models_of, note_of_hard
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_ONE = {"label": str, "words": [str]}


def cells(build: Build) -> None:
    """A LoRA of each domain, and each model of each mixture, for every seed."""
    setup = build.setup
    alone = setup.axis("alone", _ONE)
    for seed in setup.seeds:
        for domain in setup.domains:
            build.train("lora", alone["words"], [domain], seed)
        for mixture, times in _mixtures(setup).items():
            scale = [f"domain_scale={{{domain}: {num}}}" for domain, num in times.items() if num != 1]
            for model, told in models_of(setup).items():
                build.train(model, (*told["words"], *scale), list(times), seed, on=mixture)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars for each mixture; whether it costs the general domain, and whether LLaVA-MoLE keeps it."""
    general, *_ = setup.domains
    alone = _alone(setup)
    answers: list[Contrast] = []
    more: list[Contrast] = []
    pictures: list[Picture] = []
    tables: list[Table] = []
    ours: dict[str, str] = {}
    for mixture, times in _mixtures(setup).items():
        of_mix = _of_mixture(setup, mixture)
        told = " + ".join(domain if num == 1 else f"{num} x {domain}" for domain, num in times.items())
        lora, mole = of_mix["lora"], of_mix["llava_mole"]
        cost = f"a LoRA of {told} does worse on {general} than a LoRA of {general} alone"
        cure = f"LLaVA-MoLE does better on {general} than a LoRA on {told}"
        answers.append(contrast(results, cost, alone[general], lora, [general], expected="worse"))
        answers.append(contrast(results, cure, lora, mole, [general], expected="better"))
        for kind in ("accuracy", "loss"):
            for domain in times:
                more.append(contrast(results, "", alone[domain], lora, [domain], kind))
                more += [contrast(results, "", lora, way, [domain], kind) for way in of_mix.values() if way is not lora]
        ways = [*(alone[domain] for domain in times), *of_mix.values()]
        drawing = bar_chart(results, ways, list(times), f"{setup.title}: {told}")
        if drawing:
            caption = f"Trained on {told}, beside each of its domains alone."
            pictures.append(Picture(f"bars_{mixture}", drawing, caption))
        tables.append(level_table(results, ways, list(times), "accuracy", told))
        ours |= _ours(results, mixture, list(times), of_mix)
    ours |= _told(results, setup, alone, general)
    return FigureContent(
        answers=tuple(answers),
        pictures=tuple(pictures),
        tables=tuple(tables),
        contrasts=tuple(more),
        ways=tuple(_of_mixture(setup, "mix").values()),
        ours=ours,
        notes=note_of_hard(setup),
    )


def _ours(results: Results, mixture: str, domains: list[str], of_mix: Mapping[str, Ways]) -> dict[str, str]:
    ours = {}
    for name, way in of_mix.items():
        for domain in domains:
            level = results.level("accuracy", [domain], **way.labels)
            if level is not None:
                ours[f"{name} {mixture} {domain}"] = f"{interval(level, has_sign=False)} % of questions"
    return ours


def _told(results: Results, setup: Setup, alone: Mapping[str, Ways], general: str) -> dict[str, str]:
    """Our numbers beside what the article tells in words: levels alone, and the range of what mixing costs."""
    ours = {}
    level = results.level("accuracy", [general], **alone[general].labels)
    if level is not None:
        ours["alone general"] = f"{interval(level, has_sign=False)} % of questions"
    costs = {}
    for mixture in _mixtures(setup):
        lora = _of_mixture(setup, mixture)["lora"]
        compared = results.against(alone[general].labels, lora.labels, "accuracy", [general])
        if compared is not None:
            costs[mixture] = compared.before - compared.after
    if costs:
        low, high = (shown("accuracy", end) for end in (min(costs.values()), max(costs.values())))
        ours["range"] = f"{low} to {high} points of accuracy over {len(costs)} mixtures"
    if {"mix", "double_documents"} <= set(costs):
        further = shown("accuracy", costs["double_documents"] - costs["mix"])
        ours["more documents"] = f"{further} points of accuracy"
    return ours


def _alone(setup: Setup) -> dict[str, Ways]:
    label = setup.axis("alone", _ONE)["label"]
    return {domain: Ways(label.format(domain=domain), {"model": "lora", "on": domain}) for domain in setup.domains}


def _of_mixture(setup: Setup, mixture: str) -> dict[str, Ways]:
    return {name: Ways(one["label"], {"model": name, "on": mixture}) for name, one in models_of(setup).items()}


def _mixtures(setup: Setup) -> Mapping[str, Mapping[str, int]]:
    return setup.axis("mixtures", {str: {str: int}})
