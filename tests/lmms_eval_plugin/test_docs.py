"""What docs/lmms_eval.md shows runs, and says what is so."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from llava_moe.adapters import NoAdapter
from llava_moe.assemble import ModelSpec, new_model, processor_of
from llava_moe.data.template import Template
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import answer_questions
from llava_moe.lmms_eval_plugin import task_folder
from llava_moe.model import FromShape
from tests.lmms_eval_plugin.conftest import TEXT, VISION

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "lmms_eval.md").read_text(encoding="utf-8")


def test_the_class_for_vlmevalkit_answers_as_evaluation_does(
    tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer_folder))
    assembled = new_model(
        ModelSpec(architecture, NoAdapter(), "fp32", Template("v1"), "pad", 128, "cut"), torch.device("cpu")
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in assembled.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    assembled.model.eval().save_pretrained(tmp_path / "merged")
    processor_of(assembled).save_pretrained(tmp_path / "merged")
    base = types.ModuleType("vlmeval.vlm.base")
    base.BaseModel = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vlmeval.vlm.base", base)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "docs/lmms_eval.md", "exec"), names)
    model = names["LlavaMoe"](str(tmp_path / "merged"), max_new_tokens=8)
    for shade in (20, 120, 220):
        path = str(tmp_path / f"{shade}.png")
        Image.new("RGB", (40, 20), (shade, 90, 30)).save(path)
        text = "What colour is the square?"
        question = Question("q", (path,), text, (), "all", "k", False, 8)
        expected = answer_questions(assembled.model, assembled.encoder, [question])
        message = [{"type": "image", "value": path}, {"type": "text", "value": text}]
        assert [model.generate_inner(message)] == expected


def test_the_page_names_every_task() -> None:
    for path in task_folder().glob("*.yaml"):
        assert f"`{path.stem}`" in PAGE
