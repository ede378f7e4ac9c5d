"""Conditional MixLoRA, Table 1: LoRA and MixLoRA on tasks that their training has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_moe.grid.in_words import interval
from llava_moe.grid.measured import KINDS
from llava_moe.grid.results import Results
from llava_moe.grid.ways import Ways
from llava_moe.pages.content import Picture
from llava_moe.reproduce.bars import bar_chart, level_table
from llava_moe.reproduce.build import Build, models_of
from llava_moe.reproduce.setup import Setup
from llava_moe.reproduce.sheet import Contrast, FigureContent, contrast

_SEEN = "seen"
"""The domains without what is asked."""
_NOTES: Mapping[str, tuple[str, ...]] = {
    "demo": (
        "An unseen task of the paper is a data set that the mixture has not. Here it is a kind of question: {unseen}. "
        "No question of these kinds is trained on; the same pictures are, with their other questions. Val and test "
        "records have these kinds alone, so the held-out loss is theirs, too.",
        "Unseen they are to the instruction tuning. The embedded language model has read questions and answers of the "
        "training split as text, and the captions of stage 1 state what is asked for.",
    ),
    "full": (
        "The tasks are those that the authors' code scores; that Vision-Flan's 187 tasks have none of them is the "
        "paper's claim, which no run here checks.",
        "The paper scores with a judge; here each set is scored by a rule of its own, CIFAR and MNIST by the class's "
        "name in the answer.",
    ),
}
_SCALE_NOTE = (
    "s = lora_alpha / r = 2 for every model. In the released code it is 2E / r for MixLoRA, so that there a step is "
    "larger than the LoRA's."
)


def cells(build: Build) -> None:
    """Each model on the domains without what is asked, for every seed."""
    setup = build.setup
    held_out = _words_without_unseen(setup)
    for seed in setup.seeds:
        for model, told in models_of(setup).items():
            build.train(model, (*told["words"], *held_out), setup.domains, seed, on=_SEEN)


def sheet(setup: Setup, results: Results) -> FigureContent:
    """Bars of unseen tasks by models; whether MixLoRA does better than LoRA of its rank and of a higher one."""
    ways = {name: Ways(told["label"], {"model": name, "on": _SEEN}) for name, told in models_of(setup).items()}
    every, tasks = [*ways.values()], [*setup.measures.scores]
    answers, more = [], []
    for low, high in setup.axis("claims", [[str]]):
        for told in _asked(setup).values():
            claim = f"on {told['label']} {ways[high].name} does better than {ways[low].name}"
            answers.append(contrast(results, claim, ways[low], ways[high], told["tasks"], expected="better"))
        more += _more(results, ways[low], ways[high], tasks)
    drawing = bar_chart(results, every, tasks, setup.title)
    caption = "Bars are means over seeds, lines 95 % intervals over seeds and items."
    unseen = "; ".join(f"{domain}: {', '.join(one.kinds)}" for domain, one in setup.measures.scores.items())
    return FigureContent(
        answers=tuple(answers),
        pictures=(Picture("bars", drawing, caption),) if drawing else (),
        tables=tuple(level_table(results, every, tasks, kind) for kind in KINDS),
        contrasts=tuple(more),
        ways=tuple(every),
        ours=_ours(setup, results, ways),
        notes=(*(note.format(unseen=unseen) for note in _NOTES[setup.scale]), _SCALE_NOTE),
    )


def _words_without_unseen(setup: Setup) -> list[str]:
    """Words that keep questions of the kinds that are scored out of training."""
    words = []
    for domain, sources in setup.samples.items():
        score = setup.measures.scores.get(domain)
        if score is not None and score.kinds:
            (source,) = sources
            path = f"embedded:{domain}.parquet,unseen={'|'.join(score.kinds)}"
            words += [f"data.sources.{source}.format=part", f"data.sources.{source}.path='{path}'"]
    return words


def _asked(setup: Setup) -> Mapping[str, Mapping[str, Any]]:
    return setup.axis("asked", {str: {"label": str, "tasks": [str]}})


def _more(results: Results, low: Ways, high: Ways, tasks: Sequence[str]) -> list[Contrast]:
    """The loss over all tasks, then each task."""
    pairs = [contrast(results, "", low, high, tasks, "loss")]
    return pairs + [contrast(results, "", low, high, [task], kind) for kind in KINDS for task in tasks]


def _ours(setup: Setup, results: Results, ways: Mapping[str, Ways]) -> dict[str, str]:
    ours = {}
    for name, way in ways.items():
        for group, told in _asked(setup).items():
            level = results.level("accuracy", told["tasks"], **way.labels)
            if level is not None:
                ours[f"{name} {group}"] = f"{interval(level, has_sign=False)} % of questions, {told['label']}"
    return ours
