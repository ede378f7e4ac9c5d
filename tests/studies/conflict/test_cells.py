"""A domain's samples are the same alone and in the mix, as the plan says and as real runs count them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import AutoConfig, LlamaForCausalLM

from llava_moe.adapters import attach
from llava_moe.assemble import ADAPTERS, from_target
from llava_moe.cli import run
from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import resolved
from llava_moe.embedded_base import base_folder
from studies.conflict.cells import Cell, cells_of, stage1_words
from studies.conflict.study import SHIPPED, Study, read_study

TINY = ("exp=mix_general_doc_med", "scale=demo", "model=tiny", "train.tokens_per_micro_batch=512")


@pytest.fixture
def tiny_study(embedded_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Two epochs of five and three samples, one a step: a step's hash is its record's."""
    monkeypatch.setenv("LLAVA_MOE_CACHE", str(embedded_cache))
    return replace(
        read_study(SHIPPED),
        words=(*TINY, "train.global_batch_size=1", "adapter.lora_dropout=0"),
        both=("train.num_threads=1", "data.num_workers=0"),
        domains={"general": {"general": 5}, "medical": {"medical": 3}},
        epochs=2,
        methods={"lora": {2: ("adapter=lora", "adapter.r=2", "adapter.lora_alpha=4")}},
    )


def trained(cell: Cell, folder: Path) -> list[dict[str, Any]]:
    assert run(["train", *cell.words, f"out={folder / cell.name}"]) == 0
    return [json.loads(line) for line in (folder / cell.name / "log.jsonl").read_text().splitlines()]


def test_a_domain_s_records_are_the_same_alone_and_in_the_mix_in_real_runs(tiny_study: Study, tmp_path: Path) -> None:
    logs = {cell.trained_on: trained(cell, tmp_path) for cell in cells_of(tiny_study) if cell.seed == 1}
    mixed = logs.pop(("general", "medical"))
    assert len(mixed) == 16
    for (domain,), alone in logs.items():
        seen = Counter(step["sample_hash"] for step in alone)
        in_mix = Counter(step["sample_hash"] for step in mixed if domain in step["domains"])
        assert seen == in_mix
        assert sum(step["domains"][domain]["samples"] for step in alone) == tiny_study.samples(domain)
        # Epochs bring new records as long as a source has some.
        assert len(seen) == tiny_study.samples(domain)


def test_seeds_draw_other_records(tiny_study: Study, tmp_path: Path) -> None:
    cells = [cell for cell in cells_of(tiny_study) if cell.trained_on == ("medical",)]
    first, second = ({step["sample_hash"] for step in trained(cell, tmp_path)} for cell in cells[:2])
    assert first != second


def test_the_shipped_study_has_85_cells_seed_by_seed() -> None:
    study = read_study(SHIPPED)
    cells = cells_of(study)
    assert len(cells) == len({cell.name for cell in cells}) == len({cell.settings for cell in cells}) == 85
    assert Counter(len(cell.trained_on) for cell in cells) == {1: 45, 3: 40}
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    assert {cell.method for cell in cells if cell.rank == 2} == {"lora", "llava_mole"}


def test_settings_change_with_what_decides_a_cell() -> None:
    study = read_study(SHIPPED)

    def settings(changed: Study) -> str:
        return cells_of(changed)[0].settings

    others = [
        replace(study, epochs=2),
        replace(study, stage1=(*study.stage1, "train.max_steps=9")),
        replace(study, measures=replace(study.measures, limit=3)),
        replace(study, domains={**study.domains, "general": {"general": 7}}),
    ]
    assert len({settings(study), *map(settings, others)}) == 5
    # What is not of the cell leaves it as it is: a study may grow.
    assert settings(replace(study, seeds=(0, 7))) == settings(study)


def test_stage_1_is_the_same_for_all_cells_of_a_seed() -> None:
    assert "seed=3" in stage1_words(read_study(SHIPPED), 3)
    words = {word for cell in cells_of(read_study(SHIPPED)) for word in cell.words}
    assert not any(word.startswith(("out=", "init_from=")) for word in words)


@pytest.mark.parametrize("method", ["llava_mole", "mixlora"])
def test_methods_have_as_many_parameters_as_the_baseline_within_six_percent(method: str) -> None:
    study = read_study(SHIPPED)

    def size(words: tuple[str, ...]) -> int:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            adapter = from_target(resolved(compose("train", overrides=list(words)), "train")["adapter"], ADAPTERS)
        with torch.device("meta"):
            model = LlamaForCausalLM(AutoConfig.from_pretrained(base_folder() / "language_model"))
            attached = attach(model, adapter)
        return sum(tensor.numel() for tensor in attached.state_dict().values())

    for rank, words in study.methods[method].items():
        baseline = size(study.methods["lora"][rank])
        assert abs(size(words) / baseline - 1) < (0.02 if method == "llava_mole" else 0.06), (
            rank,
            size(words),
            baseline,
        )
