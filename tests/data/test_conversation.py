"""Turns settle or are refused with a reason; keys tell records apart."""

from __future__ import annotations

import pickle
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llava_moe
from llava_moe.data.conversation import (
    BadRecord,
    Conversation,
    StoredImage,
    Turn,
    check_images,
    image_identity,
    record_key,
    settle_turns,
)
from llava_moe.data.readers.records import records_row
from llava_moe.data.records import Source, entry_of

turns_of_any_kind = st.lists(
    st.builds(
        Turn, st.sampled_from(["user", "assistant", "system"]), st.sampled_from(["", " ", "a", "b\n", "<image>"])
    ),
    max_size=8,
)


def turns(*roles_and_texts: str) -> list[Turn]:
    return [Turn({"u": "user", "a": "assistant"}[one[0]], one[2:]) for one in roles_and_texts]


def test_a_leading_answer_is_dropped_and_adjacent_questions_are_merged() -> None:
    settled = settle_turns(turns("a:hi", "u:<image>", "u:what ?", "a:a cat", "u:why ?", "u:how ?", "a:so"))
    assert settled == tuple(turns("u:<image>\nwhat ?", "a:a cat", "u:why ?\nhow ?", "a:so"))


@pytest.mark.parametrize(
    ("given_turns", "reason"),
    [
        ([], "no_turns"),
        (turns("a:hi"), "no_turns"),
        (turns("u:what ?"), "role_order"),
        (turns("u:what ?", "a:yes", "a:no"), "role_order"),
        (turns("a:hi", "a:ho", "u:what ?", "a:yes"), "role_order"),
        (turns("u:what ?", "a:yes", "u:why ?"), "role_order"),
        ([Turn("system", "be kind"), *turns("u:what ?", "a:yes")], "role_order"),
        (turns("u:what ?", "a: \n "), "empty_answer"),
        (turns("u:what ?", "a:yes", "u:why ?", "a:"), "empty_answer"),
    ],
)
def test_turns_that_cannot_be_trained_on_are_refused_with_a_reason(given_turns: list[Turn], reason: str) -> None:
    with pytest.raises(BadRecord) as caught:
        settle_turns(given_turns)
    assert caught.value.reason == reason
    assert caught.value.detail and "\n" not in str(caught.value)


@given(turns_of_any_kind)
def test_settled_turns_alternate_lose_no_text_and_stay_as_they_are(some: list[Turn]) -> None:
    try:
        settled = settle_turns(some)
    except BadRecord:
        return
    assert [turn.role for turn in settled] == ["user", "assistant"] * (len(settled) // 2)
    assert len(settled) >= 2 and all(turn.text.strip() for turn in settled[1::2])
    assert settle_turns(settled) == settled
    kept = some[1:] if some[0].role == "assistant" else some
    for role in ("user", "assistant"):
        before = "\n".join(turn.text for turn in kept if turn.role == role)
        assert before == "\n".join(turn.text for turn in settled if turn.role == role)


def conversation(images: tuple[str | bytes, ...] = (), *some: Turn, id: str = "1", source: str = "s") -> Conversation:
    return Conversation(id, images, tuple(some or turns("u:what ?", "a:yes")), source, "d")


@pytest.mark.parametrize(
    ("images", "some", "told"),
    [
        (("a.jpg",), turns("u:what ?", "a:yes"), "data.sources.NAME.format=messages"),
        ((), turns("u:<image>\nwhat ?", "a:yes"), "name an image under image or images"),
        (("a.jpg",), turns("u:<image><image>", "a:yes"), "name an image under image or images"),
        (("a.jpg", "b.jpg"), turns("u:<image>\nwhat ?", "a:yes"), "write one <image> for each image where"),
        (("a.jpg",), turns("u:what ?", "a:<image> yes"), "stands in an answer"),
    ],
)
def test_placeholders_that_do_not_match_the_images_are_refused_with_what_to_do(
    images: tuple[str, ...], some: list[Turn], told: str
) -> None:
    with pytest.raises(BadRecord) as caught:
        check_images(conversation(images, *some))
    assert caught.value.reason == "image_count" and told in caught.value.detail


def test_record_keys_differ_with_source_id_images_and_texts_and_with_nothing_else() -> None:
    base = record_key(conversation(("a.jpg",)))
    assert len(base) == 64 and int(base, 16) >= 0
    assert base == record_key(Conversation("1", ("a.jpg",), tuple(turns("u:what ?", "a:yes")), "s", "other", "task"))
    others = [
        conversation(("a.jpg",), id="2"),
        conversation(("a.jpg",), source="t"),
        conversation(("b.jpg",)),
        conversation((b"a.jpg",)),
        conversation(("a.jpg", "a.jpg")),
        conversation(("a.jpg",), *turns("u:what ?", "a:no")),
        conversation(("a.jpg",), *turns("u:what ?a", "a:yes")),
        conversation(("a.jpg",), *turns("u:what ", "a:?yes")),
        conversation((), *turns("u:a.jpgwhat ?", "a:yes")),
    ]
    assert len({base, *map(record_key, others)}) == 10


def test_a_system_text_and_marks_of_loss_change_the_key_only_where_they_are_there() -> None:
    asked, said = turns("u:what ?", "a:yes")
    base = Conversation("1", (), (asked, said), "s", "d")
    assert record_key(base) == record_key(Conversation("1", (), (asked, said), "s", "d", system=None))
    others = [
        Conversation("1", (), (asked, said), "s", "d", system="be kind"),
        Conversation("1", (), (asked, said), "s", "d", system="be kind "),
        Conversation("1", (), (asked, said), "s", "d", system=""),
        Conversation("1", (), (asked, Turn("assistant", "yes", is_supervised=False)), "s", "d"),
        Conversation("1", (), (asked, Turn("assistant", "yes", is_supervised=False)), "s", "d", system="be kind"),
    ]
    assert len({record_key(base), *map(record_key, others)}) == 6


def test_the_keys_of_the_demos_records_are_those_of_the_first_release() -> None:
    digest = sha256()
    for name in ("general", "documents", "medical"):
        path = Path(llava_moe.__file__).parent / "demo" / "images" / f"{name}.parquet"
        for number, record in enumerate(next(pq.ParquetFile(path).iter_batches(40)).to_pylist()):
            row = records_row(record, number)
            content = entry_of(
                row, tuple(image["bytes"] for image in row["images"]), number, Source(name, name, "")
            ).content
            assert isinstance(content, Conversation)
            digest.update(bytes.fromhex(record_key(content)))
    assert digest.hexdigest() == "d49e89d89cdddfd8c6424b35323926704c3ca465bd21c0ae0d052c69392fe184"


def test_the_key_of_an_image_in_bytes_is_that_of_its_content() -> None:
    assert record_key(conversation((b"\xff\xd8" * 99,))) == record_key(conversation((bytes(b"\xff\xd8" * 99),)))
    assert record_key(conversation((b"\xff\xd8" * 99,))) != record_key(conversation((b"\xff\xd8" * 98,)))


def test_a_bad_record_crosses_process_borders() -> None:
    fault = pickle.loads(pickle.dumps(BadRecord("image_missing", "no file a.jpg")))
    assert (fault.reason, fault.detail, str(fault)) == (
        "image_missing",
        "no file a.jpg",
        "image_missing: no file a.jpg",
    )


def test_an_image_is_known_again_behind_another_folder_or_suffix() -> None:
    one = image_identity("00453/004539375.jpg")
    for same in (
        "llava/llava_pretrain/images/00453/004539375.jpg",
        "./00453//004539375.gif",
        "a/../00453/004539375.png",
    ):
        assert image_identity(same) == one
    for other in ("00454/004539375.jpg", "004539375.jpg", "00453/004539376.jpg"):
        assert image_identity(other) != one
    assert image_identity("scans/form.tif.2") == image_identity("scans/form.tif.0") != image_identity("scans/form2.tif")
    assert image_identity(b"abc") == image_identity(StoredImage(sha256(b"abc").hexdigest())) != image_identity("abc")
