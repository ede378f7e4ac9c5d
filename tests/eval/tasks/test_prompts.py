"""Prompts letter by letter: what each protocol asks, beside the wording of the repository it is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from llava_moe.data.template import VICUNA_V1_SYSTEM
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import GREEDY, Decoding
from llava_moe.eval.protocol import DEFAULT_PROTOCOL, PROTOCOLS, find_protocol
from llava_moe.eval.tasks import Places, open_benchmark
from llava_moe.eval.tasks.demo import open_demo_benchmark
from tests.eval.tasks.published import LAYOUTS

# LLaVA docs/Evaluation.md; the post prompts of lmms-eval 0.7.3.
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
# forwchen/LLaVA-MoLE llava_mole_infer.py, misspelling included.
MOLE = "Analyze the image and provide brief and accurate answer to the question in Engligh. "
OPTIONS = "\nA. a red kite\nB. a green boat\nC. a blue car\nD. a white house"
SKY = "What is in the picture?"
CAPTION = 'Is the caption "The bowl is behind the cake." correctly describing the image?'
CAMERA = "what is the brand of this camera?"
CHAIR = "Is there a chair in this image?"
SCIENCE = f"Which animal is a mammal?\nA. trout\nB. otter{LETTER}"
ENTAILS = (
    'Given the image, is the statement "Two men talk." an entailment, a contradiction, or neutral? '
    "Answer entailment, contradiction or neutral."
)
# Benchmark: the first question under llava_1_5, lmms_eval, llava_mole (behind its sentence) and mixlora, and the
# longest answer under the first two.
PROMPTS = {
    "tiny_lvlm": ("Who rides?", "Who rides?", "Who rides?", "Who rides?", 128, 16),
    "chartqa": (
        "Which bar is tallest?" + SHORT,
        "Which bar is tallest?\nAnswer the question with a single word.",
        *("Which bar is tallest?", "Which bar is tallest?"),
        *(128, 16),
    ),
    "docvqa": ("What is the date?" + SHORT,) * 2 + ("What is the date?",) * 2 + (128, 32),
    "pathvqa": (
        "where are liver stem cells (oval cells) located?",
        "where are liver stem cells (oval cells) located?" + SHORT,
        *("where are liver stem cells (oval cells) located?",) * 2,
        *(128, 16),
    ),
    "textvqa": (CAMERA + SHORT, CAMERA.capitalize() + SHORT, CAMERA, CAMERA, 128, 1024),
    "textvqa_ocr": (
        CAMERA + "\nReference OCR token: DAKOTA, DIGITAL" + SHORT,
        CAMERA.capitalize() + "\nReference OCR token: DAKOTA, DIGITAL" + SHORT,
        *(CAMERA + "\nReference OCR token: DAKOTA, DIGITAL",) * 2,
        *(128, 1024),
    ),
    "vqav2": ("Where is he looking?" + SHORT,) * 2 + ("Where is he looking?",) * 2 + (128, 16),
    "pope": ("Is there a snowboard in the image?" + SHORT,) * 2
    + ("Is there a snowboard in the image?",) * 2
    + (128, 128),
    "mmbench": (
        f"Look at the sky.\n{SKY}{OPTIONS}{LETTER}",
        f"Look at the sky. {SKY} There are several options:{OPTIONS}\n{LETTER}",
        f"Hint: Look at the sky.\nQuestion: {SKY}\nOptions:{OPTIONS}\n"
        "Please select the correct answer from the options above.",
        f"Look at the sky.\n{SKY}{OPTIONS}{LETTER}",
        *(1024, 1024),
    ),
    "mmbench_cn": (
        f"Look at the sky.\n{SKY}{OPTIONS}\n请直接回答选项字母。",
        f"Look at the sky. {SKY} 有如下几个选项：{OPTIONS}\n\n请直接使用所提供的选项字母作为答案回答。",  # noqa: RUF001
        *(f"Look at the sky.\n{SKY}{OPTIONS}\n请直接回答选项字母。",) * 2,
        *(1024, 256),
    ),
    "vsr": (
        CAPTION + SHORT,
        CAPTION + SHORT,
        f"Question: {CAPTION}\n\nChoose the single most likely answer from the following choices <choice>:\n- Yes\n- No"
        "\n\nThe output format follows exactly as below:\nAnswer: <choice>",
        CAPTION,
        *(128, 16),
    ),
    "snli_ve": (ENTAILS + SHORT, ENTAILS + SHORT, ENTAILS, ENTAILS, 128, 16),
    "cifar10": ("Classify the main object in the image." + SHORT,) * 2
    + ("Classify the main object in the image.",) * 2
    + (128, 16),
    "cifar100": ("Classify the main object in the image." + SHORT,) * 2
    + ("Classify the main object in the image.",) * 2
    + (128, 16),
    "mnist": ("Which digit is written in the image?" + SHORT,) * 2
    + ("Which digit is written in the image?",) * 2
    + (128, 16),
    "scienceqa_img": (SCIENCE, SCIENCE, SCIENCE, SCIENCE, 1024, 16),
}


def test_every_published_benchmark_has_its_prompts_here() -> None:
    assert {*PROMPTS, "mme"} == set(LAYOUTS)


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_prompts_are_the_references_letter_by_letter(name: str, tmp_path: Path) -> None:
    layout = next(iter(LAYOUTS[name].values()))
    places = Places(paths={name: str(layout(tmp_path / "data"))}, cache=tmp_path / "cache")
    *prompts, llava_tokens, lmms_tokens = PROMPTS[name]
    assert [protocol.name for protocol in PROTOCOLS] == ["llava_1_5", "lmms_eval", "llava_mole", "mixlora"]
    for protocol, prompt in zip(PROTOCOLS, prompts, strict=True):
        benchmark = open_benchmark(name, protocol=protocol.name, places=places)
        asked = benchmark.questions()[0]
        assert asked.prompt == (MOLE if protocol.name == "llava_mole" else "") + str(prompt)
        tokens = {"llava_1_5": llava_tokens, "lmms_eval": lmms_tokens, "llava_mole": 256, "mixlora": 1024}
        if (name, protocol.name) not in {("mmbench", "mixlora"), ("mmbench_cn", "mixlora")}:
            assert asked.max_new_tokens == tokens[protocol.name]


def test_lmms_eval_replaces_mmes_own_last_sentence_and_llava_keeps_it(tmp_path: Path) -> None:
    places = Places(paths={"mme": str(LAYOUTS["mme"]["official"](tmp_path / "data"))})
    asked = {
        protocol.name: {
            question.prompt for question in open_benchmark("mme", protocol=protocol.name, places=places).questions()
        }
        for protocol in PROTOCOLS
    }
    assert f"{CHAIR} Please answer yes or no.{SHORT}" in asked["llava_1_5"]
    assert f"{CHAIR}{SHORT}" in asked["lmms_eval"]
    assert f"{MOLE}{CHAIR} Please answer yes or no." in asked["llava_mole"]


def test_a_question_without_a_hint_has_no_line_for_it(tmp_path: Path) -> None:
    places = Places(paths={"mmbench": str(LAYOUTS["mmbench"]["tsv"](tmp_path / "data"))}, cache=tmp_path / "cache")
    last = {
        protocol: open_benchmark("mmbench", protocol=protocol, places=places).questions()[-1].prompt
        for protocol in ("llava_1_5", "lmms_eval")
    }
    assert last["llava_1_5"] == f"{SKY}\nA. a green boat\nB. a red kite{LETTER}"
    assert last["lmms_eval"] == f"{SKY} There are several options:\nA. a green boat\nB. a red kite\n{LETTER}"


def test_protocols_draw_as_their_releases_do() -> None:
    assert {protocol.name: protocol.decoding for protocol in PROTOCOLS} == {
        "llava_1_5": GREEDY,
        "lmms_eval": GREEDY,
        "llava_mole": Decoding(repetition_penalty=10.0),
        "mixlora": Decoding(temperature=0.2),
    }
    assert find_protocol("llava_mole").system == VICUNA_V1_SYSTEM
    # conv_llava_v1, where Vicuna's own says "user".
    assert find_protocol("mixlora").system == VICUNA_V1_SYSTEM.replace("user", "human")
    assert find_protocol("mixlora").draws(7) == Decoding(temperature=0.2, seed=7)
    assert find_protocol("llava_mole").draws(7) == find_protocol("llava_mole").decoding


def test_the_demo_asks_under_the_default_protocol_what_it_always_asked() -> None:
    assert DEFAULT_PROTOCOL.name == "llava_1_5"
    plain, behind = (open_benchmark("demo", 1, protocol=name) for name in ("llava_1_5", "llava_mole"))
    drawn = open_demo_benchmark(limit=1, min_compared=0)
    for question in plain.questions():
        assert (question.decoding, question.system, question.max_new_tokens) == (GREEDY, None, 16)
    texts = [question.prompt for question in plain.questions()]
    assert {pair.question for pair in drawn.pairs} == set(texts)
    assert [question.prompt for question in behind.questions()] == [MOLE + text for text in texts]


def test_an_unknown_protocol_is_one_line_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"protocol=llava-mole is not known \(did you mean llava_mole\?\): choose one"):
        open_benchmark("demo", protocol="llava-mole")
