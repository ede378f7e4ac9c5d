"""The words of ``llava-moe eval``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from omegaconf import DictConfig

from llava_moe.commands.eval_words import check_words, results_wanted
from llava_moe.config.as_typed import words_of_job
from llava_moe.config.hydra_compose import resolved, run_composed


def main(words: Sequence[str]) -> int:
    """Judge the words, then score a model, or read what was scored."""
    return run_composed("eval", words, lambda config, overrides: _begin(config, overrides, words))


def _begin(config: DictConfig, words: list[str], typed: Sequence[str]) -> int:
    plain = resolved(config, "eval")
    # Of several processes one alone speaks, once they have met: ``score`` judges the words there.
    if results_wanted(plain) or os.environ.get("WORLD_SIZE", "1") == "1":
        check_words(plain)
    if results_wanted(plain):
        from llava_moe.commands.eval_compare import read_results

        return read_results(plain, words)
    from llava_moe.commands.eval import score

    return score(plain, words_of_job(typed, words))
