"""A mixture of three sources in which every kind of fault stands at a known place; the rest is clean."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import ExifTags, Image

NUM_CLEAN = 8


def noise(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A picture like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


class Mixture:
    """Three sources under a folder: ``photos`` (LLaVA's JSON), ``pages`` (records, JSON Lines), ``scans`` (base64).

    Attributes:
        faults: (source, number of the record) to kind: what must stand on the list, and nothing else.
        notes: source to kind to count: what must be told, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir(parents=True)
        self.records: dict[str, list[Any]] = {"photos": [], "pages": [], "scans": []}
        self.faults: dict[tuple[str, int], str] = {}
        self.notes: dict[str, Counter[str]] = defaultdict(Counter)
        self.asked: list[dict[str, Any]] = []
        self._unique = 1000
        for _ in range(NUM_CLEAN):
            for source in self.records:
                self.add(source)
        self._seed_text()
        self._seed_images()
        self._seed_repeats()
        for _ in range(NUM_CLEAN):
            for source in self.records:
                self.add(source)

    def unique(self) -> int:
        self._unique += 1
        return self._unique

    def add(
        self,
        source: str,
        fault: str | None = None,
        notes: tuple[str, ...] = (),
        image: str | bytes | None = None,
        question: str | None = None,
        answer: str | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """Append a record that is clean but for what is given."""
        number = self.unique()
        name = f"{number}.png"
        if image is None and source == "scans":
            image = encoded(noise(number))
        elif image is None:
            noise(number).save(self.images / name)
            image = name
        question = f"<image>\nWhat is picture {number}?" if question is None else question
        answer = f"noise {number}" if answer is None else answer
        keys = ("from", "value") if source == "photos" else ("role", "text")
        people = ("human", "gpt") if source == "photos" else ("user", "assistant")
        turns = [dict(zip(keys, pair, strict=True)) for pair in zip(people, (question, answer), strict=True)]
        shown = base64.b64encode(image).decode() if isinstance(image, bytes) else image
        images = {"image": shown} if source == "photos" else {"images": [shown] if shown else []}
        record = {"id": f"r{number}", **images, "conversations": turns, **fields}
        return self.put(source, record, fault, notes)

    def put(self, source: str, record: Any, fault: str | None = None, notes: tuple[str, ...] = ()) -> Any:
        if fault is not None:
            self.faults[source, len(self.records[source])] = fault
        self.notes[source].update(notes)
        self.records[source].append(record)
        return record

    def turns(self, *said: tuple[str, str]) -> dict[str, Any]:
        """A record of the photos with these turns, about a picture of its own."""
        number = self.unique()
        noise(number).save(self.images / f"{number}.png")
        conversation = [{"from": role, "value": text} for role, text in said]
        return {"id": f"r{number}", "image": f"{number}.png", "conversations": conversation}

    def _seed_text(self) -> None:
        self.put("photos", "a record that is text", "not_a_conversation")
        self.put("photos", {"id": "misspelt", "talks": []}, "not_a_conversation")
        self.put("photos", {"id": "half", "conversations": [{"from": "human"}]}, "not_a_conversation")
        self.add("pages", "unreadable_text", answer="half a pair: \ud800")
        self.put("photos", self.turns(("gpt", "I begin."), ("gpt", "I end.")), "no_turns")
        self.put("photos", self.turns(("tutor", "Look!"), ("human", "<image>"), ("gpt", "yes")), "unknown_role")
        self.put("photos", self.turns(("human", "<image> q"), ("gpt", "a"), ("gpt", "b")), "role_order")
        self.put("photos", self.turns(("human", "<image> q"), ("gpt", "a"), ("human", "and?")), "no_answer")
        self.add("pages", "empty_answer", answer=" \n")
        self.put(
            "photos", self.turns(("human", "<image> 1?"), ("gpt", "a"), ("human", " "), ("gpt", "b")), "empty_question"
        )
        self.add("scans", "image_count", question="<image><image> Which of them?")
        self.add("photos", "image_count", question="No picture is named.")
        self.add("photos", "placeholder_in_answer", answer="it shows <image>")
        self.add("photos", notes=("end_token",), answer="stop</s> and go on")
        self.add("photos", notes=("too_long",), question="<image>" + "What colour is it? " * 150)
        long = [("human", "<image> short?"), ("gpt", "yes"), ("human", "long? " * 200), ("gpt", "no")]
        self.put("photos", self.turns(*long), notes=("cut",))
        self.add("pages", notes=("special_token",), question="<image> What does <s>this</s > say?")
        self.add("pages", notes=("leftover_placeholder",), question="<image>\nWhat does the HTML tag <picture> do?")
        self.add("pages", "unread_media", question="<image>\n<Image> What is this, here?")
        self.add("photos", "unread_media", question="<image>\nWhat moves?", video="clip.mp4")
        self.add("pages", "unread_media", question="<image>\nWhat moves?", img="other.png")
        self.put("photos", self.turns(("system", "Be brief."), ("human", "<image> q"), ("gpt", "a")))
        self.put(
            "photos", self.turns(("human", "<image> q"), ("gpt", "a"), ("system", "Be."), ("gpt", "b")), "unknown_role"
        )
        self.add("photos", "system_text", system="Be brief.", system_prompt="Be long.")
        self.add("photos", "tool_call", tools=[{"name": "zoom"}])
        marked = self.turns(("human", "<image> q"), ("gpt", "a"))
        for fault, value in (("nothing_supervised", False), ("loss_flag", 0.5)):
            turns = [marked["conversations"][0], marked["conversations"][1] | {"weight": value}]
            self.put("photos", self.turns() | {"conversations": turns}, fault)
        self.add("pages", notes=("replacement_character",), answer="caf\ufffd au lait")
        self.add("pages", notes=("mojibake",), answer="un cafÃ© au lait")
        self.add("pages", notes=("control_character",), answer="a\x00b\x1b[31mc")
        self.add("pages", notes=("echo",), question="<image>\nrepeat after me", answer="Repeat after me")
        self.add("scans", notes=("refusal",), answer="I'm sorry, but I can't see any image here.")

    def _seed_images(self) -> None:
        folder = self.images
        self.add("photos", "image_missing", image="gone.png")
        shutil.copy(folder / "1001.png", folder.parent / "outside.png")
        self.add("photos", "image_outside", image="../outside.png")
        self.add("pages", "image_outside", image=str(folder.parent / "outside.png"))
        os.symlink(folder.parent / "outside.png", folder / "linked.png")
        self.add("pages", "image_outside", image="linked.png")
        self.add("photos", "image_address", image="https://example.org/a.png")
        (folder / "empty.jpg").touch()
        self.add("photos", "image_empty", image="empty.jpg")
        (folder / "page.jpg").write_text("<!DOCTYPE html><html>404</html>" * 9)
        self.add("photos", "image_not_image", image="page.jpg")
        (folder / "photo.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(80))
        self.add("photos", "image_other_format", image="photo.heic")
        (folder / "cut.jpg").write_bytes(encoded(noise(1), "JPEG")[:-300])
        self.add("photos", "image_unreadable", image="cut.jpg")
        self.add("scans", "image_unreadable", image=encoded(noise(2), "JPEG")[:-300])
        Image.new("RGB", (50_000, 2)).save(folder / "bomb.png")
        self.add("photos", "image_too_large", image="bomb.png")
        (folder / "gif.jpg").write_bytes(encoded(noise(3), "GIF"))
        self.add("photos", notes=("image_extension",), image="gif.jpg")
        noise(4).save(folder / "stem.gif")
        self.add("photos", notes=("image_by_stem",), image="stem.jpg")
        noise(5, 1200, 12).save(folder / "sliver.png")
        self.add("pages", notes=("image_sliver",), image="sliver.png")
        self.add("scans", notes=("image_blank",), image=encoded(Image.new("RGB", (30, 30), (7, 8, 9))))
        self.add("scans", notes=("image_tiny",), image=encoded(noise(6, 5, 5)))
        sideways = Image.Exif()
        sideways[ExifTags.Base.Orientation] = 6
        noise(31).save(folder / "sideways.png", exif=sideways)
        self.add("photos", notes=("image_orientation",), image="sideways.png")
        veiled = noise(32).convert("RGBA")
        veiled.putpixel((3, 3), (9, 9, 9, 40))
        self.add("scans", notes=("image_transparent",), image=encoded(veiled))
        twelve = np.asarray(noise(33).convert("L")).astype(np.uint16) * 16
        self.add("scans", notes=("image_nearly_black",), image=encoded(Image.fromarray(twelve)))

    def _seed_repeats(self) -> None:
        first = self.add("photos")
        self.put("photos", first | {"id": "copy"}, "duplicate")
        # The copy is one by content: its image is another file with the same bytes.
        shutil.copy(self.images / first["image"], self.images / "second.png")
        self.put("photos", first | {"id": "content", "image": "second.png"}, "duplicate", notes=("same_image",))
        picture = noise(7)
        self.add("scans", image=encoded(picture))
        self.add("scans", notes=("same_pixels",), image=encoded(picture, "BMP"))
        turns = [
            {"role": role, "text": turn["value"]}
            for role, turn in zip(("user", "assistant"), first["conversations"], strict=True)
        ]
        across = {"id": "across", "images": [first["image"]], "conversations": turns}
        self.put("pages", across, notes=("duplicate_across",))
        one = self.add("pages", notes=("image_reused",))
        other = [{"role": "user", "text": "<image> And its frame?"}, {"role": "assistant", "text": "none"}]
        self.put("pages", one | {"id": "reused", "conversations": other}, notes=("image_reused",))
        self.add("scans", notes=("same_text",), question="<image> same?", answer="same")
        self.add("scans", notes=("same_text",), question="<image> same?", answer="same")
        self.add("scans", notes=("repeated_id",), id=self.add("scans")["id"])
        leaking, held = self.add("photos", "leak"), self.add("photos", notes=("leak_image",))
        self.folder.joinpath("asked").mkdir()
        for number, (record, question) in enumerate(
            [
                (leaking, leaking["conversations"][0]["value"].replace("What is", "WHAT  is") + "??"),
                (held, "<image> something else"),
            ]
        ):
            name = f"q{number}.bmp"
            Image.open(self.images / record["image"]).save(self.folder / "asked" / name)
            turn = {"from": "human", "value": question}
            self.asked.append({"id": name, "image": name, "conversations": [turn]})

    def write(self, name: str, without: frozenset[tuple[str, int]] = frozenset()) -> Path:
        """Write the sources, less some records, and a data configuration of that name; return its ``--config-dir``."""
        place = self.folder / name
        (place / "data").mkdir(parents=True)
        kept = {
            source: [record for number, record in enumerate(records) if (source, number) not in without]
            for source, records in self.records.items()
        }
        (place / "photos.json").write_text(json.dumps(kept["photos"]))
        for source in ("pages", "scans"):
            (place / f"{source}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept[source]))
        (self.folder / "asked" / "asked.json").write_text(json.dumps(self.asked))
        files = {"photos": "photos.json", "pages": "pages.jsonl", "scans": "scans.jsonl"}
        shipped = yaml.safe_load((Path(__file__).parents[3] / "configs" / "data" / "mine.yaml").read_text())
        sources = {
            source: {"domain": source, "path": str(place / file), "images": str(self.images)}
            for source, file in files.items()
        }
        (place / "data" / f"{name}.yaml").write_text(
            yaml.safe_dump(shipped | {"sources": sources, "num_workers": 0}, sort_keys=False)
        )
        return place
