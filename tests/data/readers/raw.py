"""Small copies of the published data sets, written exactly as their sources write them; the content is invented.

``write_raw(recipe, folder)`` lays the download of a recipe out in a folder, odd cases and all.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COLORS = ("red", "green", "blue", "grey", "white", "black")


@dataclass(frozen=True)
class Raw:
    """A download.

    Attributes:
        folder: as ``path=`` names it.
        records: raw records by split, as the recipe's parts count them.
        faults: of the training records, those that cannot be trained on, by reason.
    """

    folder: Path
    records: dict[str, int]
    faults: dict[str, int] = field(default_factory=dict)


def picture(seed: int, width: int = 28, height: int = 20) -> Image.Image:
    """A small picture that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(seed: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture as the bytes of an image file."""
    file = io.BytesIO()
    picture(seed).convert(mode).save(file, kind)
    return file.getvalue()


def base64_text(seed: int, urlsafe: bool = False) -> str:
    """A picture as base64 text; URL-safe text comes without its padding, as some encoders leave it."""
    content = encoded(seed, "PNG")
    return base64.urlsafe_b64encode(content).decode().rstrip("=") if urlsafe else base64.b64encode(content).decode()


def save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_list(path: Path, records: list[Any]) -> None:
    """A JSON list on one line, as ``json.dump`` leaves it."""
    save(path, json.dumps(records).encode())


def write_lines(path: Path, records: Iterable[Any]) -> None:
    save(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())


def turns(*texts: str, first: str = "human") -> list[dict[str, str]]:
    """LLaVA's turns, by human and gpt in alternation."""
    roles = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": roles[number % 2], "value": text} for number, text in enumerate(texts)]


def write_llava_pretrain(folder: Path, num: int) -> Raw:
    records, meta = [], []
    for number in range(num):
        name = f"{number % 3:05d}/{number:09d}.jpg"
        save(folder / "images" / name, encoded(number))
        prompt = "Render a clear summary.\n<image>" if number % 2 else "<image>\nRender a clear summary."
        caption = f"a {COLORS[number % 6]} kite above beach {number}"
        records.append({"id": f"{number:09d}", "image": name, "conversations": turns(prompt, caption)})
        meta.append({"id": f"{number:09d}", "image": name, "url": f"http://a.test/{number}", "blip_caption": caption})
    write_list(folder / "blip_laion_cc_sbu_558k.json", records)
    write_list(folder / "blip_laion_cc_sbu_558k_meta.json", meta)
    return Raw(folder, {"train": num})


def _mix(folder: Path, num: int) -> list[dict[str, Any]]:
    """mix665k's kinds of record: several turns, text alone, a first turn of the assistant's, repeated ids."""
    short = "\nAnswer the question using a single word or phrase."
    records: list[dict[str, Any]] = []
    for number in range(num):
        name = f"coco/train2017/{number:012d}.jpg"
        save(folder / name, encoded(number))
        told = turns(f"<image>\nWhat colour is it?{short}", COLORS[number % 6].title(), f"How many?{short}", "2")
        records.append({"id": f"{number // 2:012d}", "image": name, "conversations": told})
    save(folder / "vg/VG_100K/7.jpg", encoded(1007))
    save(folder / "vg/VG_100K_2/8.jpg", encoded(1008))
    box = "Please provide a short description for this region: [0.1, 0.2, 0.3, 0.4]."
    records += [
        {"id": 7, "image": "vg/VG_100K/7.jpg", "conversations": turns(f"<image>\n{box}", "a tall lamp")},
        {"id": 7, "image": "vg/VG_100K_2/8.jpg", "conversations": turns(f"{box}\n<image>", "a long bench")},
        {"id": "Xq1_0", "model": "", "conversations": turns("Write a limerick.", "There was a young cat")},
        {"id": "Xq1_5", "conversations": turns("Welcome back.", "Who are you?", "A program.", first="gpt")},
    ]
    return records


def write_mix665k(folder: Path, num: int) -> Raw:
    records = _mix(folder, num)
    # A GIF under its own suffix, one under .jpg, and a cover that could not be downloaded.
    save(folder / "ocr_vqa/images/0001.gif", encoded(2001, "GIF", "P"))
    save(folder / "ocr_vqa/images/0002.jpg", encoded(2002, "GIF", "P"))
    records += [
        {
            "id": name,
            "image": f"ocr_vqa/images/{name}.jpg",
            "conversations": turns("<image>\nWho wrote this book?", "A. Writer"),
        }
        for name in ("0001", "0002", "0003")
    ]
    write_list(folder / "llava_v1_5_mix665k.json", records)
    return Raw(folder, {"train": len(records)}, {"image_missing": 1})


def _captions(folder: Path, names: list[str]) -> list[dict[str, Any]]:
    records = []
    for number, name in enumerate(names):
        if not name.endswith("missing.jpg"):
            save(folder / name, encoded(number))
        caption = f"In the centre of the image stands a {COLORS[number % 6]} bench, number {number}. " * 4
        question = "<image>\nWhat do you see happening in this image?"
        records.append({"id": Path(name).stem, "image": name, "conversations": turns(question, caption.strip())})
    return records


def write_sharegpt4v_pt(folder: Path, num: int) -> Raw:
    names = [f"coco/train2017/{number:012d}.jpg" for number in range(num)]
    names += ["llava/llava_pretrain/images/00453/004539375.jpg", "sam/images/sa_545504.jpg", "sam/images/missing.jpg"]
    write_list(folder / "share-captioner_coco_lcs_sam_1246k_1107.json", _captions(folder, names))
    return Raw(folder, {"train": len(names)}, {"image_missing": 1})


def write_sharegpt4v_cap100k(folder: Path, num: int) -> Raw:
    names = [f"sam/images/sa_{number}.jpg" for number in range(num)]
    names += ["wikiart/images/a_b.jpg", "web-celebrity/images/A. Person.jpg", "share_textvqa/images/0a1b.jpg"]
    records = _captions(folder, names)
    gone = {**records[0], "id": "Choi_Min-sik", "image": "web-celebrity/images/Choi_Min-sik.jpg"}
    write_list(folder / "sharegpt4v_instruct_gpt4-vision_cap100k.json", [*records, gone])
    return Raw(folder, {"train": len(names) + 1}, {"image_missing": 1})


def write_sharegpt4v_ft(folder: Path, num: int) -> Raw:
    records = _mix(folder, num) + _captions(folder, ["sam/images/sa_9.jpg", "web-landmark/images/Tower.jpg"])
    write_list(folder / "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json", records)
    return Raw(folder, {"train": len(records)})


def older_row(seed: int, num_images: int = 1, inputs: str = "How many cups?") -> dict[str, Any]:
    """M3IT's first shape, without its instruction."""
    images = [base64_text(seed + number) for number in range(num_images)]
    return {"inputs": inputs, "image_base64_str": images, "outputs": COLORS[seed % 6]}


def rephrased_row(seed: int) -> dict[str, Any]:
    """M3IT's second shape."""
    meta = {"instruction": "Look closely.", "inputs": f"Cup {seed}?", "image_base64_str": [base64_text(seed)]}
    return {"meta": meta, "answer": f"It is the cup number {seed}."}


INSTRUCTIONS = ("Describe the picture.", "Say what you see.", "Answer the question about the picture.", "Tell all.")


def write_m3it(folder: Path, num: int) -> Raw:
    data = folder / "data"

    def lay(name: str, records: list[Any]) -> None:
        write_lines(data / name, records)
        save((data / name).parent / "instructions.json", json.dumps(INSTRUCTIONS).encode())

    lay("captioning/coco/train.jsonl", [older_row(number, inputs="") for number in range(num)])
    lay("captioning/coco/val.jsonl", [older_row(100, inputs="")])
    lay("captioning/coco/test.jsonl", [older_row(101, inputs=""), older_row(102, inputs="")])
    # A rephrased copy beside its original, and one without an original.
    lay("vqa/vqa-v2/train.jsonl", [older_row(200), older_row(201) | {"instruction": "Mind the cups."}])
    lay("vqa/vqa-v2/train_2023-10-08.jsonl", [rephrased_row(200), rephrased_row(201)])
    lay("vqa/docvqa/train_2023-10-08.jsonl", [rephrased_row(210), older_row(211)])
    lay("vqa/docvqa/train_2023-10-01.jsonl", [rephrased_row(210)])
    # Odd names.
    lay("classification/snli-ve/esnlive_train.jsonl", [older_row(300)])
    lay("vqa/shapes/train.large.jsonl", [older_row(310), older_row(311)])
    lay("vqa/shapes/train.small.jsonl", [older_row(310)])
    lay("generation/mmchat/validation.jsonl", [older_row(320, inputs="图片里有什么") | {"outputs": "一只猫"}])
    # Several images, text in the URL-safe alphabet, one image that is no list, and an image that is broken.
    broken = older_row(420, 2)
    broken["image_base64_str"][1] = "not base64 at all!"
    urlsafe = older_row(410) | {"image_base64_str": [base64_text(410, urlsafe=True)]}
    single = older_row(430) | {"image_base64_str": base64_text(430)}
    lay("reasoning/nlvr/train.jsonl", [older_row(400, 2), urlsafe, single, broken])
    return Raw(folder, {"train": num + 11, "val": 2, "test": 2}, {"image_unreadable": 1})


def write_m3it80(folder: Path, num: int) -> Raw:
    for task, split, size in (("vqa-v2", "val", "500"), ("vqa-v2", "train", "500"), ("winoground", "test", "800")):
        originals = [older_row(number, 2 if task == "winoground" else 1) for number in range(num)]
        write_lines(folder / f"data/{task}/{split}_{size}.jsonl", originals)
        for language, words in (("deu_Latn", "Wie viele Tassen?"), ("zho_Hans", "有几个杯子")):
            texts = [{"instruction": "Say.", "inputs": words, "outputs": f"{language} {n}"} for n in range(num)]
            write_lines(folder / f"data/{task}/{task}_{split}_{language}.jsonl", texts)
    return Raw(folder, {"train": 2 * num, "val": 2 * num, "test": 2 * num})


def ureader_record(image: str | list[str], question: str, answer: str, task: str = "qa_sft") -> dict[str, Any]:
    """UReader's shape: the image and the question are two turns of the user's."""
    told = [("user", "<image>"), ("user", question), ("assistant", answer)]
    return {
        "image": [image] if isinstance(image, str) else image,
        "prompt": "",
        "text": "",
        "system_instruction": "",
        "conversations": [{"from": role, "value": text} for role, text in told],
        "task_type": task,
    }


def write_ureader(folder: Path, num: int) -> Raw:
    images = folder / "ureader_images"
    records = []
    for number in range(num):
        name = f"DUE_Benchmark/DocVQA/pngs/doc_{number}.png"
        save(images / name, encoded(number, "PNG", "RGBA" if number % 2 else "RGB"))
        records.append(ureader_record(name, f"What is the total of invoice {number}?", f"${number}.50"))
    scan = images / "DUE_Benchmark/KleisterCharity/scan.tif"
    scan.parent.mkdir(parents=True)
    picture(51).save(scan, save_all=True, append_images=[picture(52), picture(53)])
    save(images / "TabFact/t.png", encoded(60, "PNG"))
    tall = images / "DUE_Benchmark/InfographicsVQA/tall.jpeg"
    tall.parent.mkdir(parents=True)
    picture(61, 20, 400).save(tall)
    records += [
        ureader_record("DUE_Benchmark/KleisterCharity/scan.tif.2", "What is the value for the post town?", "None"),
        ureader_record("TabFact/t.png", "Four teams scored. Is that true?", "true", "nli_sft"),
        ureader_record("DUE_Benchmark/InfographicsVQA/tall.jpeg", "How many percent?", "12"),
        ureader_record(base64_text(62), "Describe the image.", "a poster", "cap_sft"),
    ]
    write_lines(folder / "ureader_json/train.jsonl", records)
    write_lines(folder / "ureader_json/val.jsonl", records[:1])
    write_lines(folder / "ureader_json/test_DocVQA.jsonl", records[:2])
    write_lines(folder / "ureader_json/test_TabFact.jsonl", records[-3:-2])
    return Raw(folder, {"train": len(records) + 1, "test": 3})


def write_pathvqa(folder: Path, num: int) -> Raw:
    asked = [("what is present?", "renal infarct"), ("is necrosis present?", "no"), ("where is it?", "in the spleen")]
    asked += [("does this image show a gland?", "Yes")]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image_type), ("question", pa.string()), ("answer", pa.string())])
    hub = {"info": {"features": {"image": {"_type": "Image"}, "question": {"dtype": "string", "_type": "Value"}}}}
    schema = schema.with_metadata({"huggingface": json.dumps(hub)})
    (folder / "data").mkdir(parents=True)
    files = {"train-00000-of-00002": num, "train-00001-of-00002": 4, "validation-00000-of-00001": 3}
    files["test-00000-of-00001"] = 2
    for place, (name, count) in enumerate(files.items()):
        rows = []
        for number in range(count):
            question, answer = asked[number % 4]
            content = encoded(1000 * place + number, mode=("RGB", "L", "CMYK")[number % 3])
            rows.append({"image": {"bytes": content, "path": None}, "question": question, "answer": answer})
        table = pa.Table.from_pylist(rows, schema=schema)
        pq.write_table(table, folder / "data" / f"{name}-0a1b2c3d4e5f6071.parquet")
    return Raw(folder, {"train": num + 4, "val": 3, "test": 2})


def write_llava_med_alignment(folder: Path, num: int) -> Raw:
    records = []
    for number in range(num):
        name = f"{20_000_000 + number}_F{number % 3}.jpg"
        save(folder / "images" / name, encoded(number))
        flags = {flag: flag == ("mri", "ct_scan")[number % 2] for flag in ("chest_xray", "mri", "ct_scan", "gross")}
        told = turns("Describe the given image in detail.\n<image>", f"MRI of a {COLORS[number % 6]} mass {number}")
        records.append({"id": name[:-4], "image": name, "domain": flags, "conversatons": told})
    records.append({**records[0], "id": "gone", "image": "gone.jpg"})
    write_list(folder / "llava_med_alignment_500k.json", records)
    return Raw(folder, {"train": num + 1}, {"image_missing": 1})


def write_llava_med_instruct(folder: Path, num: int) -> Raw:
    records = []
    for number in range(num):
        name = f"{30_000_000 + number}_F1.jpg"
        save(folder / "images" / name, encoded(number))
        told = turns("is necrosis present?\n<image>", "no", "What does the arrow show?", f"mass {number}")
        flags = {"chest_xray": False, "mri": False, "histology": True, "gross": False, "ct_scan": False}
        key = "conversatons" if number % 2 else "conversations"
        records.append({"id": name[:-4], "image": name, "domain": flags, key: told})
    write_list(folder / "llava_med_instruct_60k_inline_mention.json", records)
    return Raw(folder, {"train": num})


def _vision_flan(folder: Path, num: int) -> list[dict[str, Any]]:
    tasks = ("PACS+dog_image_category_classification", "VizWiz+question_answering", "CINIC-10+image_classification")
    records = []
    for number in range(num):
        task = tasks[min(number % 5, 2)]
        image = f"{task.partition('_')[0]}_{number}.jpg"
        save(folder / "images" / image, encoded(number))
        prompt = f"You will be given an image. Choose.\n[Options]: (a) {COLORS[0]} (b) {COLORS[1]}\n<image>"
        records.append(
            {
                "id": f"vision-flan-{task}_{number}",
                "image": image,
                "task_name": task,
                "conversations": turns(prompt, COLORS[number % 2]),
            }
        )
    return records


def write_vision_flan(folder: Path, num: int) -> Raw:
    records = _vision_flan(folder, num)
    write_list(folder / "annotation_191-task_1k.json", records)
    write_list(folder / "metadata.json", [{"file_name": record["image"]} for record in records])
    return Raw(folder, {"train": num})


def write_vision_flan_187(folder: Path, num: int) -> Raw:
    write_list(folder / "vision_flan.json", _vision_flan(folder, num))
    return Raw(folder, {"train": num})


WRITERS: dict[str, Callable[[Path, int], Raw]] = {
    "llava_pretrain": write_llava_pretrain,
    "llava_mix665k": write_mix665k,
    "sharegpt4v_pt": write_sharegpt4v_pt,
    "sharegpt4v_cap100k": write_sharegpt4v_cap100k,
    "sharegpt4v_ft": write_sharegpt4v_ft,
    "m3it": write_m3it,
    "m3it80": write_m3it80,
    "ureader": write_ureader,
    "pathvqa": write_pathvqa,
    "llava_med_alignment": write_llava_med_alignment,
    "llava_med_instruct": write_llava_med_instruct,
    "vision_flan": write_vision_flan,
    "vision_flan_187": write_vision_flan_187,
}


def write_raw(recipe: str, folder: Path, num: int = 8) -> Raw:
    """Lay out the download of a recipe; ``num`` is how many plain records it has beside its odd ones."""
    folder.mkdir(parents=True, exist_ok=True)
    return WRITERS[recipe](folder, num)
