"""Every benchmark's data as its source publishes it, two to ten invented items each: ``LAYOUTS[name][layout](folder)``.

Each layout writes below ``folder`` and returns the place to read: the folder, a file of it, or an address.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Write = Callable[[Path], Path | str]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(number: int, mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    color = (number * 37 % 256, number * 91 % 256, 60)
    Image.new("RGB", (12 + number % 5, 9), color).convert(mode).save(stream, format="PNG")
    return stream.getvalue()


def write_picture(path: Path, number: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture(number, mode))


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], column: str = "image") -> Path:
    """A Parquet file as ``datasets`` writes it: images as a struct of bytes and path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [name for name in rows[0] if name != column]
    table = pa.Table.from_pylist([{name: row[name] for name in names} for row in rows])
    images = [{"bytes": row[column], "path": None} for row in rows]
    pq.write_table(table.append_column(column, pa.array(images, IMAGE)), path, row_group_size=2)
    return path


# Tiny LVLM-eHub
ABILITIES = {
    "Visual_Reasoning": ("Who rides?", "a boy"),
    "Visual_Perception": ("Classify the main object in the image.", ["tabby", "tabby cat"]),
    "Visual_Knowledge_Acquisition": ("What is written in the image?", "OPEN"),
    "Visual_Commonsense": ("What colour is a crow?", "black"),
    "Object_Hallucination": ("Is there a fork in the image?", "no"),
}


def tiny_lvlm(folder: Path) -> Path:
    for number, (ability, (question, gold)) in enumerate(ABILITIES.items()):
        row = {"image_path": "images/0.png", "question": question, "gt_answers": gold, "dataset_name": "made"}
        other = row | {"image_path": "images/1.png", "question": question + " Look again."}
        write_json(folder / ability / "dataset.json", [row, other])
        for place in (0, 1):
            write_picture(folder / ability / "images" / f"{place}.png", 2 * number + place)
    return folder


# ChartQA
CHARTS = {
    "human": [("c1.png", "Which bar is tallest?", "Norway"), ("c2.png", "How many bars?", "0")],
    "augmented": [("c3.png", "What was the value in 2019?", "63.4"), ("c3.png", "What was the share?", "12%")],
}


def chartqa_zip(folder: Path) -> Path:
    test = folder / "ChartQA Dataset" / "test"
    for part, rows in CHARTS.items():
        write_json(
            test / f"test_{part}.json",
            [{"imgname": name, "query": question, "label": label} for name, question, label in rows],
        )
        for number, (name, _, _) in enumerate(rows):
            write_picture(test / "png" / name, number)
    return folder


def _charts(columns: Callable[[str, str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [(part, *row) for part, found in CHARTS.items() for row in found]
    return [
        columns(part, question, label) | {"image": picture(number)}
        for number, (part, _, question, label) in enumerate(rows)
    ]


def chartqa_lmms_lab(folder: Path) -> Path:
    rows = _charts(lambda part, question, label: {"type": f"{part}_test", "question": question, "answer": label})
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", rows[:1])
    return folder


def chartqa_m4(folder: Path) -> str:
    parts = ("human", "augmented")
    rows = _charts(
        lambda part, question, label: {"query": question, "label": [label], "human_or_machine": parts.index(part)}
    )
    return write_parquet(folder / "data" / "test-00000-of-00001-e2cd.parquet", rows).as_uri()


# DocVQA
PAGES = [
    (101, "What is the date?", ["May 4, 1998", "4 May 1998"], ["layout"]),
    (102, "Who signs?", ["J. Doe"], ["handwritten", "form"]),
]


def docvqa_rrc(folder: Path) -> Path:
    rows = [
        {
            **{"questionId": number, "question": question, "answers": answers, "question_types": types},
            **{"image": f"documents/page_{number}.png", "docId": number, "data_split": "val"},
        }
        for number, question, answers, types in PAGES
    ]
    for number, *_ in PAGES:
        write_picture(folder / "spdocvqa_images" / f"page_{number}.png", number)
    qas = folder / "spdocvqa_qas"
    write_json(qas / "val_v1.0_withQT.json", {"dataset_name": "SP-DocVQA", "dataset_split": "val", "data": rows})
    hidden = [{name: value for name, value in row.items() if name != "answers"} for row in rows]
    write_json(qas / "test_v1.0.json", {"dataset_split": "test", "data": hidden})
    return folder


def docvqa_lmms_lab(folder: Path) -> Path:
    rows = [
        {"questionId": str(number), "question": question, "question_types": types, "answers": answers}
        | {"image": picture(number)}
        for number, question, answers, types in PAGES
    ]
    write_parquet(folder / "DocVQA" / "validation-00000-of-00001.parquet", rows)
    return folder


# PathVQA
SLIDES = [
    ("where are liver stem cells (oval cells) located?", "in the canals of hering"),
    ("are bile duct cells normal?", "yes"),
    ("is the tumour benign?", "No"),
    ("what is present?", "gastrointestinal"),
]


def pathvqa_hub(folder: Path) -> Path:
    rows = [
        {"question": question, "answer": answer, "image": picture(number, "L")}
        for number, (question, answer) in enumerate(SLIDES)
    ]
    write_parquet(folder / "data" / "test-00000-of-00003-e9adadb4799f44d3.parquet", rows[:3])
    write_parquet(folder / "data" / "test-00001-of-00003-7ea98873fc919813.parquet", rows[3:])
    return folder


def pathvqa_llava_med(folder: Path) -> Path:
    rows = []
    for number, (question, answer) in enumerate(SLIDES):
        write_picture(folder / "images" / f"{number}.jpg", number)
        talk = [{"from": "human", "value": f"{question}\n<image>"}, {"from": "gpt", "value": answer}]
        rows.append({"id": "same", "image": f"{number}.jpg", "conversations": talk, "answer_type": "OPEN"})
    write_json(folder / "test.json", rows)
    return folder


# TextVQA
SIGNS = [
    (34602, "003a8ae2ef43b901", "what is the brand of this camera?", ["dakota"] * 8 + ["clos culombu", "nous"]),
    (34603, "0054c91397f2fe05", "What does the White sign say?", ["exit"] * 4 + ["exit only"] * 3 + ["way out"] * 3),
]
SIGN_TOKENS = [["DAKOTA", "DIGITAL"], ["EXIT"]]


def textvqa_official(folder: Path) -> Path:
    rows = [
        {"question_id": number, "image_id": image, "question": question, "answers": answers, "set_name": "val"}
        for number, image, question, answers in SIGNS
    ]
    write_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "dataset_version": "0.5.1", "data": rows})
    tokens = [{"image_id": sign[1], "ocr_tokens": found} for sign, found in zip(SIGNS, SIGN_TOKENS, strict=True)]
    write_json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"dataset_type": "val", "data": tokens})
    for number, (_, image, _, _) in enumerate(SIGNS):
        write_picture(folder / "train_images" / f"{image}.jpg", number)
    return folder


def textvqa_lmms_lab(folder: Path) -> Path:
    rows = [
        {"image_id": sign[1], "question_id": sign[0], "question": sign[2], "answers": sign[3], "ocr_tokens": found}
        | {"image": picture(number)}
        for number, (sign, found) in enumerate(zip(SIGNS, SIGN_TOKENS, strict=True))
    ]
    write_parquet(folder / "data" / "validation-00000-of-00003.parquet", rows)
    return folder


# VQAv2
ASKED = [
    (262148000, 262148, "Where is he looking?", ["down"] * 6 + ["table", "away", "at table", "skateboard"], "other"),
    (262148001, 262148, "Is he smiling?", ["no"] * 10, "yes/no"),
    (393225002, 393225, "How many bowls?", ["2"] * 4 + ["two"] * 3 + ["3"] * 3, "number"),
]


def vqav2_official(folder: Path) -> Path:
    questions, annotations = [], []
    for question_id, image_id, question, answers, answer_type in ASKED:
        questions.append({"image_id": image_id, "question": question, "question_id": question_id})
        voted = [{"answer": answer, "answer_confidence": "yes", "answer_id": 1} for answer in answers]
        annotations.append({"question_id": question_id, "image_id": image_id, "answers": voted})
        annotations[-1] |= {"answer_type": answer_type, "question_type": "none of the above"}
        write_picture(folder / "val2014" / f"COCO_val2014_{image_id:012d}.jpg", image_id)
    write_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {"info": {}, "questions": questions})
    write_json(folder / "v2_mscoco_val2014_annotations.json", {"info": {}, "annotations": annotations})
    return folder


def vqav2_lmms_lab(folder: Path) -> Path:
    rows = [
        {"question_id": question_id, "image_id": image_id, "question": question, "answer_type": answer_type}
        | {"answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": 1} for answer in answers]}
        | {"image": picture(image_id)}
        for question_id, image_id, question, answers, answer_type in ASKED
    ]
    write_parquet(folder / "data" / "validation-00000-of-00068.parquet", rows)
    return folder


# POPE
OBJECTS = [(1, "snowboard", "yes"), (2, "dining table", "no")]


def pope_official(folder: Path) -> Path:
    for part in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": number, "image": "COCO_val2014_000000310196.jpg", "label": label}
            | {"text": f"Is there a {name} in the image?"}
            for number, name, label in OBJECTS
        ]
        write_lines(folder / "coco" / f"coco_pope_{part}.json", rows)
    write_picture(folder / "val2014" / "COCO_val2014_000000310196.jpg", 0)
    return folder


def pope_lmms_lab(folder: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {
            **{"id": str(number), "question_id": str(number), "question": f"Is there a {name} in the image?"},
            **{"answer": label, "image_source": "COCO_val2014_000000310196", "category": part, "image": picture(0)},
        }
        for part in ("adversarial", "popular", "random")
        for number, name, label in OBJECTS
    ]
    write_parquet(folder / "data" / "test-00000-of-00003-6ba3f8bb4a8a4e6a.parquet", rows)
    return folder


# MME
CATEGORIES = (
    *("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"),
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
NESTED = ("artwork", "celebrity", "landmark", "posters", "scene")
MME_PAIR = (
    ("Is there a chair in this image? Please answer yes or no.", "Yes"),
    ("Is there a cake in this image? Please answer yes or no.", "No"),
)


def mme_official(folder: Path) -> Path:
    for number, category in enumerate(CATEGORIES):
        place = folder / "MME_Benchmark_release_version" / category
        images, texts = (place / "images", place / "questions_answers_YN") if category in NESTED else (place, place)
        write_picture(images / ("0001.jpg" if number % 2 else "0001.png"), number)
        texts.mkdir(parents=True, exist_ok=True)
        (texts / "0001.txt").write_text("".join(f"{question}\t{answer}\n" for question, answer in MME_PAIR))
    return folder


def mme_lmms_lab(folder: Path) -> Path:
    rows = [
        {"question_id": f"{category}/0001.png", "question": question, "answer": answer, "category": category}
        | {"image": picture(number)}
        for number, category in enumerate(CATEGORIES)
        for question, answer in MME_PAIR
    ]
    write_parquet(folder / "data" / "test-00000-of-00004-a25dbe3b44c4fda6.parquet", rows)
    return folder


# MMBench
OPTIONS = ["a red kite", "a green boat", "a blue car", "a white house"]


def _mmbench_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, (hint, options) in enumerate([("Look at the sky.", OPTIONS), ("nan", OPTIONS[:2])], start=241):
        for turn in range(len(options)):
            turned = options[turn:] + options[:turn]
            letters = dict(zip("ABCD", turned, strict=False))
            row = {"index": index + turn * 1_000_000, "question": "What is in the picture?", "hint": hint}
            row |= {letter: letters.get(letter, "nan") for letter in "ABCD"}
            row |= {"answer": "ABCD"[turned.index("a red kite")], "category": "object", "l2-category": "coarse"}
            rows.append(row | {"source": "made", "split": "dev", "image": picture(index)})
    return rows


def _mmbench_tsv(path: Path) -> Path:
    rows = _mmbench_rows()
    lines = ["\t".join(rows[0])]
    for row in rows:
        # As VLMEvalKit's files have it: rotations name the first row instead of repeating its image.
        first = row["index"] < 1_000_000
        image = base64.b64encode(row["image"]).decode() if first else str(row["index"] % 1_000_000)
        lines.append("\t".join(str(value) for value in (row | {"image": image}).values()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def mmbench_tsv(folder: Path) -> Path:
    _mmbench_tsv(folder / "mmbench_dev_20230712.tsv")
    return folder


def mmbench_cn_tsv(folder: Path) -> Path:
    return _mmbench_tsv(folder / "mmbench_dev_cn_20231003.tsv").parent


def mmbench_lmms_lab(folder: Path) -> Path:
    for language in ("en", "cn"):
        write_parquet(folder / language / "dev-00000-of-00001.parquet", _mmbench_rows())
        write_parquet(folder / language / "test-00000-of-00001.parquet", _mmbench_rows()[:2])
    return folder


# VSR, SNLI-VE
PLACES = [("The bowl is behind the cake.", 1, "behind"), ("The cat is under the bed.", 0, "under")]


def vsr(folder: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for number, (caption, label, relation) in enumerate(PLACES):
        name = f"{number:012d}.jpg"
        rows.append({"image": name, "image_link": f"http://images.cocodataset.org/train2017/{name}"})
        rows[-1] |= {"caption": caption, "label": label, "relation": relation, "vote_true_validator_id": []}
        write_picture(folder / "images" / name, number)
    write_lines(folder / "test.jsonl", rows)
    write_lines(folder / "train.jsonl", rows[:1])
    return folder


STATEMENTS = [
    ("Two men talk.", "entailment"),
    ("They sleep.", "contradiction"),
    ("They are kin.", "neutral"),
    ("x", "-"),
]


def snli_ve(folder: Path) -> Path:
    rows = [
        {"Flickr30K_ID": "1009434119", "gold_label": label, "sentence1": "Men.", "sentence2": statement}
        | {"pairID": f"1009434119.jpg#0r1{number}", "captionID": "1009434119.jpg#0"}
        for number, (statement, label) in enumerate(STATEMENTS)
    ]
    write_lines(folder / "snli_ve_test.jsonl", rows)
    write_picture(folder / "flickr30k-images" / "1009434119.jpg", 5)
    return folder


def snli_ve_parquet(folder: Path) -> Path:
    order = ("entailment", "neutral", "contradiction")
    rows = [
        {"filename": "1.jpg", "premise": "Men.", "hypothesis": statement, "label": order.index(label)}
        | {"image": picture(5)}
        for statement, label in STATEMENTS[:3]
    ]
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    return folder


# CIFAR and MNIST
LABELS = (3, 0, 9)


def _pixels(count: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(count, *shape), dtype=np.uint8)


def cifar10_binary(folder: Path) -> Path:
    pixels = _pixels(len(LABELS), (3, 32, 32))
    path = folder / "cifar-10-batches-bin" / "test_batch.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(bytes([label]) + image.tobytes() for label, image in zip(LABELS, pixels, strict=True)))
    return folder


def cifar100_binary(folder: Path) -> Path:
    pixels = _pixels(len(LABELS), (3, 32, 32))
    path = folder / "cifar-100-binary" / "test.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(bytes([7, label]) + image.tobytes() for label, image in zip(LABELS, pixels, strict=True)))
    return folder


def cifar10_hub(folder: Path) -> Path:
    rows = [{"label": label, "img": picture(label)} for label in LABELS]
    write_parquet(folder / "plain_text" / "test-00000-of-00001.parquet", rows, column="img")
    return folder


def cifar100_hub(folder: Path) -> Path:
    rows = [{"fine_label": label, "coarse_label": 1, "img": picture(label)} for label in LABELS]
    write_parquet(folder / "cifar100" / "test-00000-of-00001.parquet", rows, column="img")
    return folder


def mnist_idx(folder: Path) -> Path:
    pixels = _pixels(len(LABELS), (28, 28))
    images = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in pixels.shape) + pixels.tobytes()
    labels = bytes([0, 0, 8, 1]) + len(LABELS).to_bytes(4, "big") + bytes(LABELS)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def mnist_hub(folder: Path) -> Path:
    rows = [{"label": label, "image": picture(label, "L")} for label in LABELS]
    write_parquet(folder / "mnist" / "test-00000-of-00001.parquet", rows)
    return folder


# ScienceQA
SCIENCE = [
    ("Which animal is a mammal?", ["trout", "otter"], 1, "", "natural science"),
    ("Which state is north?", ["Utah", "Ohio", "Iowa"], 0, "Look at the map.", "social science"),
]


def _science(number: int) -> dict[str, Any]:
    question, choices, answer, hint, subject = SCIENCE[number]
    row = {"question": question, "choices": choices, "answer": answer, "hint": hint, "subject": subject}
    return row | {"topic": "biology", "lecture": "", "solution": ""}


def scienceqa_official(folder: Path) -> Path:
    problems = {str(11 + number): _science(number) | {"image": "image.png"} for number in range(len(SCIENCE))}
    problems["99"] = _science(0) | {"image": None}
    write_json(folder / "problems.json", problems)
    write_json(folder / "pid_splits.json", {"train": [], "test": [*problems]})
    for number in range(len(SCIENCE)):
        write_picture(folder / "images" / "test" / str(11 + number) / "image.png", number)
    return folder


def scienceqa_lmms_lab(folder: Path) -> Path:
    rows = [_science(number) | {"image": picture(number)} for number in range(len(SCIENCE))]
    write_parquet(folder / "ScienceQA-IMG" / "test-00000-of-00001.parquet", rows)
    return folder


LAYOUTS: dict[str, dict[str, Write]] = {
    "tiny_lvlm": {"folders": tiny_lvlm},
    "chartqa": {"zip": chartqa_zip, "lmms_lab": chartqa_lmms_lab, "m4_address": chartqa_m4},
    "docvqa": {"rrc": docvqa_rrc, "lmms_lab": docvqa_lmms_lab},
    "pathvqa": {"hub": pathvqa_hub, "llava_med": pathvqa_llava_med},
    "textvqa": {"official": textvqa_official, "lmms_lab": textvqa_lmms_lab},
    "textvqa_ocr": {"official": textvqa_official, "lmms_lab": textvqa_lmms_lab},
    "vqav2": {"official": vqav2_official, "lmms_lab": vqav2_lmms_lab},
    "pope": {"official": pope_official, "lmms_lab": pope_lmms_lab},
    "mme": {"official": mme_official, "lmms_lab": mme_lmms_lab},
    "mmbench": {"tsv": mmbench_tsv, "lmms_lab": mmbench_lmms_lab},
    "mmbench_cn": {"tsv": mmbench_cn_tsv, "lmms_lab": mmbench_lmms_lab},
    "vsr": {"jsonl": vsr},
    "snli_ve": {"jsonl": snli_ve, "parquet": snli_ve_parquet},
    "cifar10": {"binary": cifar10_binary, "hub": cifar10_hub},
    "cifar100": {"binary": cifar100_binary, "hub": cifar100_hub},
    "mnist": {"idx": mnist_idx, "hub": mnist_hub},
    "scienceqa_img": {"official": scienceqa_official, "lmms_lab": scienceqa_lmms_lab},
}

# MixLoRA's evaluation files: benchmark to tasks, each with (prompt, target) lines.
MIXLORA: dict[str, dict[str, list[tuple[str, str]]]] = {
    "textvqa": {"text_vqa": [("Read the brand.\n[Options]: none", "dakota")]},
    "vsr": {"visual_spatial_reasoning": [("Is it true? The bowl is behind the cake.", "yes"), ("Is it?", "no")]},
    "pope": {
        task: [("Is there a fork?", "yes"), ("Is there a sock?", "no")]
        for task in ("pope_rand", "pope_pop", "pope_adv")
    },
    "snli_ve": {"snli_ve_classification": [("Does it follow?", "entailment"), ("And this?", "neutral")]},
    "cifar10": {"cifar_10": [("Which object?", "cat")]},
    "cifar100": {"cifar_100": [("Which object?", "aquarium_fish")]},
    "mnist": {"mnist": [("Which digit?", "7")]},
}


def write_mixlora(name: str, folder: Path) -> Path:
    """The files of a benchmark as MixLoRA's evaluation reads them."""
    for task, lines in MIXLORA[name].items():
        rows = []
        for number, (prompt, target) in enumerate(lines):
            write_picture(folder / "images" / f"{task}_{number}.png", number, "L")
            rows.append({"unique_id": f"{task}-{number}", "prompt": prompt, "target": target})
            rows[-1]["image_path"] = f"images/{task}_{number}.png"
        write_lines(folder / f"{task}.jsonl", rows)
    return folder
