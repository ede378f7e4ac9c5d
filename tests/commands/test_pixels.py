"""What a person sees is what a model sees: turned, transparent and deep images through train, eval, chat and check."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import ExifTags, Image
from safetensors.torch import load_file

from llava_moe.assemble import restore
from llava_moe.cli import run
from llava_moe.data.images.reading import AS_LLAVA, ImageReading
from llava_moe.eval.generation.generate import LocalModel
from llava_moe.files.checkpoints import newest_checkpoint
from tests.commands.test_eval_model import CPU, NO_MODEL
from tests.datatools.prepare.own_data import write_page
from tests.distributed.test_eval_ranks import stir
from tests.eval.generation.test_endpoint import Server

Refused = Callable[..., str]
QUESTION = "What colour is the square?"


def picture(number: int) -> np.ndarray:
    """A picture that is no other when it is turned: a bright corner on noise."""
    pixels = np.random.default_rng(number).integers(0, 120, (24 + number, 40, 3), dtype=np.uint8)
    pixels[:12, :14] = (250, 240, 20 * number)
    return pixels


def save_lying(pixels: np.ndarray, path: Path) -> None:
    """As a phone held sideways writes it, its right half seen through."""
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, dtype=np.uint8)])
    rgba[:, rgba.shape[1] // 2 :, 3] = 0
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(rgba))).save(path, exif=exif)


def save_seen(pixels: np.ndarray, path: Path) -> None:
    """What a person sees of it."""
    seen = pixels.copy()
    seen[:, seen.shape[1] // 2 :] = 255
    Image.fromarray(seen).save(path)


def write_data(folder: Path, save: Callable[[np.ndarray, Path], None], num_records: int = 8) -> None:
    folder.mkdir()
    records = []
    for number in range(num_records):
        save(picture(number), folder / f"{number}.png")
        said = (("human", f"<image>\n{QUESTION}"), ("gpt", "red" if number % 2 else "blue"))
        turns = [{"from": role, "value": text} for role, text in said]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))


def losses(folder: Path) -> list[tuple[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [(line["sample_hash"], line["loss"]) for line in lines]


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on the same records: ``lying``, as ``seen``, and lying as LLaVA takes it (``letter``)."""
    folder = tmp_path_factory.mktemp("pixels")
    write_data(folder / "lying data", save_lying)
    write_data(folder / "seen data", save_seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        for name, data, more in (
            ("lying", "lying data", []),
            ("seen", "seen data", []),
            ("letter", "lying data", ["data.exif=ignore", "data.alpha=drop"]),
        ):
            words = [f"path={folder / data / 'train.json'}", f"images={folder / data}", "train.max_steps=2"]
            words.append("adapter=lora")
            assert run(["train", *words_for_tiny, *words, *more, f"out={folder / name}"]) == 0
    for name in ("lying", "letter"):
        stir(folder / name)
    return folder


def test_a_lying_picture_trains_as_what_a_person_sees(trained: Path) -> None:
    lying, seen, letter = (losses(trained / name) for name in ("lying", "seen", "letter"))
    assert lying == seen
    assert [key for key, _ in letter] == [key for key, _ in seen], "what is read is in no record's key"
    assert [loss for _, loss in letter] != [loss for _, loss in seen]


def test_a_runs_configuration_says_how_it_reads_images(trained: Path) -> None:
    for name, reading in (("lying", ImageReading("apply", "white")), ("letter", ImageReading("ignore", "drop"))):
        data = yaml.safe_load((trained / name / "config.yaml").read_text())["data"]
        assert (data["exif"], data["alpha"]) == (reading.exif, reading.alpha)
        assert restore(trained / name).encoder.reading == reading


def answered(capfd: pytest.CaptureFixture[str], *words: str) -> str:
    capfd.readouterr()
    assert run(["chat", *words, f"prompt={QUESTION}", "max_new_tokens=30", "num_threads=1"]) == 0
    return capfd.readouterr().out


def test_chat_sees_what_the_run_was_trained_to_see(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lying, seen = trained / "lying data" / "3.png", trained / "seen data" / "3.png"
    assert answered(capfd, f"run={trained / 'lying'}", f"image={lying}") == answered(
        capfd, f"run={trained / 'lying'}", f"image={seen}"
    )
    assert answered(capfd, f"run={trained / 'letter'}", f"image={lying}") != answered(
        capfd, f"run={trained / 'letter'}", f"image={seen}"
    )


def write_charts(folder: Path, images: Path) -> Path:
    """ChartQA's layout over the pictures of a data folder."""
    (folder / "png").mkdir(parents=True)
    rows = [{"imgname": f"{number}.png", "query": f"{QUESTION} {number}", "label": "red"} for number in range(8)]
    for row in rows:
        shutil.copy(images / row["imgname"], folder / "png")
    for part, of_part in (("human", rows[:4]), ("augmented", rows[4:])):
        (folder / f"test_{part}.json").write_text(json.dumps(of_part))
    return folder


def scored(out: Path, charts: Path, *words: str) -> list[str]:
    told = [f"benchmark_paths.chartqa={charts}", "benchmarks=[chartqa]", "protocol=lmms_eval", "num_threads=1"]
    assert run(["eval", *words, *told, f"out={out}"]) == 0
    lines = (out / "eval" / "chartqa.answers.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def test_evaluation_sees_what_the_run_was_trained_to_see(trained: Path, tmp_path: Path) -> None:
    lying = write_charts(tmp_path / "lying", trained / "lying data")
    seen = write_charts(tmp_path / "seen", trained / "seen data")
    ours, letter = f"run={trained / 'lying'}", f"run={trained / 'letter'}"
    assert scored(tmp_path / "1", lying, ours) == scored(tmp_path / "2", seen, ours)
    assert scored(tmp_path / "3", lying, letter) != scored(tmp_path / "4", seen, letter)


def test_a_checkpoint_without_a_run_takes_the_same_keys(trained: Path, tmp_path: Path) -> None:
    from llava_moe.runs.scored_model import open_model

    assert run(["export", f"run={trained / 'lying'}", "to=hf", f"out={tmp_path / 'hf'}", "dtype=fp32"]) == 0
    config = {"run": None, "batch_size": 4, "dtype": "fp32", "model": NO_MODEL | {"path": str(tmp_path / "hf")}}
    plain = open_model(config, CPU)
    asked = open_model(config | {"data": {"exif": "ignore", "alpha": "drop", "value_range": [0, 4095]}}, CPU)
    assert isinstance(plain.answerer, LocalModel) and isinstance(asked.answerer, LocalModel)
    assert plain.answerer.encoder.reading == ImageReading()
    assert asked.answerer.encoder.reading == ImageReading("ignore", "drop", (0, 4095))
    assert plain.fingerprint != asked.fingerprint, "answers to other pixels are another model's"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = Server()
    yield started
    started.stop()


def test_a_server_is_sent_what_a_person_sees(trained: Path, server: Server, tmp_path: Path) -> None:
    charts = {name: write_charts(tmp_path / name, trained / f"{name} data") for name in ("lying", "seen")}

    def sent(out: str, folder: Path, *words: str) -> list[str]:
        server.seen.clear()
        scored(tmp_path / out, folder, f"model.endpoint={server.address}", "model.name=tiny", *words)
        parts = [part for body in server.seen for part in body["messages"][-1]["content"]]
        return sorted(part["image_url"]["url"] for part in parts if part["type"] == "image_url")

    seen = sent("1", charts["seen"])
    assert sent("2", charts["lying"]) == seen
    assert sent("3", charts["lying"], "data.alpha=black") != seen != sent("4", charts["lying"], "data.exif=ignore")


def test_a_run_of_an_earlier_release_is_read_as_it_was_trained(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "letter", tmp_path / "old")
    config = yaml.safe_load((tmp_path / "old" / "config.yaml").read_text())
    for key in ("exif", "alpha"):
        del config["data"][key]
    (tmp_path / "old" / "config.yaml").write_text(yaml.safe_dump(config))
    assert restore(tmp_path / "old").encoder.reading == AS_LLAVA


def test_a_run_of_an_earlier_release_goes_on_only_as_it_began(
    trained: Path, words_for_tiny: tuple[str, ...], refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    data, old = trained / "lying data", tmp_path / "old"
    words = ["train", *words_for_tiny, f"path={data / 'train.json'}", f"images={data}", "adapter=lora", f"out={old}"]
    shutil.copytree(trained / "letter", old)
    flat = json.loads((old / ".config.json").read_text())
    flat = {key: value for key, value in flat.items() if key not in ("data.exif", "data.alpha", "value_range")}
    (old / ".config.json").write_text(json.dumps(flat | {"train.max_steps": 4}))
    (old / "finished.json").unlink()
    line = refused(*words, "train.max_steps=4")
    assert "data.exif ('ignore' there, 'apply' asked)" in line and "data.alpha ('drop' there" in line
    assert run([*words, "train.max_steps=4", "data.exif=ignore", "data.alpha=drop"]) == 0


@pytest.mark.parametrize("command", ["eval", "chat"])
@pytest.mark.parametrize("key", ["data.exif=ignore", "data.alpha=black", "data.value_range=[0,9]"])
def test_a_run_is_not_asked_about_other_pixels(command: str, key: str, trained: Path, refused: Refused) -> None:
    line = refused(command, f"run={trained / 'lying'}", key)
    assert key.partition("=")[0] in line and "a run reads images as it was trained" in line


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.exif=maybe", "data.exif=maybe: give apply or ignore"),
        ("data.alpha=red", "data.alpha=red: give white or black or drop"),
        ("value_range=[9,0]", "two finite numbers [low, high]"),
        ("value_range=[0]", "two finite numbers [low, high]"),
        ("value_range=4095", "two finite numbers [low, high]"),
        ("data.sources.mine.value_range=[0,9,12]", "data.sources.mine.value_range=[0, 9, 12]: give two finite numbers"),
        ("data.sources.mine.value_range=[9,0]", "two finite numbers [low, high]"),
        ("data.exiff=apply", "did you mean data.exif?"),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan", "data check", "data stats"])
def test_what_cannot_be_is_refused(command: str, word: str, told: str, tiny_words: list[str], refused: Refused) -> None:
    assert told in refused(*command.split(), *tiny_words, word)


@pytest.mark.parametrize("command", ["eval", "chat"])
def test_what_cannot_be_is_refused_beside_a_checkpoint(command: str, refused: Refused) -> None:
    assert "data.value_range" in refused(command, "model.path=/nowhere", "data.value_range=[2,1]")
    assert "data.exif" in refused(command, "model.path=/nowhere", "data.exif=no")


def test_a_range_for_data_that_has_none_is_refused(refused: Refused) -> None:
    assert "value_range=[0, 4095] is not read by the data that was chosen" in refused("plan", "value_range=[0,4095]")


def twelve_bits(pixels: np.ndarray) -> np.ndarray:
    return (pixels[..., 0].astype(np.int64) * 4095 // 250).astype(np.uint16)


def save_twelve_bits(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(twelve_bits(pixels)).save(path)


def save_its_eight(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(np.rint(twelve_bits(pixels) / 4095 * 255).astype(np.uint8)).save(path)


def words_of(tiny_words: list[str], folder: Path) -> list[str]:
    return [*tiny_words, f"path={folder / 'train.json'}", f"images={folder}", "train.max_steps=2"]


def test_deep_gray_is_named_by_check_and_run_and_its_range_makes_it_seen(
    tiny_words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "deep", save_twelve_bits)
    write_data(tmp_path / "eight", save_its_eight)
    words = words_of(tiny_words, tmp_path / "deep")
    assert run(["data", "check", *words, f"out={tmp_path / 'check'}"]) == 0
    told = capfd.readouterr().out
    assert "mine: 8 images of more than 8 bits come out nearly black, such as 0.png" in told
    assert "value_range: [0, 4095]" in told
    assert run(["train", *words, f"out={tmp_path / 'dark'}"]) == 0
    told = capfd.readouterr().out
    assert "1 image of more than 8 bits came out nearly black, such as mine/" in told
    assert "8 images of more than 8 bits came out nearly black" in told and "value_range: [0, 4095]" in told
    assert run(["train", *words, "value_range=[0,4095]", f"out={tmp_path / 'ranged'}"]) == 0
    assert run(["data", "check", *words, "value_range=[0,4095]", f"out={tmp_path / 'check'}"]) == 0
    assert "nearly black" not in capfd.readouterr().out
    assert run(["train", *words_of(tiny_words, tmp_path / "eight"), f"out={tmp_path / 'eight run'}"]) == 0
    assert losses(tmp_path / "ranged") == losses(tmp_path / "eight run") != losses(tmp_path / "dark")
    assert restore(tmp_path / "ranged").encoder.reading.value_range == (0, 4095)


def test_the_range_reaches_a_prepared_source(tiny_words: list[str], tmp_path: Path) -> None:
    write_data(tmp_path / "deep", save_twelve_bits)
    records = json.loads((tmp_path / "deep" / "train.json").read_text())
    for record in records[::2]:
        record["image"] = base64.b64encode((tmp_path / "deep" / record["image"]).read_bytes()).decode()
    (tmp_path / "deep" / "train.json").write_text(json.dumps(records))
    page = write_page(tmp_path, parts='Part("train", "deep/train.json", 8)', images="deep")
    assert run(["data", "prepare", f"recipe={page}", f"downloads={tmp_path}", "num_processes=1"]) == 0
    stored = (word for word in words_of(tiny_words, tmp_path / "deep") if not word.startswith(("path=", "images=")))
    words = [*stored, f"path={tmp_path / 'data' / 'own'}", "value_range=[0,4095]"]
    assert run(["train", *words, f"out={tmp_path / 'stored'}"]) == 0
    raw = [*words_of(tiny_words, tmp_path / "deep"), "value_range=[0,4095]"]
    assert run(["train", *raw, f"out={tmp_path / 'raw'}"]) == 0
    assert [loss for _, loss in losses(tmp_path / "stored")] == [loss for _, loss in losses(tmp_path / "raw")]


def test_chat_names_a_picture_that_comes_out_nearly_black(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_twelve_bits(picture(0), tmp_path / "scan.png")
    words = [f"run={trained / 'lying'}", f"prompt={QUESTION}", "max_new_tokens=3", "num_threads=1"]
    assert run(["chat", *words, f"image={tmp_path / 'scan.png'}"]) == 0
    assert "scan.png (its values: 0 to 4095)" in capfd.readouterr().err


def test_evaluation_names_pictures_that_come_out_nearly_black(
    trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "deep", save_twelve_bits)
    scored(tmp_path / "out", write_charts(tmp_path / "charts", tmp_path / "deep"), f"run={trained / 'lying'}")
    assert "8 images of more than 8 bits came out nearly black" in capfd.readouterr().out


def test_check_counts_what_is_turned_and_what_is_transparent(
    trained: Path, words_for_tiny: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(tmp_path / "cache"))
    words = words_of(list(words_for_tiny), trained / "lying data")
    assert run(["data", "check", *words, f"out={tmp_path / 'check'}"]) == 0
    told = json.loads((tmp_path / "check" / "check.json").read_text())
    text = json.dumps(told)
    assert '"image_orientation"' in text and '"image_transparent"' in text
    assert not (tmp_path / "check" / "quarantine.jsonl").read_text(), "neither is a fault"


def test_fewer_records_than_a_batch_are_learned_in_one_step_at_the_full_rate(
    tiny_words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_data(tmp_path / "few", save_seen)
    words = [word for word in words_of(tiny_words, tmp_path / "few") if not word.startswith("train.max_steps")]
    words += ["train.global_batch_size=128", "train.epochs=1", "train.max_steps=null", "adapter=lora"]
    assert run(["plan", *words]) == 0
    told = " ".join(capfd.readouterr().out.split())
    assert "1 optimizer step in all, fewer than 20" in told and "train.global_batch_size (128 now)" in told
    assert run(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    assert "1 optimizer step in all, fewer than 20" in capfd.readouterr().out
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert line["learning_rate"] == max(config["stage"]["learning_rates"].values()) > 0
    adapter = load_file(newest_checkpoint(tmp_path / "run") / "adapter" / "adapter_model.safetensors")
    moved = [tensor for name, tensor in adapter.items() if "lora_B" in name]
    assert moved and all(torch.count_nonzero(tensor) for tensor in moved), "B starts at zero"
