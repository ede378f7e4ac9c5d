"""A conversation: what each prompt holds, what is kept, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from llava_moe import assemble as assembling
from llava_moe.adapters import Lora
from llava_moe.assemble import Assembled, from_target
from llava_moe.chat.session import Session
from llava_moe.data.conversation import ASSISTANT, USER, Conversation, Turn
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.images.inputs import ImageSize
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.readers.files import raw_records
from llava_moe.data.readers.records import records_row
from llava_moe.data.template import Rendered
from llava_moe.errors import UserError
from tests.chat.conftest import assemble

Begin = Callable[..., Session]
ADAPTERS = sorted((Path(__file__).parents[2] / "configs" / "adapter").glob("*.yaml"))


def quiet(piece: str) -> None:
    pass


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    for number in range(2):
        pixels = generator.integers(0, 256, (20 + number, 31, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"an image {number}.png")
    return sorted(tmp_path.glob("*.png"))


def greedy_alone(assembled: Assembled, turns: list[Turn], images: list[Path], num_tokens: int) -> str:
    """The reference: no cache, one forward pass a token over the whole conversation, its first question marked."""
    encoder = assembled.encoder
    num_first = len(encoder.encode_prompt(turns[:1]))
    prompt = encoder.encode_prompt(turns)
    answer: list[int] = []
    pixels = None
    if images:
        assert isinstance(encoder.transform, ImageTransform)
        arrays = [encoder.transform(Image.open(path).convert("RGB")) for path in images]
        pixels = encoder.transform.normalize(torch.from_numpy(np.stack(arrays)))
    for _ in range(num_tokens):
        ids = torch.tensor([[*prompt, *answer]])
        assembled.attached.mark_prompts(ids.where(torch.arange(ids.shape[1]) >= num_first, IGNORED))
        with torch.no_grad():
            logits = assembled.model(input_ids=ids, pixel_values=pixels, use_cache=False).logits
        answer.append(int(logits[0, -1].argmax()))
        if answer[-1] == encoder.tokenizer.eos_token_id:
            break
    return cast(str, encoder.tokenizer.decode(answer, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("file", ADAPTERS, ids=lambda file: file.stem)
def test_each_answer_is_that_of_the_whole_conversation(
    file: Path, tokenizer_folder: Path, session: Begin, paths: list[Path], tmp_path: Path
) -> None:
    settings = yaml.safe_load(file.read_text())
    if "experts" in settings:
        settings["experts"] = [str(tmp_path / f"rank{r}") for r in (2, 3)]
        for r, folder in zip((2, 3), settings["experts"], strict=True):
            assemble(tokenizer_folder, adapter=Lora(r=r)).attached.save(folder)
    assembled = assemble(tokenizer_folder, adapter=from_target(settings, assembling.ADAPTERS))
    talk = session(assembled)
    talk.attach(paths[0])
    turns: list[Turn] = []
    for number, question in enumerate(["What is it?", "Is it large?", "And this one?"]):
        if number == 2:
            talk.attach(paths[1])
        marked = f"<image>\n{question}" if number in (0, 2) else question
        turns.append(Turn(USER, marked))
        expected = greedy_alone(assembled, turns, paths[: 1 if number < 2 else 2], 6)
        assert talk.ask(question, quiet).text == expected
        turns.append(Turn(ASSISTANT, expected))
    answers = [exchange.answer for exchange in talk.exchanges]
    assert len(set(answers)) == 3, "the model answers everything alike; the test would prove nothing"
    assert [turn for exchange in talk.exchanges for turn in exchange.turns] == turns


def test_images_are_read(session: Begin, paths: list[Path]) -> None:
    answers = []
    for path in [None, *paths]:
        talk = session(max_new_tokens=20)
        if path is not None:
            talk.attach(path)
        answers.append(talk.ask("What is it?", quiet).text)
    assert len(set(answers)) == 3


def test_a_placeholder_in_the_text_marks_the_place_of_an_image(session: Begin, paths: list[Path]) -> None:
    answers = []
    for text in ("What is it?", "<image> What is it?", "What is it?<image>"):
        talk = session(max_new_tokens=20)
        talk.attach(paths[0])
        answers.append(talk.ask(text, quiet).text)
    assert len(set(answers)) == 1
    with pytest.raises(UserError, match=r"marks 1 <image> and has 0 images"):
        session().ask("What is <image>?", quiet)


def test_what_a_person_types_is_text_and_no_control_token(
    assembled: Assembled, session: Begin, paths: list[Path]
) -> None:
    """Also in the answers before, where ``<image>`` marks no image."""
    encoder = assembled.encoder
    prompts: list[list[int]] = []
    encode = Encoder.encode_written

    def listen(self: Encoder, prompt: Rendered, *sizes: Sequence[ImageSize]) -> np.ndarray:
        prompts.append(encode(self, prompt, *sizes).tolist())
        return np.asarray(prompts[-1])

    talk = session()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "encode_written", listen)
        assert talk.ask("What does <s> mean, and </s> or <pad>?", quiet).text
        talk.exchanges[0] = replace(talk.exchanges[0], answer="A mark: <image>, <s>.")
        talk.attach(paths[0])
        assert talk.ask("And this?", quiet).text
    tokenizer = encoder.tokenizer
    control = {*tokenizer.all_special_ids, encoder.image_token_id}
    first = [id_ for id_ in prompts[0] if id_ in control]
    last = [id_ for id_ in max(prompts, key=len) if id_ in control]
    assert first == [tokenizer.bos_token_id]
    assert isinstance(encoder.num_image_tokens, int)
    images = [encoder.image_token_id] * encoder.num_image_tokens
    assert last == [tokenizer.bos_token_id, tokenizer.eos_token_id, *images]
    texts = [turn["text"] for turn in talk.records()[0]["conversations"]]
    assert sum(text.count("<image>") for text in texts) == len(talk.records()[0]["images"]) == 1


def test_an_adapter_is_told_the_tokens_before_the_first_answer(
    assembled: Assembled, session: Begin, paths: list[Path]
) -> None:
    """What training reads of an example: everything before its first supervised token."""
    seen: list[torch.Tensor] = []

    def look(module: torch.nn.Module, args: object, kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] > 1:
            seen.append(assembled.attached._segments.is_prompt())

    talk = session()
    talk.attach(paths[0])
    handle = assembled.model.model.language_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        for question in ("What is it?", "Is it small?", "Is it red?"):
            talk.ask(question, quiet)
    finally:
        handle.remove()
    turns = tuple(turn for exchange in talk.exchanges for turn in exchange.turns)
    trained = assembled.encoder.encode_text(Conversation("c", (str(paths[0]),), turns, "s", "d"))
    num_prompt = int(np.flatnonzero(trained.labels != IGNORED)[0])
    assert [int(mask.sum()) for mask in seen] == [num_prompt] * 3
    assert all(bool(mask[0, :num_prompt].all()) for mask in seen)
    assert seen[0].shape[1] == num_prompt < seen[1].shape[1] < seen[2].shape[1]


def test_undo_takes_back_the_last_question_as_if_it_had_never_been(session: Begin, paths: list[Path]) -> None:
    talk, other = session(), session()
    for each in (talk, other):
        each.attach(paths[0])
        each.ask("What is it?", quiet)
    talk.attach(paths[1])
    talk.ask("And this?", quiet)
    assert talk.undo().question == "<image>\nAnd this?"
    assert [picture.path for picture in talk.pictures] == [paths[0]]
    assert talk.ask("Is it red?", quiet) == other.ask("Is it red?", quiet)
    talk.reset()
    assert not talk.exchanges and not talk.pictures and not talk.waiting
    with pytest.raises(UserError, match="empty"):
        talk.undo()


def test_a_conversation_that_is_too_long_is_refused_and_nothing_of_it_is_lost(session: Begin) -> None:
    talk = session()
    talk.ask("What is it?", quiet)
    with pytest.raises(UserError, match="256 positions"):
        talk.ask("Look well. " * 60, quiet)
    assert len(talk.exchanges) == 1
    assert talk.ask("Is it red?", quiet).text


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_nothing_is_no_question(session: Begin, paths: list[Path], text: str) -> None:
    talk = session()
    talk.attach(paths[0])
    with pytest.raises(UserError, match="there is no question"):
        talk.ask(text, quiet)
    assert len(talk.waiting) == 1


def test_a_device_out_of_memory_is_told_and_the_conversation_stands(
    session: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = session()
    talk.ask("What is it?", quiet)

    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(talk._model, "generate", fail)
        with pytest.raises(UserError, match="no memory for a conversation of"):
            talk.ask("Is it red?", quiet)
    assert len(talk.exchanges) == 1 and talk.ask("Is it red?", quiet).text


def test_a_blank_answer_is_not_kept_and_its_images_wait_again(
    session: Begin, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = session()
    talk.attach(paths[0])

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(talk._model, "generate", interrupt)
        assert talk.ask("What is it?", quiet).ended == "interrupted"
    assert not talk.exchanges and [picture.path for picture in talk.waiting] == [paths[0]]
    assert talk.ask("What is it?", quiet).text


def test_a_model_of_the_first_stage_captions_each_image_by_itself(
    captioner: Assembled, session: Begin, paths: list[Path]
) -> None:
    talk = session(captioner)
    for path in paths:
        talk.attach(path)
        expected = greedy_alone(captioner, [Turn(USER, "<image>")], [path], 6)
        assert talk.ask("ignored", quiet).text == expected
    assert talk.exchanges[0].answer != talk.exchanges[1].answer
    with pytest.raises(UserError, match="captions images"):
        talk.ask("What is it?", quiet)
    assert [record["images"] for record in talk.records()] == [[str(path)] for path in paths]


@pytest.mark.parametrize("fault", ["missing", "folder", "text", "sliver"])
def test_a_file_that_is_no_image_is_refused_in_one_line(
    session: Begin, tmp_path: Path, paths: list[Path], fault: str
) -> None:
    path = {"missing": paths[0].with_suffix(".jpg"), "folder": tmp_path}.get(fault, tmp_path / f"{fault}.png")
    if fault == "text":
        path.write_text("not an image")
    if fault == "sliver":
        Image.new("RGB", (40_000, 1)).save(path)
    talk = session()
    with pytest.raises(UserError, match=f"image {path}") as caught:
        talk.attach(path)
    assert "\n" not in str(caught.value) and not talk.waiting


def test_a_saved_conversation_is_a_record_that_encodes_to_the_prompt_that_was_asked(
    assembled: Assembled, session: Begin, paths: list[Path], tmp_path: Path
) -> None:
    talk = session()
    talk.attach(paths[0])
    talk.ask("What is it?", quiet)
    talk.ask("Is it small?", quiet)
    (tmp_path / "saved.jsonl").write_text("\n".join(json.dumps(record) for record in talk.records()))
    [record] = raw_records(str(tmp_path / "saved.jsonl"))
    row = records_row(record, 0)
    turns = tuple(Turn(turn["role"], turn["text"]) for turn in row["turns"])
    read = Conversation(row["id"], tuple(image["path"] for image in row["images"]), turns, "chat", "chat")
    example = assembled.encoder.encode(read, None, 0)
    prompt = assembled.encoder.encode_prompt(turns[:-1])
    assert np.array_equal(example.input_ids[: len(prompt)], prompt)
    assert np.array_equal(example.pixels, talk.pictures[0].seen.pixels)
