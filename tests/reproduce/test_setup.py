"""A figure's settings: fewer samples than its yaml says, and the names of runs that then differ."""

from __future__ import annotations

import pytest

from llava_moe.errors import UserError
from llava_moe.reproduce.index import entries
from tests.reproduce.written_cells import grid_of, setup_of

DRAWN = [(entry.paper, entry.figure) for entry in entries().values() if entry.is_drawn]


@pytest.mark.parametrize(("paper", "figure"), DRAWN)
def test_fewer_samples_reach_every_run_and_leave_no_name_of_the_figures_own_but_stage_1(
    paper: str, figure: str
) -> None:
    setup = setup_of(paper, figure)
    whole, short = grid_of(setup).by_name, grid_of(setup.with_samples(7)).by_name
    assert len(short) == len(whole)
    assert {whole[name].labels["model"] for name in set(whole) & set(short)} == {"stage 1"}
    caps = {word for cell in short.values() for word in cell.words if ".cap=" in word}
    sources = {source for sources in setup.samples.values() for source in sources}
    assert caps and caps <= {f"data.sources.{source}.cap=7" for source in sources}


def test_domains_taken_whole_cannot_be_shortened() -> None:
    with pytest.raises(UserError, match=r"samples=7: at scale=full this figure takes general whole"):
        setup_of("llava_mole", "fig1", "full").with_samples(7)
