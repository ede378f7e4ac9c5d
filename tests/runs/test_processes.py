"""Which engine several processes take where that is left to us."""

from __future__ import annotations

import pytest
import torch

from llava_moe.run_config import ParallelConfig
from llava_moe.runs import processes as module
from llava_moe.runs.processes import Processes


@pytest.fixture
def automatic(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """One process that behaves as several which may choose, of 10 GiB."""
    monkeypatch.setattr(module, "free_memory", lambda: 10 * 2**30)
    monkeypatch.setattr(module, "_start_deepspeed", lambda: (0, 1, torch.device("cpu")))
    return Processes(0, 1, torch.device("cpu"), "ddp", None, is_auto=True)


def test_each_stage_settles_by_what_it_trains_and_what_is_free(automatic: Processes) -> None:
    told = automatic.settle(10_000_000, 2)
    assert automatic.engine == "ddp"
    assert told == "1 processes: ddp (gradients and optimizer 0.20 GiB, free on each 10.0)"
    told = automatic.settle(7_000_000_000, 2)
    assert automatic.engine == "deepspeed" and told is not None and "DeepSpeed ZeRO-2 divides what trains" in told
    automatic.settle(10_000_000, 4)
    assert automatic.engine == "ddp"


def test_a_run_goes_on_with_the_engine_that_it_was_begun_with(automatic: Processes) -> None:
    told = automatic.settle(10_000_000, 2, "deepspeed")
    assert automatic.engine == "deepspeed" and told is not None and "as the run was begun" in told
    automatic.settle(7_000_000_000, 2, "ddp")
    assert automatic.engine == "ddp"
    automatic.settle(10_000_000, 2, "local")
    assert automatic.engine == "ddp"


def test_what_was_chosen_by_the_user_stands(automatic: Processes) -> None:
    automatic.is_auto, automatic.engine = False, "deepspeed"
    assert automatic.settle(1, 4) is None and automatic.engine == "deepspeed"


def test_words_of_deepspeeds_own_ask_for_it() -> None:
    assert not any(ParallelConfig(engine).asks_for_zero for engine in ("auto", "ddp", "deepspeed"))
    assert all(
        ParallelConfig("auto", **words).asks_for_zero
        for words in ({"stage": 3}, {"offload_optimizer": True}, {"extra": {"prescale_gradients": True}})
    )
