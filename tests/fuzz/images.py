"""Picture files of any format and size, changed: opened and brought to the tower's size, or asked about in a chat."""

from __future__ import annotations

from pathlib import Path
from random import Random

from PIL import Image

from tests.fuzz.case import Attempt
from tests.fuzz.commands import TINY, command, run_in, write_own_data
from tests.fuzz.pictures import mutate_picture
from tests.fuzz.places import misplace
from tests.fuzz.texts import FORBIDDEN, OUTSIDE
from tests.fuzz.tree import copy_tree

NAMES = ("photo.jpg", "photo.png", "photo.tif", "photo.tif.2", "photo.gif", "photo", "photo.eps", "photo.tga", "p.webp")
ASK = ("chat", "run=run", "prompt=What is it?", "max_new_tokens=2", "num_threads=1")


class Images:
    """One picture under one of many names, opened as a file or as bytes."""

    name = "images"

    def prepare(self, folder: Path) -> None:
        write_own_data(folder)
        run_in(folder, "train", *TINY, "train.max_steps=1", "out=run")
        self._good = folder
        self._picture = (folder / "pictures" / "0.png").read_bytes()

    def draw(self, random: Random, folder: Path) -> Attempt:
        asks = random.random() < 0.05
        if asks:
            copy_tree(self._good / "run", folder / "run")
        (folder / "in").mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(folder / OUTSIDE)
        path = folder / "in" / random.choice(NAMES)
        told = "mutate_picture"
        path.write_bytes(mutate_picture(random, self._picture))
        if random.random() < 0.05:
            told = misplace(random, path, [], folder / OUTSIDE)
        may_not_read = (folder / OUTSIDE, *map(Path, FORBIDDEN))
        if asks:
            return Attempt(command((*ASK, f"image={path}")), f"{' '.join(ASK)} image={path}: {told}", (folder,))
        mode = random.choice(("pad", "crop"))
        data = path.read_bytes() if told == "mutate_picture" and random.random() < 0.2 else None
        about = f"open {path.name}{'' if data is None else ' as bytes'} and {mode}: {told}"
        return Attempt(lambda: _open(path, data, mode), about, (), may_not_read)


def _open(path: Path, data: bytes | None, mode: str) -> int:
    from llava_moe.data.conversation import BadRecord
    from llava_moe.data.images.transform import ImageTransform, open_image

    try:
        if data is None:
            image = open_image(path.name, str(path.parent))
        else:
            image = open_image(data)
        pixels = ImageTransform(336, mode)(image)  # type: ignore[arg-type]
    except BadRecord:
        return 2
    assert pixels.shape == (3, 336, 336)
    return 0
