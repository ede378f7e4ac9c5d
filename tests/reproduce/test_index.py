"""Every figure of the papers is in the index; what is drawn has a module and a yaml that composes at every scale."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir

from llava_moe.assemble import model_spec_of
from llava_moe.config.config_folder import config_folder
from llava_moe.config.hydra_compose import resolved
from llava_moe.config.hydra_words import prepare_override
from llava_moe.config.settings import mixture_of, settle
from llava_moe.errors import UserError
from llava_moe.reproduce.index import entries, find, module_of
from llava_moe.reproduce.setup import FIGURES, SCALE_NAMES, read_setup
from llava_moe.run_config import RunConfig
from tests.reproduce.written_cells import grid_of

DRAWN = sorted(path.stem for path in FIGURES.glob("*.yaml"))
NAMED_BY_THE_ISSUE = {
    *(("llava_mole", f"fig{number}") for number in (1, 3, 4, 5, 6)),
    *(("mixlora", name) for name in ("fig2", "fig4", "fig7", "table1", "table2")),
    *(("mole", f"table{number}") for number in (4, 5, 6, 7, 9, 10)),
}


def test_every_figure_has_its_row_and_what_is_not_drawn_its_reason() -> None:
    assert set(entries()) >= NAMED_BY_THE_ISSUE
    assert {f"{paper}_{figure}" for paper, figure in entries()} >= set(DRAWN)
    assert not [entry for entry in entries().values() if not entry.is_drawn and not entry.reason]


def test_every_figure_that_is_drawn_has_its_module() -> None:
    for name in DRAWN:
        module = module_of(*name.rsplit("_", 1))
        assert callable(module.cells) and callable(module.sheet), name
        assert (FIGURES / f"{name}.py").is_file()


@pytest.mark.parametrize("scale", SCALE_NAMES)
@pytest.mark.parametrize("name", DRAWN)
def test_every_training_of_every_figure_composes(name: str, scale: str) -> None:
    paper, figure = name.rsplit("_", 1)
    setup = replace(read_setup(paper, figure, scale), seeds=(0,))
    # What differs by domains alone composes alike.
    kinds = {
        tuple(word for word in cell.words if not word.startswith(("domains=", "data.sources.", "domain_scale="))): cell
        for cell in grid_of(setup).cells
        if cell.command == "train"
    }
    with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
        for cell in kinds.values():
            config = settle(resolved(compose("train", [prepare_override(word) for word in cell.words])))
            model_spec_of(RunConfig.of(config))
            assert mixture_of(RunConfig.of(config)).sources
            assert ("embedded" in str(config["model"]["architecture"])) == (scale == "demo")


@pytest.mark.parametrize("scale", SCALE_NAMES)
def test_runs_of_one_name_are_the_same_in_all_figures_which_so_may_share_a_folder(scale: str) -> None:
    made: dict[str, tuple[str, str]] = {}
    for name in DRAWN:
        paper, figure = name.rsplit("_", 1)
        grid = grid_of(replace(read_setup(paper, figure, scale), seeds=(0,)))
        for cell, settings in grid.settings.items():
            earlier, known = made.setdefault(cell, (name, settings))
            assert settings == known, f"{cell} of {name} and of {earlier}"


@pytest.mark.parametrize("figure", ["1", "fig1", "Fig. 1", "figure 1"])
def test_a_figure_is_found_by_its_number_however_it_is_spelled(figure: str) -> None:
    assert find("llava_mole", figure).figure == "fig1"


@pytest.mark.parametrize(
    ("paper", "figure", "told"),
    [
        ("llava_mol", "1", r"paper=llava_mol \(did you mean llava_mole\?\): the papers are"),
        ("llava_mole", "11", r"^figure=11 \(did you mean figure=1\?\): llava_mole has no such figure or table; drawn "),
        ("mole", "tabel6", r"^figure=tabel6 \(did you mean table=6\?\): .* drawn of it are table=4, table=5"),
        ("mole", "table11", r"^table=11 \(did you mean table=1?[01]\?\)"),
        ("mole", "table1", r"^table=1: composing LoRAs of image generators is not drawn \(images are generated"),
        ("llava_mole", "2", r"the model is not drawn \(a drawing of the architecture"),
    ],
)
def test_a_figure_that_does_not_exist_is_one_line(paper: str, figure: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        find(paper, figure)
