"""A tiny random model, assembled as a run's would be, and a few items of each benchmark in its published layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava_moe.adapters import LlavaMole
from llava_moe.assemble import Assembled, ModelSpec, new_model
from llava_moe.data.template import Template
from llava_moe.model import FromShape
from tests.peers.lmms_eval_scores import write_benchmarks

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2,
          "image_size": 24, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 256}  # fmt: skip


@pytest.fixture(scope="session")
def assembled(tokenizer_folder: Path) -> Assembled:
    """Random weights, large enough that answers differ from question to question; experts of its own by token."""
    architecture = FromShape(vision=VISION, text=TEXT, tokenizer=str(tokenizer_folder))
    model_spec = ModelSpec(architecture, LlavaMole(num_experts=2, r=4), "fp32", Template("v1", ""), "pad", 128, "cut")
    built = new_model(model_spec, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in built.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    built.model.eval()
    return built


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    write_benchmarks(folder)
    return folder


@pytest.fixture
def local_benchmarks(benchmark_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tasks look for data while a test runs."""
    from llava_moe.lmms_eval_plugin import tasks

    monkeypatch.setenv("LLAVA_MOE_BENCHMARKS", str(benchmark_folder))
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(benchmark_folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tasks.forget()
    return benchmark_folder
