"""``llava-moe chat`` on a tiny trained run: one shot, from a pipe, and in a real terminal."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llava_moe.assemble import restore
from llava_moe.cli import run
from llava_moe.data.encode import Encoder
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import answer_questions

QUESTION = "What colour is the square?"
Refused = Callable[..., str]
Piped = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def runs(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One short run of each kind; untrained to speak, their answers are long and differ by question and image."""
    folder = tmp_path_factory.mktemp("runs")
    words = [*words_for_tiny, "train.max_steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.chdir(folder)
        for name, more in {
            "llava_mole": ["adapter=llava_mole"],
            "captions": ["stage=pretrain", "data.max_bad_share=1"],
        }.items():
            assert run(["train", *words, *more, f"out={folder / name}"]) == 0
    return {name: folder / name for name in ("llava_mole", "captions")}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("my images") / "a red one.png"
    pixels = np.random.default_rng(0).integers(0, 256, (25, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def expected_answer(folder: Path, image: Path | None, question: str = QUESTION, max_new_tokens: int = 40) -> str:
    assembled = restore(folder)
    images = () if image is None else (str(image),)
    asked = Question("q", images, question, ("x",), "general", "kind", True, max_new_tokens)
    return answer_questions(assembled.model, assembled.encoder, [asked])[0]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Piped:
    """Runs the command with lines on standard input; returns status, output and errors."""

    def follow(lines: bytes, *words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        status = run(["chat", *words, "num_threads=1"])
        written = capfd.readouterr()
        return status, written.out, written.err

    return follow


def test_one_shot_prints_what_evaluation_answers_word_for_word_and_nothing_else(
    runs: dict[str, Path], image: Path, piped: Piped
) -> None:
    words = [f"run={runs['llava_mole']}", f"prompt={QUESTION}", "max_new_tokens=40"]
    command = [sys.executable, "-m", "llava_moe", "chat", *words, f"image={image}"]
    finished = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert finished.returncode == 0, finished.stderr
    expected = expected_answer(runs["llava_mole"], image)
    assert finished.stdout == expected + "\n" and len(expected) > 10
    assert piped(b"", *words)[:2] == (0, expected_answer(runs["llava_mole"], None) + "\n")


def test_a_prompt_may_hold_any_text(runs: dict[str, Path], piped: Piped) -> None:
    text = 'What\'s <this>, "${USER}" = {a}?\n/help \\ it'
    status, out, _ = piped(b"", f"run={runs['llava_mole']}", f"prompt={text}", "max_new_tokens=5")
    assert (status, out) == (0, expected_answer(runs["llava_mole"], None, text, 5) + "\n")


def test_piped_lines_are_one_conversation_and_answers_alone_are_printed(
    runs: dict[str, Path], image: Path, piped: Piped, tmp_path: Path
) -> None:
    lines = f"'{image}' {QUESTION}\n\n/save {tmp_path / 'it.jsonl'}\nIs it small?\n/undo\n/reset\n{QUESTION}\n/quit\nno"
    status, out, errors = piped(lines.encode(), f"run={runs['llava_mole']}", "max_new_tokens=40")
    first, alone = expected_answer(runs["llava_mole"], image), expected_answer(runs["llava_mole"], None)
    assert status == 0, errors
    assert out.startswith(first + "\n") and out.endswith("\n" + alone + "\n") and first != alone
    second = out.removeprefix(first + "\n").removesuffix("\n" + alone + "\n")
    assert second and second != expected_answer(runs["llava_mole"], None, "Is it small?")
    assert "taken back: Is it small?" in errors
    saved = json.loads((tmp_path / "it.jsonl").read_text())
    assert [turn["text"] for turn in saved["conversations"]] == [f"<image>\n{QUESTION}", first]


def test_a_run_of_the_first_stage_captions_the_image(runs: dict[str, Path], image: Path, piped: Piped) -> None:
    words = [f"run={runs['captions']}", "max_new_tokens=9"]
    status, caption, _ = piped(b"", *words, f"image={image}")
    assert status == 0 and caption.strip()
    assert piped(f"{image}\n".encode(), *words)[:2] == (0, caption)
    status, out, errors = piped(b"", *words, f"image={image}", f"prompt={QUESTION}")
    assert (status, out) == (0, caption) and "question is not read" in errors


def test_a_line_that_cannot_be_followed_is_told_with_its_number_and_the_rest_goes_on(
    runs: dict[str, Path], piped: Piped
) -> None:
    lines = f"/imag x\n/image /nowhere.png\n\xff\n/undo\n/save\n/save x.jsonl\n{QUESTION}\n".encode("latin-1")
    status, out, errors = piped(lines, f"run={runs['llava_mole']}", "max_new_tokens=40")
    assert (status, out) == (2, expected_answer(runs["llava_mole"], None) + "\n")
    told = [line for line in errors.splitlines() if line.startswith("line ")]
    assert [line.partition(":")[0] for line in told] == [f"line {number}" for number in range(1, 7)]
    assert "did you mean /image?" in told[0] and "does not exist" in told[1] and "UTF-8" in told[2]


def test_a_missing_image_is_told_before_torch_is_loaded() -> None:
    program = (
        "import sys; from llava_moe.commands.words.chat import main\n"
        "try: main(['model.path=x', 'image=/nowhere/a.png', 'prompt=a'])\n"
        "except Exception as error: print(error, 'torch' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed == "image /nowhere/a.png does not exist: give the path of an image file False\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompt="], "prompt= is empty"),
        (["prompt=  "], "prompt= is empty"),
        (["prompt=a", "image=/nowhere/a.png"], "image /nowhere/a.png does not exist"),
        (["prompt=a", "image=https://a.org/b.png"], "is not fetched"),
        (["prompt=a", "image={run}/config.yaml"], "no image that Pillow knows"),
        (["prompt=<image> a"], "marks 1 <image> and has 0 images"),
        (["prompt=a", "temperature=-1"], "temperature=-1: give a number of at least 0"),
        (["prompt=a", "temperature=1e-9"], "temperature=1e-09: give 0 (always the likeliest token) or at least 0.001"),
        (["prompt=a", "repetition_penalty=0"], "repetition_penalty=0: give a number of at least 0.01 and at most 100"),
        (["prompt=a", "image=" + "a" * 300], "each name in it of at most 255 bytes"),
        (["prompt=a", "top_p=0"], "top_p=0: give a number above 0"),
        (["prompt=a", "max_new_tokens=0"], "max_new_tokens=0"),
        (["prompt=a", "dtype=fp8"], "dtype=fp8"),
        (["promt=a"], "unknown key promt (did you mean prompt?)"),
        (["prompt=a", "run=/nowhere"], "/nowhere does not exist"),
        (["prompt=a", "run={run}/.."], "holds no complete checkpoint"),
        (["prompt=a", "run=null"], "chat needs one model"),
        (["prompt=a", "model.path=x"], "chat needs one model"),
        (["prompt=a", "run=null", "model.path=/nowhere"], "no such folder"),
        (["prompt=" + "word " * 3000], "the model has 2048 positions"),
    ],
)
def test_bad_words_are_one_line(words: list[str], told: str, runs: dict[str, Path], refused: Refused) -> None:
    filled = [word.replace("{run}", str(runs["llava_mole"])) for word in words]
    assert told in refused("chat", f"run={runs['llava_mole']}", *filled)


def test_no_question_on_standard_input_is_told(
    runs: dict[str, Path], refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n\n")))
    assert "held no question" in refused("chat", f"run={runs['llava_mole']}")


class Typist:
    """A person at a real pseudo-terminal."""

    def __init__(self, *words: str) -> None:
        self.master, slave = pty.openpty()

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        environment = os.environ | {"TERM": "xterm", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llava_moe", "chat", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            preexec_fn=take_terminal,
        )
        os.close(slave)
        self.screen = ""

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def read_until(self, pattern: str, seconds: float = 120) -> str:
        """What is shown up to and with the pattern; what comes behind it is left for the next call."""
        deadline = time.monotonic() + seconds
        while (found := re.search(pattern, self.screen)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.screen!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                time.sleep(0.05)  # A search of all that is shown after each letter would cost more than the answer.
                self.screen += self._read()
        shown, self.screen = self.screen[: found.end()], self.screen[found.end() :]
        return shown

    def see_prompt(self, pattern: str = "> ") -> str:
        """Everything up to the prompt, once what is typed there goes to readline."""
        shown = self.read_until(pattern)
        deadline = time.monotonic() + 30
        while termios.tcgetattr(self.master)[3] & termios.ICANON:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Trap: a signal between this and readline's select() is only seen with the next key (CPython's readline.c).
        time.sleep(0.1)
        return shown

    def leave(self, seconds: float = 30) -> int:
        """The exit status; what is still written is read, so that nothing waits for us."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.master], [], [], 0.1)[0]:
                self.screen += self._read()
        return self.process.returncode

    def _read(self) -> str:
        try:
            raw = os.read(self.master, 65536).decode(errors="replace")
        except OSError:  # the other side has closed
            return ""
        return re.sub(r"\x1b(\[[0-9;?]*[A-Za-z]|[=>])", "", raw)


@pytest.fixture
def sit_down(runs: dict[str, Path]) -> Iterator[Callable[..., Typist]]:
    typists: list[Typist] = []

    def start(*words: str) -> Typist:
        typists.append(Typist(f"run={runs['llava_mole']}", "num_threads=1", *words))
        return typists[-1]

    yield start
    for typist in typists:
        if typist.process.poll() is None:
            typist.process.send_signal(signal.SIGKILL)
            typist.process.wait()
        os.close(typist.master)


def test_a_person_drags_an_image_asks_stops_an_answer_and_leaves(
    sit_down: Callable[..., Typist], runs: dict[str, Path], image: Path, tmp_path: Path
) -> None:
    typist = sit_down("max_new_tokens=1900", "repetition_penalty=0.5")
    welcome = typist.see_prompt(r"\n> ")
    assert "LlavaMole(" in welcome and "drag an image" in welcome and "float32 on cpu" in welcome
    typist.type(str(image).replace(" ", "\\ ") + " \n")
    assert "a red one.png goes with your next question" in typist.see_prompt(r"\n\[a red one.png\] > ")
    typist.type(f"{QUESTION}\n")
    # A penalty far below one makes the model say its words again and again: an answer too long to wait for.
    typist.read_until(r"(\w\w\S{0,200}\s*)\1\1\1\1")
    typist.type("\x03")
    typist.read_until("Ctrl-C again, or Ctrl-D, leaves")
    assert typist.process.poll() is None
    typist.see_prompt()
    typist.type("/imge\n")
    typist.read_until(re.escape("/imge is not a command (did you mean /image?)"))
    typist.type(f"/save {tmp_path / 'it.jsonl'}\n")
    typist.read_until("saved to")
    [record] = [json.loads(line) for line in (tmp_path / "it.jsonl").read_text().splitlines()]
    assert record["images"] == [str(image)]
    assert [turn["role"] for turn in record["conversations"]] == ["user", "assistant"]
    assert 8 < len(record["conversations"][1]["text"]) < 1900
    # History: the arrow up brings the line before the last back.
    typist.type("/reset\n")
    typist.see_prompt("a new conversation.*\n.*> ")
    typist.type("\x1b[A\x1b[A\n")
    typist.read_until("there is nothing to save")
    typist.see_prompt()
    typist.type("\x04")
    assert typist.leave() == 0


def test_ctrl_c_twice_leaves(sit_down: Callable[..., Typist]) -> None:
    typist = sit_down()
    typist.see_prompt(r"\n> ")
    typist.type("half a line\x03")
    typist.read_until("Ctrl-C again, or Ctrl-D, leaves")
    typist.see_prompt()
    typist.type("\x03")
    assert typist.leave() == 0


def test_a_checkpoint_of_hugging_face_answers_as_the_run_it_is(
    runs: dict[str, Path], image: Path, piped: Piped, tmp_path: Path
) -> None:
    assembled = restore(runs["llava_mole"])
    assembled.attached.detach()
    assembled.model.save_pretrained(tmp_path / "hf")
    assembled.encoder.tokenizer.save_pretrained(tmp_path / "hf")
    question = Question("q", (str(image),), QUESTION, ("x",), "general", "kind", True, 20)
    expected = answer_questions(assembled.model, as_llava(assembled.encoder), [question])[0]
    status, out, errors = piped(
        b"", f"model.path={tmp_path / 'hf'}", f"image={image}", f"prompt={QUESTION}", "max_new_tokens=20"
    )
    assert (status, out) == (0, expected + "\n"), errors


def as_llava(encoder: Encoder) -> Encoder:
    """The encoder with LLaVA-1.5's own system sentence, which a checkpoint of Hugging Face is read with."""
    from dataclasses import replace

    from llava_moe.data.template import Template

    return replace(encoder, template=Template("v1"))
