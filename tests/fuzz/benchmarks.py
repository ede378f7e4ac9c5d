"""Benchmarks' files as their sources publish them, changed: opened, their pictures read, constant answers scored."""

from __future__ import annotations

from pathlib import Path
from random import Random

from PIL import Image

from tests.eval.tasks.published import LAYOUTS, MIXLORA, write_mixlora
from tests.fuzz.case import Attempt
from tests.fuzz.texts import ELSEWHERE, FORBIDDEN, OUTSIDE
from tests.fuzz.tree import change_files

MOST_OPENED = 20
ANSWERS = ("yes", "", "A", "12%")


class Benchmarks:
    """One benchmark in one of its layouts."""

    name = "benchmarks"

    def prepare(self, folder: Path) -> None:
        self._layouts = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]
        self._layouts += [(name, "mixlora") for name in MIXLORA]

    def draw(self, random: Random, folder: Path) -> Attempt:
        name, layout = random.choice(self._layouts)
        place = folder / "in" / "data"
        place.mkdir(parents=True)
        given = write_mixlora(name, place) if layout == "mixlora" else LAYOUTS[name][layout](place)
        (folder / ELSEWHERE).write_text('[{"id": 1}]')
        for above in (folder, folder / "in", place):
            Image.new("RGB", (9, 9)).save(above / OUTSIDE)
        files = sorted(path for path in place.rglob("*") if path.is_file() and path.name != OUTSIDE)
        (place / OUTSIDE).unlink()
        pictures = [path for path in files if path.suffix in (".png", ".jpg")]
        if pictures and random.random() < 0.2:
            told = change_files(random, pictures, folder / OUTSIDE)
        else:
            told = change_files(random, [path for path in files if path not in pictures], folder / ELSEWHERE)
        may_not_read = (folder / OUTSIDE, folder / "in" / OUTSIDE, *map(Path, FORBIDDEN))
        protocol = "mixlora" if layout == "mixlora" else random.choice(("llava_1_5", "lmms_eval"))
        run = lambda: _score_all(name, str(given), protocol, folder / "cache")  # noqa: E731
        return Attempt(run, f"{name} as {layout}, protocol {protocol}, after {told}", (), may_not_read)


def _score_all(name: str, place: str, protocol: str, cache: Path) -> int:
    from llava_moe.data.conversation import BadRecord
    from llava_moe.data.images.transform import ImageTransform, open_image
    from llava_moe.errors import UserError
    from llava_moe.eval.benchmark import Answer
    from llava_moe.eval.tasks import Places, open_benchmark

    transform = ImageTransform(32)
    try:
        benchmark = open_benchmark(name, protocol=protocol, places=Places(paths={name: place}, cache=cache))
    except UserError:
        return 2
    answers = {}
    for number, question in enumerate(benchmark.questions()):
        text = ANSWERS[number % len(ANSWERS)]
        answers[question.id] = Answer(question.id, text, question.references, benchmark.score(question, text))
        try:
            for image in question.images if number < MOST_OPENED else ():
                transform(open_image(image))
        except BadRecord:
            continue
    benchmark.summarize(answers)
    benchmark.notes()
    benchmark.submission(answers)
    return 0
