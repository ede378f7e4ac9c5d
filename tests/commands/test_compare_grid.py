"""Words become runs: which key makes them, what they are called, and which of them share a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_moe.commands import compare_grid
from llava_moe.commands.compare_axes import Asked, read_axes
from llava_moe.commands.compare_grid import Compared, first_values, open_grid, words_of
from llava_moe.commands.compare_scores import measure_changed_again
from llava_moe.config.hydra_compose import run_composed
from llava_moe.config.hydra_words import prepare_override
from llava_moe.config.sweep_size import swept_keys
from llava_moe.errors import UserError
from llava_moe.grid.card import Card, read_card, write_card
from llava_moe.grid.cell import Grid
from llava_moe.grid.measured import Measures
from llava_moe.runs.run_names import apart, as_folder, job_name, mixture_name, value_names
from tests.eval.own.files import write_questions


def asked_of(*words: str) -> Asked:
    return read_axes([prepare_override(word) for word in words])


def grid_of(*words: str) -> Compared:
    asked, found = asked_of(*words), []

    def job(*_: Any) -> int:
        found.append(open_grid(asked))
        return 0

    assert run_composed("train", words_of(asked, first_values(asked)), job) == 0
    return found[0]


def axes_of(*words: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(axis.key, axis.values) for axis in asked_of(*words).axes]


def test_a_list_makes_runs_and_a_list_of_lists_where_the_key_holds_one() -> None:
    assert axes_of("seed=[1,0]", "adapter.r=[8,16]", "adapter=[lora,llava_mole]") == [
        *(("adapter", ("lora", "llava_mole")), ("adapter.r", ("8", "16")), ("seed", ("1", "0"))),
    ]
    lists = "adapter.target_modules=[[q_proj,v_proj],[up_proj]]"
    assert axes_of(lists) == [("adapter.target_modules", ("[q_proj, v_proj]", "[up_proj]"))]
    one_list = asked_of("adapter=[lora,llava_mole]", "adapter.target_modules=[q_proj,v_proj]", "domains=[general]")
    assert one_list.words == ("adapter.target_modules=[q_proj,v_proj]", "domains=[general]")
    assert axes_of("domains=[[general],[general,medical]]")[0][1] == ("[general]", "[general, medical]")
    # A number of experts is one number; one for each layer is a list.
    assert axes_of("adapter.num_experts=[2,4]") == [("adapter.num_experts", ("2", "4"))]
    assert axes_of("stage.learning_rates.adapter=[1e-3,2e-4]")[0][1] == ("0.001", "0.0002")
    assert axes_of("adapter.use_rslora=[true,false]")[0][1] == ("true", "false")
    assert axes_of("init_from=['runs/a b',runs/c]") == [("init_from", ("runs/a b", "runs/c"))]
    assert axes_of("data=[a.yaml,b.yaml]") == [("data", ("a.yaml", "b.yaml"))]


def test_the_order_of_words_changes_nothing_and_of_a_key_given_twice_the_last_holds() -> None:
    words = ["seed=[0,1]", "adapter=[lora,mixlora]", "train.max_steps=3", "data=mix.yaml"]
    assert asked_of(*words) == asked_of(*reversed(words))
    assert asked_of(*words, "train.max_steps=4").words == ("data=mix.yaml", "train.max_steps=4")
    assert axes_of(*words, "seed=5") == [("adapter", ("lora", "mixlora"))]
    typed = asked_of(*words, "init_from=['a b',c]").typed
    assert asked_of(*typed).typed == typed and "init_from=['a b',c]" in typed


@pytest.mark.parametrize("values", ["[1e-3,0.001]", "[a,'a']", "[[1,2],[1, 2]]"])
def test_values_that_are_equal_are_refused(values: str) -> None:
    with pytest.raises(UserError, match="is there twice"):
        asked_of(f"stage.learning_rates.adapter={values}")


@pytest.mark.parametrize(
    ("key", "values", "names"),
    [
        ("adapter", ("lora", "llava_mole"), ["lora", "llava_mole"]),
        ("adapter.r", ("8", "16"), ["r8", "r16"]),
        ("stage.learning_rates.adapter", ("0.001", "1e-05"), ["adapter0.001", "adapter1e-05"]),
        ("adapter.use_rslora", ("true", "false"), ["use_rslora_true", "use_rslora_false"]),
        ("adapter.target_modules", ("[q_proj, v_proj]",), ["q_proj_v_proj"]),
        ("data", ("mine/a.yaml", "b.yml"), ["a", "b"]),
        ("init_from", ("runs/first",), ["first"]),
    ],
)
def test_a_value_is_called_by_what_it_is(key: str, values: Sequence[str], names: list[str]) -> None:
    assert [*value_names({key: values})[key].values()] == names


def test_names_stay_apart_and_fit_a_folder() -> None:
    names = value_names({"data": ("a/mix.yaml", "b/mix.yaml"), "x.r": ("1",), "y.r": ("1",)})
    one, other = names["data"].values()
    assert one == "mix" and other.startswith("mix-")
    assert (names["x.r"]["1"], names["y.r"]["1"]) == ("x_r1", "y_r1")
    assert len(apart({"x": "n" * 300})["x"]) < 100 and as_folder("_a") == "run-_a"
    assert mixture_name("mine/mix.yaml") == "mix" and mixture_name("conflict") == "conflict"


def test_runs_that_differ_by_their_last_stage_alone_share_the_first() -> None:
    compared = grid_of("adapter=[lora,llava_mole]", "seed=[0,1]", "stage.learning_rates.adapter=[1e-3,5e-4]")
    names = [cell.name for cell in compared.grid.cells]
    assert names[:3] == [
        "1-pretrain-seed0",
        "lora-learning_rates_adapter0.001-seed0",
        "lora-learning_rates_adapter0.0005-seed0",
    ]
    assert sum(name.startswith("1-pretrain") for name in names) == 2 and len(names) == 2 + 8
    first, second = (
        compared.grid.by_name["1-pretrain-seed1"],
        compared.grid.by_name["llava_mole-learning_rates_adapter0.001-seed1"],
    )
    assert second.start == first.name and first.start is None and not first.measured
    assert "seed=1" in first.words and not any("adapter" in word for word in first.words)
    assert second.labels == {"adapter": "llava_mole", "stage.learning_rates.adapter": "0.001", "seed": 1}
    scored, measured = second.measured
    assert scored == ("eval", "benchmarks=[demo]") and '"held_out":true' in measured[1]
    assert not any(word.startswith("eval.benchmarks") for word in second.words)


def test_a_first_stage_of_its_own_is_named_by_what_it_does_not_share() -> None:
    compared = grid_of("stage.learning_rates.projector=[5e-3,1e-3]", "adapter=[lora,llava_mole]")
    names = [cell.name for cell in compared.grid.cells if "pretrain" in cell.name]
    assert names == ["1-pretrain-projector0.005", "1-pretrain-projector0.001"]
    assert [compared.seeds, len(compared.grid.cells)] == [(0,), 6]


def test_values_that_say_the_same_are_refused() -> None:
    with pytest.raises(UserError, match="are the same training"):
        grid_of("adapter.target_modules=[[q_proj],['q_proj']]", "exp=mix_doc", "scale=demo")


def test_runs_that_start_from_other_runs_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_grid, "find_starts", lambda stages: None)
    compared = grid_of("init_from=[runs/one,runs/other]", "exp=mix_doc", "scale=demo")
    assert [cell.name for cell in compared.grid.cells] == ["one", "other"]
    assert ["init_from=runs/one" in cell.words for cell in compared.grid.cells] == [True, False]


def test_words_are_told_as_they_can_be_typed_again() -> None:
    typed = ("data=['données.yaml','a=b.yaml','1e3.yaml','it.yaml']", "adapter.r=[4,8]", "seed=[0,1]")
    asked = asked_of(*typed)
    assert asked_of(*asked.typed) == asked
    assert asked_of("path=['1e3',a.json]").typed == ["path=['1e3',a.json]"]


def test_a_seed_written_in_two_ways_is_refused() -> None:
    with pytest.raises(UserError, match="seed=01 is the seed 1, which is there already"):
        grid_of("seed=[1,01]")


def test_own_questions_are_asked_of_every_run_and_not_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_questions(tmp_path / "set" / "my questions.jsonl")
    (tmp_path / "moved").mkdir()
    for picture in (tmp_path / "set").glob("*.png"):
        picture.rename(tmp_path / "moved" / picture.name)
    typed = ("seed=[0,1]", "exp=mix_doc", "scale=demo", "eval.images=moved", "eval.limit=2")
    words = (*typed, "eval.benchmarks=['set/my questions.jsonl']")
    cells = grid_of(*words).grid.cells
    asking, measuring = cells[0].measured
    images = 'images={"my_questions": "moved"}'
    assert asking == ("eval", "benchmarks=['set/my questions.jsonl']", images, "limit=2")
    measures = Measures.from_word(measuring[1].partition("=")[2])
    assert measures.scores["my_questions"].benchmark == "my_questions" and measures.scores["my_questions"].content
    assert "eval.images=null" in cells[0].words and "eval.benchmarks=[]" in cells[0].words
    # A file that asks other questions now, or shows other pictures, has the runs that are there measured again.
    write_card(tmp_path, Card(cells[0].name, "", "", (), cells[0].measured, is_finished=True))
    measure_changed_again(Grid("compare", cells), tmp_path)
    assert read_card(tmp_path, cells[0].name) == Card(cells[0].name, "", "", (), cells[0].measured, is_finished=True)
    for picture in (tmp_path / "moved").glob("*.png"):
        Image.new("RGB", (24, 24), "white").save(picture)
    repainted = grid_of(*words).grid.cells
    measure_changed_again(Grid("compare", repainted), tmp_path)
    assert read_card(tmp_path, cells[0].name) == Card(cells[0].name, "", "", (), (), is_finished=True)
    write_card(tmp_path, Card(cells[0].name, "", "", (), repainted[0].measured, is_finished=True))
    file.write_text(file.read_text().replace("A red square", "A square"))
    measure_changed_again(grid_of(*words).grid, tmp_path)
    assert read_card(tmp_path, cells[0].name) == Card(cells[0].name, "", "", (), (), is_finished=True)


def test_questions_called_as_a_domain_of_the_demo_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_questions(tmp_path / "documents.jsonl")
    with pytest.raises(UserError, match="its scores would be called documents, as a domain is"):
        grid_of("seed=[0,1]", "exp=mix_doc", "scale=demo", "eval.benchmarks=[demo,documents.jsonl]")


def test_a_run_of_a_sweep_is_called_by_what_differs() -> None:
    swept = swept_keys(["seed=0,1", "adapter=lora,llava_mole", "data=mix.yaml", "train.betas=[0.9,0.99]"])
    assert swept == ["seed", "adapter"]
    typed = {"seed": "1", "adapter": "llava_mole", "data": "mix.yaml", "train.max_steps": "3"}
    assert job_name(swept, typed) == "mix-llava_mole-seed1"
    assert job_name(["data"], {"data": "a/one.yaml", "exp": "mix_doc"}) == "mix_doc-one"
    assert job_name(["adapter.r"], {"adapter.r": "8"}) == "r8"
