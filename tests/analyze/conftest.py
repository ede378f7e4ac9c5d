"""Tiny runs over the three domains of the embedded data, trained once a session by the real command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llava_moe.cli import run

Trained = Callable[[str], Path]

THREE_DOMAINS = (
    *("exp=mix_general_doc_med", "scale=demo", "model=tiny", "train.max_steps=3", "train.num_threads=1"),
    *("train.global_batch_size=6", "train.tokens_per_micro_batch=512", "train.save_every=2", "data.num_workers=0"),
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The folder of a run with the adapter of this name. No test may write into it but below ``analyze/``."""
    folder = tmp_path_factory.mktemp("analyzed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAVA_MOE_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")

        def train(adapter: str) -> Path:
            out = folder / adapter
            if not out.exists():
                assert run(["train", *THREE_DOMAINS, f"adapter={adapter}", f"out={out}"]) == 0
            return out

        yield train
