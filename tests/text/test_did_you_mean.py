"""The known name that is most like what was typed."""

from __future__ import annotations

from llava_moe.text.did_you_mean import did_you_mean


def test_the_nearest_name_is_shown_as_the_caller_says_it() -> None:
    assert did_you_mean("lorra", ["mixlora", "lora"]) == " (did you mean lora?)"
    assert did_you_mean("lorra", {"mixlora": object(), "lora": object()}) == " (did you mean lora?)"
    assert did_you_mean("lorra", ["lora"], shown="adapter={}".format) == " (did you mean adapter=lora?)"


def test_nothing_is_said_where_none_is_alike_or_none_is_known() -> None:
    assert did_you_mean("zebra", ["lora"]) == "" == did_you_mean("lora", [])
    assert did_you_mean("loop", ["lora"]) == "" and did_you_mean("loop", ["lora"], cutoff=0.4)
