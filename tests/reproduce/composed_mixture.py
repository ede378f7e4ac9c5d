"""What a training of a figure learns from, as its words compose it."""

from __future__ import annotations

from hydra import compose, initialize_config_dir

from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import resolved
from llava_moe.config.hydra_words import prepare_override
from llava_moe.config.settings import mixture_of, settle
from llava_moe.data.mixture import Mixture
from llava_moe.grid.cell import Cell
from llava_moe.run_config import RunConfig


def mixture_of_cell(cell: Cell) -> Mixture:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        return mixture_of(
            RunConfig.of(settle(resolved(compose("train", [prepare_override(word) for word in cell.words]))))
        )
