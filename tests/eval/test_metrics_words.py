"""Metrics on words: SQuAD, PathVQA, Tiny LVLM-eHub, class names."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_moe.eval import metrics
from llava_moe.eval.metrics.pathvqa import normalize_word
from llava_moe.eval.metrics.tiny_lvlm import CEE_KEYS

FEW = settings(max_examples=100, deadline=None)
VOCABULARY = [
    "yes",
    "no",
    "the",
    "a",
    "two",
    "left",
    "lung",
    "lobe",
    "dog",
    "cat",
    "3.5",
    "it's",
    "$5",
    "none",
    "x-ray",
]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=7)
ANSWERS = WORDS.map(" ".join)


def squad_words(text: str) -> list[str]:
    """The words SQuAD compares: punctuation out before the text is split, articles out after."""
    kept = [char for char in text.lower() if char not in string.punctuation]
    return [word for word in "".join(kept).split() if word not in {"a", "an", "the"}]


@given(prediction=ANSWERS, reference=ANSWERS)
@FEW
def test_squad_scores_are_those_of_bags_of_words(prediction: str, reference: str) -> None:
    said, gold = squad_words(prediction), squad_words(reference)
    assert metrics.squad_exact_match(prediction, [reference]) == (said == gold)
    shared = sum(min(said.count(word), gold.count(word)) for word in set(said))
    f1 = 2 * shared / (len(said) + len(gold)) if said and gold else float(said == gold)
    assert metrics.squad_f1(prediction, [reference]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "references", "em", "f1"),
    [
        ("the cat", ["cat"], 1, 1),
        ("The Cat!", ["a cat."], 1, 1),
        ("an apple", ["apple"], 1, 1),
        ("black cat", ["cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat"], 0, 0),
        ("", ["the"], 1, 1),
        ("", ["cat"], 0, 0),
        ("cat", [""], 0, 0),
        ("", ["cat", "the"], 1, 1),
        ("left lower lobe", ["right lobe", "lower left lobe"], 0, 1),
        ("“cat”", ["cat"], 0, 0),
        ("it's", ["its"], 1, 1),
        ("theatre", ["atre"], 0, 0),
    ],
)
def test_squad_cases(prediction: str, references: list[str], em: int, f1: float) -> None:
    assert metrics.squad_exact_match(prediction, references) == em
    assert metrics.squad_f1(prediction, references) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("yes", "yes", 1),
        ("No.", "no", 1),
        ("Yes, there is no lesion", "yes", 1),
        ("Yes, there is no lesion", "no", 1),
        ("I think so", "yes", 0),
        ("", "no", 0),
        ("yes", "no", 0),
        ("the lung", "lung", 0),
    ],
)
def test_pathvqa_closed_accuracy_cases(prediction: str, reference: str, score: int) -> None:
    assert metrics.pathvqa_closed_accuracy(prediction, [reference]) == score


@pytest.mark.parametrize("prediction", ["normal", "nodules", "cannot tell", "unknown"])
def test_pathvqa_closed_accuracy_finds_no_inside_words(prediction: str) -> None:
    assert metrics.pathvqa_closed_accuracy(prediction, ["no"]) == 1
    assert metrics.pathvqa_closed_accuracy_strict(prediction, ["no"]) == 0


def test_none_is_nought_to_pathvqa_and_so_no_no() -> None:
    assert normalize_word("None") == "0"
    assert metrics.pathvqa_closed_accuracy("none", ["no"]) == 0


@pytest.mark.parametrize(
    ("prediction", "reference", "score"),
    [
        ("Yes.", "yes", 1),
        ("yes", "No", 0),
        ("no, it is not", "no", 1),
        ("Yes, there is no lesion", "yes", 0),
        ("", "no", 0),
        ("eyes", "yes", 0),
    ],
)
def test_strict_closed_accuracy_wants_one_of_the_words_alone(prediction: str, reference: str, score: int) -> None:
    assert metrics.pathvqa_closed_accuracy_strict(prediction, [reference]) == score


def test_strict_closed_accuracy_refuses_a_reference_that_is_neither() -> None:
    with pytest.raises(ValueError, match="yes or no"):
        metrics.pathvqa_closed_accuracy_strict("yes", ["lung"])


@given(prediction=WORDS, reference=WORDS)
@FEW
def test_pathvqa_counts_found_words_by_the_prediction_and_missing_ones_by_the_reference(
    prediction: list[str], reference: list[str]
) -> None:
    # Words that normalising leaves as they are, or drops.
    said = [word for word in prediction if word in {"left", "lung", "lobe", "dog", "cat", "yes"}]
    gold = [word for word in reference if word in {"left", "lung", "lobe", "dog", "cat", "yes"}]
    found = [word for word in said if word in gold]
    missing = [word for word in gold if word not in said]
    recall = len(found) / (len(found) + len(missing)) if found else 0.0
    precision = len(found) / len(said) if found else 0.0
    f1 = 2 * precision * recall / (precision + recall) if found else 0.0
    assert metrics.pathvqa_open_recall(" ".join(said), [" ".join(gold)]) == pytest.approx(recall)
    assert metrics.pathvqa_open_f1(" ".join(said), [" ".join(gold)]) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "reference", "recall", "f1"),
    [
        ("left lung", "lung", 1, 2 * 0.5 / 1.5),
        ("lung", "left lung", 0.5, 2 * 0.5 / 1.5),
        ("lung", "lung lung", 1, 1),
        ("the two", "2", 1, 1),
        ("heart", "lung", 0, 0),
        ("", "lung", 0, 0),
        ("H&E", "h&e", 1, 1),
        ("x-ray", "x ray", 1, 1),
    ],
)
def test_pathvqa_open_cases(prediction: str, reference: str, recall: float, f1: float) -> None:
    assert metrics.pathvqa_open_recall(prediction, [reference]) == pytest.approx(recall)
    assert metrics.pathvqa_open_f1(prediction, [reference]) == pytest.approx(f1)


def test_repeating_a_right_word_raises_pathvqas_recall() -> None:
    assert metrics.pathvqa_open_recall("lung", ["left lung"]) == 1 / 2
    assert metrics.pathvqa_open_recall("lung lung lung", ["left lung"]) == 3 / (3 + 1)


@pytest.mark.parametrize("prediction", ["lung", "the", ""])
def test_a_reference_of_articles_alone_scores_nought_in_pathvqa(prediction: str) -> None:
    assert metrics.pathvqa_open_recall(prediction, ["the"]) == metrics.pathvqa_open_f1(prediction, ["the"]) == 0


@pytest.mark.parametrize(
    "metric",
    [
        metrics.pathvqa_closed_accuracy,
        metrics.pathvqa_closed_accuracy_strict,
        metrics.pathvqa_open_recall,
        metrics.pathvqa_open_f1,
    ],
)
def test_pathvqa_takes_one_reference(metric: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="one reference"):
        metric("yes", ["yes", "no"])


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("It is a dog.", ["dog"], 1),
        ("hotdog", ["dog"], 0),
        ("Dog", ["the dog"], 1),
        ("two cats", ["2"], 1),
        ("cat", ["dog", "cat"], 1),
        ("top\nleft", ["top left"], 1),
        ("don't know", ["dont"], 1),
        ("345", ["3.5"], 0),
        ("x/y/\nz", ["xy"], 1),
        ("", ["dog"], 0),
    ],
)
def test_tiny_lvlm_word_match_cases(prediction: str, references: list[str], score: int) -> None:
    assert metrics.tiny_lvlm_word_match(prediction, references) == score


@pytest.mark.parametrize("gold", ["$5", "100%", "#"])
def test_tiny_lvlm_never_finds_a_reference_that_begins_or_ends_with_a_sign(gold: str) -> None:
    assert metrics.tiny_lvlm_word_match(gold, [gold]) == 0


def test_tiny_lvlm_finds_a_reference_of_articles_alone_in_anything() -> None:
    assert metrics.tiny_lvlm_word_match("anything", ["the"]) == 1
    assert metrics.tiny_lvlm_word_match("the", ["the"]) == 0, "a text that normalises to nothing holds no word"


def test_tiny_lvlm_finds_three_in_three_and_a_half() -> None:
    assert metrics.tiny_lvlm_word_match("3.5", ["3"]) == 1


def test_tiny_lvlm_answers_with_both_words_are_right_for_either() -> None:
    assert (
        metrics.tiny_lvlm_word_match("yes and no", ["no"]) == metrics.tiny_lvlm_word_match("yes and no", ["yes"]) == 1
    )


def test_tiny_lvlm_wants_the_whole_run_of_a_script_without_blanks() -> None:
    assert metrics.tiny_lvlm_word_match("日本語", ["日本"]) == 0
    assert metrics.tiny_lvlm_word_match("日本語", ["日本語"]) == 1


@given(words=WORDS, gold=st.sampled_from(["left", "lung", "dog", "cat", "2", "0"]))
@FEW
def test_tiny_lvlm_match_of_a_plain_word_is_membership(words: list[str], gold: str) -> None:
    plain = {"two": "2", "none": "0"}
    split = [part for word in words for part in plain.get(word, word).split("-")]
    assert metrics.tiny_lvlm_word_match(" ".join(words), [gold]) == (gold in split)


def test_tiny_lvlm_overall_gives_the_leaderboards_figure_for_llava() -> None:
    abilities = ("reasoning", "perception", "knowledge", "commonsense", "hallucination")
    correct = dict(zip(abilities, (306, 196, 399, 286, 265), strict=True))
    total = dict(zip(abilities, (550, 400, 700, 500, 300), strict=True))
    assert metrics.tiny_lvlm_overall(correct, total) == pytest.approx(307.17, abs=0.005)
    assert metrics.tiny_lvlm_overall(total, total) == 500


@pytest.mark.parametrize("total", [{"reasoning": 550}, {"reasoning": 0, "perception": 400}])
def test_tiny_lvlm_overall_refuses_totals_that_do_not_fit(total: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="fit"):
        metrics.tiny_lvlm_overall({"reasoning": 1, "perception": 2}, total)


@pytest.mark.parametrize(
    ("replies", "vote"),
    [
        (("Most Likely Score: 1", "Final Score: 1", "Final Assessment Score: 0", "Final Score: 1", "nothing"), 1),
        (("most likely score: 0", "Final Score: 10", "Final Assessment Score: 1", "", ""), 0),
        (("", "", "", "Final Score: 1", "Most Likely Score: 1"), -1),
        (("Final Score: 1",) * 5, -1),
        (("Most Likely Score: 1, not Most Likely Score: 0", "", "", "Final Score: 1", "Most Likely Score: 1"), 1),
        (("MOST LIKELY SCORE: 1", "", "", "Final Score: 1", "Most Likely Score: 1"), -1),
        (("Most Likely Score: good", "Final Score: 0", "Final Assessment Score: 0", "", ""), -1),
    ],
)
def test_the_ensemble_vote_reads_the_text_behind_each_prompts_key(replies: tuple[str, ...], vote: int) -> None:
    assert metrics.tiny_lvlm_cee_vote(list(replies)) == vote


@given(votes=st.lists(st.sampled_from([1, 0, -1]), min_size=5, max_size=5))
@FEW
def test_the_ensemble_vote_is_the_commonest_and_among_equals_the_first(votes: list[int]) -> None:
    replies = [f"{key}: {'?' if vote < 0 else vote}" for key, vote in zip(CEE_KEYS, votes, strict=True)]
    most = max(Counter(votes).values())
    assert metrics.tiny_lvlm_cee_vote(replies) == next(vote for vote in votes if votes.count(vote) == most)


def test_the_ensemble_vote_wants_five_replies() -> None:
    with pytest.raises(ValueError, match="got 4"):
        metrics.tiny_lvlm_cee_vote([""] * 4)


@pytest.mark.parametrize(
    ("prediction", "reference", "has_word", "exact"),
    [
        ("This is a dog!", "dog", 1, 0),
        ("Dog.", "dog", 1, 1),
        ("hotdog", "dog", 0, 0),
        ("7", "7", 1, 1),
        ("digit 7", "7", 1, 0),
        ("seven", "7", 0, 0),
        ("aquarium fish", "aquarium fish", 1, 1),
        ("T-shirt/top", "tshirttop", 1, 1),
        ("dog .", "dog", 1, 0),
        ("", "dog", 0, 0),
        ("été", "t", 1, 1),
    ],
)
def test_class_names_are_found_as_words_or_alone(prediction: str, reference: str, has_word: int, exact: int) -> None:
    assert metrics.classification_has_word(prediction, [reference]) == has_word
    assert metrics.classification_exact(prediction, [reference]) == exact


def test_an_underscore_in_a_class_name_keeps_answers_from_matching() -> None:
    assert metrics.classification_has_word("aquarium fish", ["aquarium_fish"]) == 0
    assert metrics.classification_has_word("aquariumfish", ["aquarium_fish"]) == 1
    assert metrics.classification_exact("aquarium_fish", ["aquarium_fish"]) == 1


@given(name=st.text(alphabet=string.ascii_letters + string.digits, min_size=1, max_size=8))
@FEW
def test_a_class_name_is_found_in_a_sentence_and_alone_whatever_its_case_and_signs(name: str) -> None:
    assert metrics.classification_has_word(f"It is: '{name.upper()}'!", [name]) == 1
    assert metrics.classification_exact(f"'{name.lower()}'.", [name]) == 1
