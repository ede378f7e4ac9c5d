"""Measuring many texts at once finds exactly what encoding each of them finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_moe.data.batch_lengths import Size, measure
from llava_moe.data.conversation import BadRecord, Conversation, Turn
from llava_moe.data.encode import IGNORED, Encoder
from llava_moe.data.template import Rendered
from llava_moe.errors import UserError

WORDS = st.text(st.sampled_from("ab é\n\u2581🙂US<>/s: "), min_size=1, max_size=25).filter(lambda text: text.strip())
PAIRS = st.lists(st.tuples(WORDS, WORDS, st.integers(0, 2)), min_size=1, max_size=4)


def conversation(pairs: Sequence[tuple[str, str, int]]) -> Conversation:
    turns = []
    for question, answer, images in pairs:
        turns += [Turn("user", "<image>" * images + question), Turn("assistant", answer)]
    return Conversation("c", ("a.jpg",) * sum(pair[2] for pair in pairs), tuple(turns), "s", "d")


def one_by_one(encoder: Encoder, rendered: Sequence[Rendered]) -> list[Size | str]:
    found: list[Size | str] = []
    for one, encoding in zip(rendered, encoder.encode_texts(rendered), strict=True):
        try:
            text = encoder.finish(one, encoding)
        except BadRecord as fault:
            found.append(fault.reason)
            continue
        supervised = int((text.labels != IGNORED).sum())
        found.append(Size(len(text.input_ids), supervised, text.num_images, text.was_cut))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many=st.lists(PAIRS, min_size=1, max_size=6), max_length=st.sampled_from([25, 40, 60, 2000]), drop=st.booleans())
def test_measuring_is_encoding(
    many: list[list[tuple[str, str, int]]], max_length: int, drop: bool, make_encoder: Callable[..., Encoder]
) -> None:
    encoder = make_encoder(system="", max_length=max_length, over_length="drop" if drop else "cut")
    rendered = [encoder.template.render(conversation(pairs)) for pairs in many]
    found = [size.reason if isinstance(size, BadRecord) else size for size in measure(encoder, rendered)]
    assert found == one_by_one(encoder, rendered)


def test_nothing_measures_nothing_and_texts_without_spans_learn_nothing(make_encoder: Callable[..., Encoder]) -> None:
    encoder = make_encoder(system="")
    assert measure(encoder, []) == []
    (size,) = measure(encoder, [Rendered("USER: a cat", ())])
    assert isinstance(size, Size) and size.supervised == 0 and size.length > 1


def test_a_token_across_the_edge_of_a_span_is_named(make_encoder: Callable[..., Encoder]) -> None:
    encoder = make_encoder(system="")
    fine = encoder.template.render(conversation([("what ?", "a cat", 0)]))
    start = fine.text.index("a cat")
    for span in ((start + 3, len(fine.text)), (start - 1, start + 3)):
        with pytest.raises(UserError, match="makes one token"):
            measure(encoder, [fine, Rendered(fine.text, (span,)), fine])
