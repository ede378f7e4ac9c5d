"""VQAv2 and TextVQA: the two normalisers and the soft accuracy of ten annotators."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.eval.metrics import (
    textvqa_accuracy,
    vqa_normalizer_textvqa,
    vqa_normalizer_vqav2,
    vqav2_accuracy,
)
from llava_moe.eval.metrics.vqa_text import CONTRACTIONS, strip_punctuation

FEW = settings(max_examples=150, deadline=None)
SIGNS = ';/[]"{}()=+\\_-><@`,?!'
TEXTS = st.one_of(st.text(max_size=20), st.text(alphabet=SIGNS + " .a1\n\t'", max_size=10))
DIGITS = ["none zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def plain_normalizer(text: str) -> str:
    """The rules in words: signs, stops, then word by word."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    comma_in_number = False
    for start, char in enumerate(text):
        rest = text[start + 1 :]
        if char.isdecimal() and rest.startswith(",") and rest.lstrip(",")[:1].isdecimal():
            comma_in_number = True
    gone = {sign for sign in SIGNS if comma_in_number or f"{sign} " in text or f" {sign}" in text}
    kept = [" " if char in SIGNS else char for char in text if char not in gone]
    num_stops, out = 0, []
    for place, char in enumerate(kept):
        if char == "." and num_stops < 32 and not "".join(kept[place + 1 : place + 2]).isdecimal():
            num_stops += 1
        else:
            out.append(char)
    words = []
    for word in "".join(out).lower().split():
        number = next((str(value) for value, names in enumerate(DIGITS) if word in names.split()), word)
        if number not in ("a", "an", "the"):
            words.append(CONTRACTIONS.get(number, number))
    return " ".join(words)


@given(text=TEXTS)
@FEW
def test_the_vqav2_normalizer_follows_its_rules_in_words(text: str) -> None:
    assert vqa_normalizer_vqav2(text) == plain_normalizer(text)


@given(text=TEXTS)
@FEW
def test_the_textvqa_normalizer_is_the_other_after_four_replacements(text: str) -> None:
    first = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    assert vqa_normalizer_textvqa(text) == plain_normalizer(first)


@pytest.mark.parametrize(
    ("text", "vqav2", "textvqa"),
    [
        ("a dog", "dog", "dog"),
        ("Two", "2", "2"),
        ("none", "0", "0"),
        ("3.5", "3.5", "3.5"),
        ("1,000", "1000", "1000"),
        ("a,b", "b", "ab"),
        ("black/white", "black white", "black white"),
        ("dog's", "dog's", "dog 's"),
        ("top-left (corner)", "top left corner", "top left corner"),
        ("top\nleft", "top left", "top left"),
        ("is it?", "is it", "is it"),
        ("u.s.a.", "usa", "usa"),
        ("$5 100%", "$5 100%", "$5 100%"),
        ("1st", "1st", "1st"),
        ("", "", ""),
        ("The", "", ""),
    ],
)
def test_normalizer_cases(text: str, vqav2: str, textvqa: str) -> None:
    assert vqa_normalizer_vqav2(text) == vqav2
    assert vqa_normalizer_textvqa(text) == textvqa


def test_a_sign_that_touches_a_blank_anywhere_is_deleted_everywhere() -> None:
    assert vqa_normalizer_vqav2("black/white") == "black white"
    assert vqa_normalizer_vqav2("black/white / red") == "blackwhite red"
    assert vqa_normalizer_vqav2("black-white / red") == "black white red"


def test_a_comma_between_digits_deletes_every_sign() -> None:
    assert vqa_normalizer_vqav2("black/white 1,000") == "blackwhite 1000"
    assert vqa_normalizer_textvqa("black/white 1,000") == "black white 1000"


def test_several_commas_between_digits_count_for_lmms_eval_and_not_for_the_original() -> None:
    assert vqa_normalizer_vqav2("a/b 1,,2") == "ab 12"
    assert strip_punctuation("x/y 1,,2") == "x y 1  2"


def test_a_full_stop_after_a_digit_goes_unless_a_digit_follows() -> None:
    assert vqa_normalizer_vqav2("5.") == vqa_normalizer_textvqa("5.") == "5"
    assert vqa_normalizer_vqav2(".5") == ".5"
    assert strip_punctuation("5.", keep_stop_after_digit=True) == "5."


def test_only_the_first_thirty_two_full_stops_go() -> None:
    assert vqa_normalizer_vqav2("no" + "." * 32) == "no"
    assert vqa_normalizer_vqav2("no" + "." * 35) == "no..."


@pytest.mark.parametrize(("value", "names"), list(enumerate(DIGITS)))
def test_number_words_become_digits(value: int, names: str) -> None:
    for name in names.split():
        assert vqa_normalizer_vqav2(name.upper()) == vqa_normalizer_textvqa(name) == str(value)


def test_contractions_only_move_apostrophes() -> None:
    assert len(CONTRACTIONS) == 114
    for written, spelt in CONTRACTIONS.items():
        assert written != spelt and written == written.lower()
        assert written.replace("'", "") == spelt.replace("'", "")


@pytest.mark.parametrize(
    ("written", "spelt"), [("dont", "don't"), ("somebody'd", "somebodyd"), ("ow's'at", "'ow's'at"), ("im", "im")]
)
def test_contractions_are_spelt_as_the_table_has_them_slips_included(written: str, spelt: str) -> None:
    assert vqa_normalizer_vqav2(written) == spelt


@given(text=TEXTS)
@FEW
def test_line_breaks_tabs_and_outer_blanks_do_not_matter_to_the_normalizers(text: str) -> None:
    for normalize in (vqa_normalizer_vqav2, vqa_normalizer_textvqa):
        assert normalize(f" \n{text}\t ") == normalize(text)
        assert normalize(text.replace(" ", "\n")) == normalize(text)


@pytest.mark.parametrize(("num_equal", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_accuracy_goes_up_to_four_of_ten(num_equal: int, accuracy: float) -> None:
    references = ["a dog"] * num_equal + [f"other {number}" for number in range(10 - num_equal)]
    assert vqav2_accuracy("Dog", references) == pytest.approx(accuracy)
    assert textvqa_accuracy("Dog", references) == pytest.approx(accuracy)


@given(votes=st.lists(st.sampled_from(["dog", "Dog.", "a dog", "cat", "dogs"]), min_size=1, max_size=12))
@FEW
def test_soft_accuracy_is_the_mean_over_leave_one_out_sets(votes: list[str]) -> None:
    scores = []
    for left_out in range(len(votes)):
        others = votes[:left_out] + votes[left_out + 1 :]
        scores.append(min(1, sum(vote.lower().strip(".") in ("dog", "a dog") for vote in others) / 3))
    assert vqav2_accuracy("the dog", votes) == pytest.approx(statistics.mean(scores))
    assert textvqa_accuracy("the dog", votes) == pytest.approx(statistics.mean(scores))


def test_ten_equal_references_are_normalized_too() -> None:
    assert vqav2_accuracy("the yes.", ["Yes"] * 10) == 1.0


@pytest.mark.parametrize(("prediction", "vqav2", "textvqa"), [("ab", 0, 1), ("b", 1, 0)])
def test_the_two_accuracies_part_where_their_normalizers_do(prediction: str, vqav2: float, textvqa: float) -> None:
    assert vqav2_accuracy(prediction, ["a,b"] * 10) == vqav2
    assert textvqa_accuracy(prediction, ["a,b"] * 10) == textvqa
