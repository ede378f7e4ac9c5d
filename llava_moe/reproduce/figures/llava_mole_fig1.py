"""LLaVA-MoLE, Fig. 1: what mixing domains costs a LoRA, and what LLaVA-MoLE makes of the same mix."""

from __future__ import annotations

from llava_moe.grid.in_words import interval
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build, models_of
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_ONE = {"label": str, "words": [str]}


def cells(build: Build) -> None:
    """The base, a LoRA of each domain, and each model of the mix, for every seed."""
    setup = build.setup
    base, alone = setup.axis("base", (dict, type(None))), setup.axis("alone", _ONE)
    for seed in setup.seeds:
        if base is not None:
            build.train("base", base["words"], setup.domains, seed)
        for domain in setup.domains:
            build.train("lora", alone["words"], [domain], seed)
        for model, told in models_of(setup).items():
            build.train(model, told["words"], setup.domains, seed)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of domains by models; whether the mix costs the general domain, and whether LLaVA-MoLE keeps it."""
    ways, alone, mixed = _ways(setup)
    lora, mole = mixed["lora"], mixed["llava_mole"]
    general, *_ = setup.domains
    answers = (
        contrast(
            results,
            f"a LoRA of the mix does worse on {general} than a LoRA of {general} alone",
            alone[general],
            lora,
            [general],
            expected="worse",
        ),
        contrast(
            results,
            f"LLaVA-MoLE does better on {general} than a LoRA on the same mix",
            lora,
            mole,
            [general],
            expected="better",
        ),
    )
    ours = {}
    for name, way in [*(("alone", one) for one in alone.values()), *mixed.items()]:
        for domain in setup.domains:
            level = results.level("accuracy", [domain], **way.labels)
            if level is not None and (name != "alone" or way is alone[domain]):
                ours[f"{name} {domain}"] = f"{interval(level, has_sign=False)} % of questions"
    drawing = bar_chart(results, ways, setup.domains, setup.title)
    caption = "Bars are means over seeds, lines 95 % intervals over seeds and items."
    return FigureContent(
        answers=answers,
        pictures=(Picture("bars", drawing, caption),) if drawing else (),
        tables=tuple(level_table(results, ways, setup.domains, kind) for kind in ("accuracy", "loss")),
        contrasts=tuple(_more(setup, results, alone, mixed)),
        ways=(lora, *(way for way in mixed.values() if way is not lora)),
        ours=ours,
    )


def _ways(setup: Setup) -> tuple[list[Ways], dict[str, Ways], dict[str, Ways]]:
    """All ways in the order of the bars; those of a domain alone by domain, those of the mix by model."""
    base, told = setup.axis("base", (dict, type(None))), setup.axis("alone", _ONE)
    alone = {
        domain: Ways(told["label"].format(domain=domain), {"model": "lora", "on": domain}) for domain in setup.domains
    }
    mixed = {name: Ways(one["label"], {"model": name, "on": "mix"}) for name, one in models_of(setup).items()}
    first = [] if base is None else [Ways(base["label"], {"model": "base", "on": "mix"})]
    return [*first, *alone.values(), *mixed.values()], alone, mixed


def _more(setup: Setup, results: Results, alone: dict[str, Ways], mixed: dict[str, Ways]) -> list[Contrast]:
    """Every domain and measure: the mix against one domain alone, each model of the mix against its LoRA."""
    lora, found = mixed["lora"], []
    for kind in ("accuracy", "loss"):
        for domain in setup.domains:
            found.append(contrast(results, "", alone[domain], lora, [domain], kind))
            found += [contrast(results, "", lora, way, [domain], kind) for way in mixed.values() if way is not lora]
    if "llava_mole_hard" in mixed:
        both = (mixed["llava_mole_hard"], mixed["llava_mole"])
        found += [contrast(results, "", *both, setup.domains, kind) for kind in ("accuracy", "loss")]
    return found
