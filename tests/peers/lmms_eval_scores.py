"""Our scores of a run beside lmms-eval's through the plug-in, on the same items, in an environment that has lmms-eval.

``python -m tests.peers.lmms_eval_scores RUN FOLDER`` writes a few items of each benchmark in its published layout
(pictures and questions of the embedded set), scores the run by ``llava-moe eval`` and by
``lmms_eval``, and prints both.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from llava_moe.eval.files import read_answers
from llava_moe.eval.tasks.demo import EMBEDDED_IMAGES
from llava_moe.eval.tasks.tiny_lvlm import ABILITIES
from llava_moe.lmms_eval_plugin import task_folder

BENCHMARKS = ("cifar10", "cifar100", "mnist", "pathvqa", "snli_ve", "tiny_lvlm", "vsr")
NUM_IMAGES = 12
TWO_PROCESSES = shlex.split(
    "-m accelerate.commands.launch --cpu --num_machines 1 --num_processes 2 --mixed_precision no --dynamo_backend no"
)


@dataclass(frozen=True)
class Picture:
    """A test picture of the embedded set with its caption and its first question that has an answer."""

    image: Image.Image
    caption: str
    questions: tuple[tuple[str, str], ...]


def pictures(domain: str) -> list[Picture]:
    """The first test pictures of a domain."""
    table = pq.read_table(EMBEDDED_IMAGES / f"{domain}.parquet")
    rows = [row for row in table.to_pylist() if row["split"] == "test"][:NUM_IMAGES]
    found = []
    for row in rows:
        turns = [turn["text"].replace("<image>", "").strip() for turn in row["conversations"]]
        image = Image.open(io.BytesIO(row["images"][0])).convert("RGB")
        found.append(Picture(image, row["caption"], tuple(zip(turns[::2], turns[1::2], strict=True))))
    return found


def write_benchmarks(folder: Path) -> None:
    """A few items of each of :data:`BENCHMARKS`, as its source publishes it."""
    general, documents, medical = (pictures(domain) for domain in ("general", "documents", "medical"))
    writers: dict[str, Callable[[Path], None]] = {
        "cifar10": lambda place: _write_cifar(place / "test_batch.bin", general, 10),
        "cifar100": lambda place: _write_cifar(place / "cifar-100-binary" / "test.bin", general, 100),
        "mnist": lambda place: _write_mnist(place, general),
        "pathvqa": lambda place: _write_pathvqa(place, medical),
        "snli_ve": lambda place: _write_snli_ve(place, general),
        "tiny_lvlm": lambda place: _write_tiny_lvlm(place, (general, documents, medical, general[::-1], medical[::-1])),
        "vsr": lambda place: _write_vsr(place, general + documents),
    }
    for name, write in writers.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        write(folder / name)


def _write_cifar(file: Path, shown: list[Picture], num_classes: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    records = []
    for number, picture in enumerate(shown):
        label = number * 7 % num_classes
        pixels = np.asarray(picture.image.resize((32, 32))).transpose(2, 0, 1)
        records.append(bytes([label] if num_classes == 10 else [label // 5, label]) + pixels.tobytes())
    file.write_bytes(b"".join(records))


def _write_mnist(place: Path, shown: list[Picture]) -> None:
    digits = np.stack([np.asarray(picture.image.convert("L").resize((28, 28))) for picture in shown])
    header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in digits.shape)
    (place / "t10k-images-idx3-ubyte").write_bytes(header + digits.tobytes())
    labels = bytes(number % 10 for number in range(len(shown)))
    (place / "t10k-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01" + len(labels).to_bytes(4, "big") + labels)


def _write_pathvqa(place: Path, shown: list[Picture]) -> None:
    rows = [
        {"image": {"bytes": _png(picture.image), "path": None}, "question": question, "answer": answer}
        for picture in shown
        for question, answer in picture.questions[:4]
    ]
    pq.write_table(pa.Table.from_pylist(rows), place / "test-00000-of-00001.parquet")


def _write_snli_ve(place: Path, shown: list[Picture]) -> None:
    (place / "flickr30k-images").mkdir(exist_ok=True)
    with (place / "snli_ve_test.jsonl").open("w") as out:
        for number, picture in enumerate(shown):
            picture.image.resize((90, 60)).save(place / "flickr30k-images" / f"{number}.jpg")
            label = ("entailment", "neutral", "contradiction", "-")[number % 4]
            row = {"Flickr30K_ID": number, "gold_label": label, "sentence2": picture.caption, "pairID": f"p{number}"}
            out.write(json.dumps(row) + "\n")


def _write_tiny_lvlm(place: Path, shown: tuple[list[Picture], ...]) -> None:
    for ability, chosen in zip(ABILITIES, shown, strict=True):
        (place / ability).mkdir(exist_ok=True)
        rows = []
        for number, picture in enumerate(chosen):
            picture.image.save(place / ability / f"{number}.png")
            question, answer = picture.questions[number % len(picture.questions)]
            rows.append({"image_path": f"{number}.png", "question": question, "gt_answers": [answer]})
        (place / ability / "dataset.json").write_text(json.dumps(rows))


def _write_vsr(place: Path, shown: list[Picture]) -> None:
    (place / "images").mkdir(exist_ok=True)
    with (place / "test.jsonl").open("w") as out:
        for number, picture in enumerate(shown):
            picture.image.resize((60, 100)).save(place / "images" / f"{number}.png")
            caption = picture.caption if number % 2 else shown[number - 1].caption
            row = {"image": f"{number}.png", "caption": caption, "label": number % 2, "relation": "left of"}
            out.write(json.dumps(row) + "\n")


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def environment(data: Path) -> dict[str, str]:
    """Of both programs: the same data, no network, caches of their own."""
    return os.environ | {
        "LLAVA_MOE_BENCHMARKS": str(data),
        "LLAVA_MOE_CACHE": str(data.parent / "cache"),
        "HF_HOME": str(data.parent / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def score_with_ours(run: Path, data: Path, out: Path) -> dict[str, dict[str, float]]:
    """``llava-moe eval``: benchmark to measures over all its questions."""
    words = [f"run={run}", f"out={out}", f"benchmarks=[{','.join(BENCHMARKS)}]", "protocol=lmms_eval", "limit=0"]
    subprocess.run([sys.executable, "-m", "llava_moe", "eval", *words], check=True, env=environment(data))
    results = json.loads((out / "eval" / "results.json").read_text())
    return {name: results[name]["domains"]["all"] for name in BENCHMARKS}


def score_with_lmms_eval(run: Path, data: Path, out: Path, launcher: Sequence[str] = ()) -> dict[str, dict[str, float]]:
    """``lmms_eval --model llava_moe``: task to metrics."""
    words = [*launcher, "-m", "lmms_eval", "--model", "llava_moe", "--model_args", f"run={run}"]
    words += ["--include_path", str(task_folder()), "--tasks", ",".join(BENCHMARKS), "--batch_size", "8"]
    words += ["--output_path", str(out), "--log_samples", "--verbosity", "WARNING"]
    shutil.rmtree(out, ignore_errors=True)
    subprocess.run([sys.executable, *words], check=True, env=environment(data))
    (results,) = out.rglob("*_results.json")
    found = json.loads(results.read_text())["results"]
    return {name: {key.split(",")[0]: value for key, value in found[name].items()} for name in BENCHMARKS}


def predictions_of_lmms_eval(out: Path, name: str) -> list[str]:
    """The answers in the order of the questions, from the samples that ``--log_samples`` writes."""
    (samples,) = out.rglob(f"*_samples_{name}.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    said = {row["doc_id"]: row["filtered_resps"] for row in rows}
    assert len(said) == len(rows), f"{samples}: a question stands twice"
    return [said[number] for number in range(len(rows))]


def differences(ours: Path, theirs: Path) -> Iterator[str]:
    """Every question whose answers differ, in a line."""
    for name in BENCHMARKS:
        answers = read_answers(ours / "eval" / f"{name}.answers.jsonl")
        for answer, said in zip(answers, predictions_of_lmms_eval(theirs, name), strict=True):
            if said != answer.prediction:
                yield f"{name} {answer.question_id}: {answer.prediction!r} ours, {said!r} theirs"


def main(run: Path, folder: Path) -> int:
    """Score with both, lmms-eval with one process and with two; the exit status is 1 where anything differs."""
    data = folder / "benchmarks"
    write_benchmarks(data)
    ours = score_with_ours(run, data, folder / "ours")
    alone = score_with_lmms_eval(run, data, folder / "theirs")
    together = score_with_lmms_eval(run, data, folder / "theirs-2", TWO_PROCESSES)
    unequal = [*differences(folder / "ours", folder / "theirs"), *differences(folder / "ours", folder / "theirs-2")]
    print(f"\n{'benchmark':<10} {'measure':<27} {'llava-moe eval':>15} {'lmms_eval':>12} {'2 processes':>12}")
    for name, measures in ours.items():
        for measure, value in measures.items():
            if measure == "num_questions":
                continue
            others = [found[name][measure] for found in (alone, together)]
            print(f"{name:<10} {measure:<27} {value:>15.6f} {others[0]:>12.6f} {others[1]:>12.6f}")
            unequal += [f"{name} {measure}: {other} is not {value}" for other in others if abs(value - other) > 1e-6]
    num_answers = sum(len(read_answers(folder / "ours" / "eval" / f"{name}.answers.jsonl")) for name in BENCHMARKS)
    print(f"\n{num_answers} answers, three times; {len(unequal)} differences", *unequal, sep="\n")
    return int(bool(unequal))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
