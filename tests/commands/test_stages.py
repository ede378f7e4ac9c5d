"""What the stages of an experiment take from the command line."""

from __future__ import annotations

from tests.commands.test_rates import stages_of


def test_a_scale_that_the_user_names_is_that_of_every_stage() -> None:
    for words in ((), ("adapter=lora", "seed=1")):
        demo, evening = (stages_of(*words, f"scale={scale}") for scale in ("demo", "evening"))
        assert [one.config.plain["train"] for one in demo] == [one.config.plain["train"] for one in stages_of(*words)]
        for short, long in zip(demo, evening, strict=True):
            assert long.config.plain["train"]["max_steps"] == long.config.plain["stage"]["demo"]["evening_steps"]
            assert long.config.plain["train"] | {"max_steps": 0} == short.config.plain["train"] | {"max_steps": 0}
            assert [word for word in long.words if word.startswith("scale=")] == ["scale=evening"]
            assert long.folder != short.folder


def test_an_experiments_own_scale_stands_where_the_user_names_none() -> None:
    assert all("scale=demo" in one.words for one in stages_of())
