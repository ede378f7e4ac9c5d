"""Whom ``llava-moe eval`` scores: Hugging Face folders with and without a PEFT LoRA, served models, and bad words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from llava_moe.assemble import open_checkpoint
from llava_moe.chat.answer import Decoding
from llava_moe.chat.session import Session
from llava_moe.cli import run
from llava_moe.data.conversation import USER, Turn
from llava_moe.data.images.transform import ImageTransform
from llava_moe.data.template import Rendered
from llava_moe.eval.benchmark import Question
from llava_moe.eval.ranks import ALONE
from llava_moe.runs.scored_model import ScoredModel, open_model
from tests.distributed.test_eval_ranks import NUM_QUESTIONS, write_charts
from tests.eval.generation.test_endpoint import Server

Refused = Callable[..., str]
CPU = torch.device("cpu")
# The template of llava-hf/llava-1.5-7b-hf, but for its spaces: no system prompt of its own, one if it is given.
LLAVA_HF = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
NO_MODEL: dict[str, Any] = {
    **dict.fromkeys(("path", "peft", "template", "image_mode")),
    **dict.fromkeys(("endpoint", "name", "api_key_env", "timeout", "attempts")),
}


@pytest.fixture(scope="module")
def trained(words_for_tiny: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA run, its adapter and projector stirred so that answers differ, and its Hugging Face export beside it."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        assert run(["train", *words_for_tiny, "adapter=lora", f"out={folder / 'run'}", "train.max_steps=2"]) == 0
        newest = folder / "run" / "checkpoints" / (folder / "run" / "checkpoints" / "last").read_text().strip()
        generator = torch.Generator().manual_seed(0)
        for path in (newest / "adapter" / "adapter_model.safetensors", newest / "projector.safetensors"):
            noise = {
                name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
                for name, tensor in load_file(path).items()
            }
            save_file(noise, path, metadata={"format": "pt"})
        assert run(["export", f"run={folder / 'run'}", "to=hf", f"out={folder / 'hf'}", "dtype=fp32"]) == 0
        assert run(["export", f"run={folder / 'run'}", "to=peft", f"out={folder / 'peft'}", "dtype=fp32"]) == 0
    return folder


def opened(**model: Any) -> ScoredModel[Any]:
    config = {"run": None, "batch_size": 4, "dtype": "fp32", "model": NO_MODEL | model}
    return open_model(config, CPU)


def questions(own_data: Path, **settings: Any) -> list[Question]:
    texts = ["What colour is the square?", "How many bars are shown?", "Which plane is this slice?", "Is it small?"]
    return [
        Question(f"q{number}", (str(own_data / f"{number}.png"),), text, ("x",), "", "", True, 8, **settings)
        for number, text in zip((0, 1, 2, 4), texts, strict=True)
    ]


def encoder_of(model: ScoredModel[Any]) -> Any:
    return model.answerer.encoder


def answers(model: ScoredModel[Any], these: list[Question]) -> dict[int, str]:
    return {one.index: one.text for batch in model.answerer.answers(these, ALONE) for one in batch}


def test_a_run_and_its_exports_answer_alike(trained: Path, own_data: Path) -> None:
    these = questions(own_data)
    config = {"run": str(trained / "run"), "batch_size": 4, "dtype": "fp32", "model": NO_MODEL}
    ours = answers(open_model(config, CPU), these)
    assert len(set(ours.values())) > 2
    merged = opened(path=str(trained / "hf"))
    assert merged.facts.template == f"chat template of {trained / 'hf'}" and merged.facts.images == "pad"
    assert answers(merged, these) == ours
    [base] = [path.parent for path in trained.glob("peft/**/model.safetensors")]
    adapted = opened(path=str(base), peft=str(trained / "peft"))
    assert adapted.facts.adapter == str(trained / "peft")
    assert answers(adapted, these) == ours


def test_a_system_prompt_of_the_protocol_stands_in_the_exported_template(trained: Path, own_data: Path) -> None:
    these = questions(own_data, system="Be brief and kind.")
    config = {"run": str(trained / "run"), "batch_size": 4, "dtype": "fp32", "model": NO_MODEL}
    assert answers(opened(path=str(trained / "hf")), these) == answers(open_model(config, CPU), these)


def test_a_checkpoints_own_chat_template_writes_the_prompt_and_is_named(
    trained: Path, own_data: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text(LLAVA_HF)
    model, plain = opened(path=str(tmp_path / "hf")), opened(path=str(tmp_path / "hf"), template="v1")
    assert plain.facts.template == "v1"
    assert model.fingerprint != plain.fingerprint, "answers to another template are another model's"
    template = encoder_of(model).template
    asked = [Turn(USER, "<image>\nWhat colour is the square?")]
    text = "USER: <image>\nWhat colour is the square? ASSISTANT:"
    assert template.prompt(asked) == text
    assert replace(template, system="Be kind.").prompt(asked).startswith("Be kind. USER: <image>\n")
    tokenizer = AutoTokenizer.from_pretrained(trained / "hf")
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    prompt = [one for one in encoder_of(model).encode_prompt(asked) if one != image_token]
    assert prompt == [one for one in tokenizer(text).input_ids if one != image_token]


SHOUTED = LLAVA_HF.replace("ASSISTANT:", "Answer:")


def test_chat_asks_a_checkpoint_as_its_files_say_word_for_word_as_eval_does(
    trained: Path, own_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text(SHOUTED)
    settings = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    settings |= {"do_pad": False, "image_mean": [0.9, 0.1, 0.4]}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(settings))
    [base] = [path.parent for path in trained.glob("peft/**/model.safetensors")]
    [question] = questions(own_data)[:1]
    [image] = question.images
    assert isinstance(image, str)
    said = set()
    for model in (
        {"path": str(tmp_path / "hf")},
        {"path": str(tmp_path / "hf"), "template": "v1"},
        {"path": str(tmp_path / "hf"), "image_mode": "pad"},
        {"path": str(trained / "hf")},
        {"path": str(base), "peft": str(trained / "peft")},
        {"path": str(base)},
    ):
        [expected] = answers(opened(**model), [question]).values()
        words = [f"model.{key}={value}" for key, value in model.items()]
        asked = [f"image={image}", f"prompt={question.prompt}", "max_new_tokens=8", "dtype=fp32"]
        capfd.readouterr()
        assert run(["chat", *words, *asked]) == 0
        assert capfd.readouterr().out == expected + "\n", model
        said.add(expected)
    # The run itself, its merged form and its PEFT form are one model; each other way of asking shows.
    assert len(said) == 5


def test_a_conversation_by_a_chat_template_holds_what_was_said_before(trained: Path, own_data: Path) -> None:
    shutil.copytree(trained / "hf", trained / "shouted", dirs_exist_ok=True)
    (trained / "shouted" / "chat_template.jinja").write_text(SHOUTED)
    assembled = open_checkpoint(str(trained / "shouted"), "fp32", CPU)
    session = Session(assembled.model, assembled.encoder, assembled.attached, Decoding(max_new_tokens=4))
    session.attach(own_data / "0.png")
    first = session.ask("What colour is the square?", lambda _: None).text
    second = session.ask("Is it small?", lambda _: None).text
    turns = [turn for exchange in session.exchanges[:1] for turn in exchange.turns] + [Turn(USER, "Is it small?")]
    written = assembled.encoder.template.prompt(turns)
    assert written == f"USER: <image>\nWhat colour is the square? ASSISTANT: {first} USER: Is it small? Answer:"
    pixels = torch.from_numpy(session.pictures[0].seen.pixels)
    ids = torch.from_numpy(assembled.encoder.encode_written(Rendered(written, ())))[None]
    transform = assembled.encoder.transform
    assert isinstance(transform, ImageTransform)
    told = cast(Any, assembled.model).generate(
        **{"input_ids": ids, "pixel_values": transform.normalize(pixels)},
        **{"max_new_tokens": 4, "do_sample": False, "pad_token_id": assembled.encoder.pad_token_id},
    )
    decoded = assembled.encoder.tokenizer.decode(told[0, ids.shape[1] :], skip_special_tokens=True)
    assert isinstance(decoded, str) and second == decoded.strip()


def test_chat_refuses_settings_of_another_kind_of_model(trained: Path, refused: Refused) -> None:
    for key in ("peft=x", "template=v1", "image_mode=pad"):
        told = refused("chat", f"run={trained / 'run'}", "prompt=a", f"model.{key}")
        assert f"model.{key.partition('=')[0]}= belongs to model.path=" in told
    assert "model.image_mode=wide: give pad or crop or resize" in refused(
        "chat", f"model.path={trained / 'hf'}", "prompt=a", "model.image_mode=wide"
    )


def test_a_template_that_leaves_the_image_out_is_refused(trained: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.copytree(trained / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ raise_exception('text only') }}")
    for command in (["eval", f"out={tmp_path}"], ["chat", "prompt=a"]):
        told = refused(*command, f"model.path={tmp_path / 'hf'}")
        assert f"chat template of {tmp_path / 'hf'} does not take a question" in told and "model.template=v1" in told


def peft_folder(trained: Path, folder: Path, **settings: Any) -> PeftModel:
    """A LoRA that PEFT itself made and wrote, its projector in ``modules_to_save``."""
    torch.manual_seed(0)
    base = LlavaForConditionalGeneration.from_pretrained(trained / "hf", dtype=torch.float32)
    targets = r".*language_model.*\.(q_proj|down_proj)"
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, modules_to_save=["multi_modal_projector"])
    model = get_peft_model(base, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def test_a_peft_folder_with_its_projector_computes_what_peft_computes(trained: Path, tmp_path: Path) -> None:
    theirs = peft_folder(trained, tmp_path / "lora")
    ours = opened(path=str(trained / "hf"), peft=str(tmp_path / "lora"))
    model: Any = ours.answerer.model
    encoder = ours.answerer.encoder
    ids = torch.tensor([[1, *[encoder.image_token_id] * encoder.num_image_tokens, 5, 9, 12]])
    inputs = {"input_ids": ids, "pixel_values": torch.randn(1, 3, encoder.transform.size, encoder.transform.size)}
    torch.testing.assert_close(model(**inputs).logits, theirs(**inputs).logits, atol=2e-5, rtol=1e-5)
    bare = open_checkpoint(str(trained / "hf"), "fp32", CPU).model
    assert not torch.allclose(bare(**inputs).logits, theirs(**inputs).logits, atol=0.1)


def test_a_peft_folder_of_another_base_or_without_its_modules_is_refused(
    trained: Path, tmp_path: Path, refused: Refused
) -> None:
    peft_folder(trained, tmp_path / "lora")
    path, words = tmp_path / "lora" / "adapter_model.safetensors", [f"model.path={trained / 'hf'}", f"out={tmp_path}"]
    tensors = load_file(path)
    projector = sorted(name for name in tensors if "projector" in name)
    assert projector

    def told(changed: dict[str, torch.Tensor]) -> str:
        save_file(changed, path, metadata={"format": "pt"})
        return refused("eval", *words, f"model.peft={tmp_path / 'lora'}")

    assert f"lacks {projector[0].removeprefix('base_model.model.')}" in told(
        {name: tensor for name, tensor in tensors.items() if name != projector[0]}
    )
    narrow = {name: tensor[:-1].clone() if name == projector[0] else tensor for name, tensor in tensors.items()}
    assert "load the base it was trained on" in told(narrow)
    shorter = {name: tensor[:, :-8].clone() if "lora_A" in name else tensor for name, tensor in tensors.items()}
    assert "is an adapter of another base" in told(shorter)
    assert "is no parameter of this model's" in told(tensors | {"base_model.model.lm_head.weight": torch.ones(2, 2)})
    assert "is not an adapter folder" in refused("eval", *words, f"model.peft={tmp_path}")
    save_file(tensors, path, metadata={"format": "pt"})
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())

    def told_of(text: str) -> str:
        (tmp_path / "lora" / "adapter_config.json").write_text(text)
        return refused("eval", *words, f"model.peft={tmp_path / 'lora'}")

    assert "nested too deep" in told_of("[" * 100_000 + "]" * 100_000)
    assert "r is 2000000" in told_of(json.dumps(settings | {"r": 2_000_000}))
    assert "takes too long" in told_of(json.dumps(settings | {"target_modules": "(?:.|.|.)*[A-Z]"}))
    assert "use_tomorrow=1" in told_of(json.dumps(settings | {"use_tomorrow": 1}))


def test_a_tokenizer_without_the_image_token_is_refused(trained: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.copytree(trained / "hf", tmp_path / "hf")
    tokenizer = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [one for one in tokenizer["added_tokens"] if one["content"] not in ("<image>", "<pad>")]
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(tokenizer))
    told = refused("eval", f"model.path={tmp_path / 'hf'}", f"out={tmp_path}")
    assert "its tokenizer has no <image>" in told


ADDRESS = "model.endpoint=http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=x", "model.path=y"], "not run= and model.path= together"),
        (["run=x", ADDRESS], "not run= and model.endpoint= together"),
        (["model.path=y", ADDRESS], "not model.path= and model.endpoint= together"),
        (["run=x", "model.peft=y"], "model.peft= belongs to model.path="),
        (["model.path=x", "model.name=y"], "model.name= belongs to model.endpoint="),
        (["model.path=x", "model.template=v2"], "model.template=v2: give chat or v1"),
        (["model.path=/nowhere"], "/nowhere cannot be loaded: no such folder"),
        ([ADDRESS], "model.endpoint= needs model.name="),
        ([ADDRESS, "model.name=x", "dtype=bf16"], "dtype= is the server's affair"),
        ([ADDRESS, "model.name=x", "model.attempts=0"], "model.attempts=0: give"),
        ([ADDRESS, "model.name=x", "model.api_key_env=NOT_SET_HERE"], "model.api_key_env=NOT_SET_HERE: no such"),
        ([ADDRESS, "model.name=x"], "http://127.0.0.1:9/v1 cannot be reached"),
        ([ADDRESS, "model.name=x", "model.api_key_env=k3y-given"], "model.api_key_env=: no such"),
        (["model.endpoint=localhost:9", "model.name=x"], "model.endpoint= is no address"),
    ],
)
def test_eval_refuses_models_that_it_cannot_score(
    words: list[str], told: str, refused: Refused, tiny_words: list[str]
) -> None:
    assert told in refused("eval", *words)


def test_an_endpoint_is_asked_by_one_process(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from llava_moe.commands.eval_words import check_one_model
    from llava_moe.errors import UserError

    config = {"run": None, "dtype": None, "model": NO_MODEL | {"endpoint": "http://x/v1", "name": "y"}}
    check_one_model(config)
    with pytest.raises(UserError, match="one process asks an endpoint, not 2"):
        check_one_model(config, num_processes=2)


def test_a_served_model_is_scored_and_named_in_the_result(tmp_path: Path, tiny_words: list[str]) -> None:
    write_charts(tmp_path / "charts")
    server = Server()
    words = [f"model.endpoint={server.address}", "model.name=tiny", "benchmarks=[chartqa]", f"out={tmp_path / 'out'}"]
    try:
        assert run(["eval", *words, f"benchmark_paths.chartqa={tmp_path / 'charts'}", "batch_size=4"]) == 0
    finally:
        server.stop()
    assert len(server.seen) == NUM_QUESTIONS and server.most <= 4
    result = json.loads((tmp_path / "out" / "eval" / "chartqa.json").read_text())
    assert result["answered_by"] == {
        **{"source": f"tiny at {server.address}", "template": "the server's own", "images": "the server's own"},
        **{"dtype": "the server's own", "batch_size": 4, "num_processes": 1, "adapter": ""},
    }
