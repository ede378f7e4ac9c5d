"""What a million prepared records take before the first step: index, plan, memory, and a start from a warm cache.

``python -m tests.peers.million_steps FOLDER`` reads ``FOLDER/data/million`` (see ``million_records.py``) with the
demo's tokenizer, indexes it into an empty cache under ``FOLDER``, plans an epoch, and starts a training of one step
twice.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from llava_moe.config.settings import settle
from llava_moe.run_config import RunConfig
from tests.peers.million_records import peak

WORDS = ("exp=mix_general", "data=mine", "model=tiny", "train.dtype=fp32", "train.max_length=1500", "train.max_steps=1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    cache = options.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["LLAVA_MOE_CACHE"] = str(cache)
    _index(options.folder / "data" / "million")
    for name in ("first", "second"):
        run = options.folder / f"run-{name}"
        shutil.rmtree(run, ignore_errors=True)
        words = [*WORDS, f"path={options.folder / 'data' / 'million'}", f"out={run}"]
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "llava_moe", "train", *words], check=True, stdout=subprocess.DEVNULL)
        print(f"a run of one step, {name}: {time.monotonic() - started:.1f} s from the command to its end")


def _index(path: Path) -> None:
    from llava_moe.config.hydra_compose import resolved, run_composed

    def job(config: DictConfig, words: list[str]) -> int:
        _measure(settle(resolved(config)))
        return 0

    run_composed("train", [*WORDS, f"path={path}"], job)


def _measure(config: dict[str, Any]) -> None:
    from llava_moe.assemble import encoder_of, model_spec_of
    from llava_moe.config.settings import mixture_of
    from llava_moe.data.source import open_records
    from llava_moe.data.source_index import index_source
    from llava_moe.runs.cache_folder import cache_folder

    (source,) = mixture_of(RunConfig.of(config)).sources
    encoder = encoder_of(model_spec_of(RunConfig.of(config)))
    started = time.monotonic()
    records = open_records(source, cache_folder())
    index = index_source(source, records, encoder, cache_folder())
    indexed = time.monotonic()
    mixture_of(RunConfig.of(config)).plan([index], 0)
    planned = time.monotonic()
    words = index.lengths.mean() - index.num_images.mean() * encoder.num_image_tokens
    print(
        f"{len(records):,} records, {words:.0f} text tokens each: indexed in {indexed - started:.1f} s, an epoch "
        f"planned in {planned - indexed:.1f} s; peak resident memory {peak('self'):.0f} MiB"
    )
    started = time.monotonic()
    index_source(source, records, encoder, cache_folder())
    print(f"from the cache in {time.monotonic() - started:.2f} s")


if __name__ == "__main__":
    main()
