"""Tiny LVLM-eHub: whole-word match, the sum over five abilities, and the ChatGPT ensemble vote.

Source: OpenGVLab/Multi-Modality-Arena bd2999a ``tiny_lvlm_evaluation/utils/tools.py``, ``updated_eval_tiny.py`` and
``chatgpt_ensemble_evaluation/cal_ensemble_accuracy.py``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from llava_moe.eval.metrics.plain import expect_references
from llava_moe.eval.metrics.vqa_text import flatten_blanks, settle_digits_and_articles, strip_punctuation

# What each of the five judge prompts asks the judge to write before its score.
CEE_KEYS = ("Most Likely Score", "Final Score", "Final Assessment Score", "Final Score", "Most Likely Score")
UNREADABLE = -1


def has_word(sentence: str, word: str) -> bool:
    r"""Whether ``\bword\b`` occurs in the sentence; a word that starts or ends with a sign hardly ever can."""
    return re.search(rf"\b{re.escape(word)}\b", sentence) is not None


def tiny_lvlm_word_match(prediction: str, references: Sequence[str]) -> float:
    r"""1.0 if any normalised reference occurs as a whole word in the normalised prediction (``VQAEval.evaluate``).

    Both sides pass the VQA normaliser (:mod:`~llava_moe.eval.metrics.vqa_text`), then ``\breference\b`` is searched.
    Kept from the original: "$5" and "100%" can never be found, a reference of an article alone is found in any text
    that holds a word, 3 is found in 3.5, an answer with both "yes" and "no" is right for either, and a script without
    blanks between words needs the whole text. The per-data-set flavour of the same repository scores some sets
    otherwise; the paper's first version had ChatGPT judge (:func:`tiny_lvlm_cee_vote`).
    """
    expect_references(references)
    predicted = _normalize(prediction)
    return float(any(has_word(predicted, _normalize(reference)) for reference in references))


def _normalize(text: str) -> str:
    return settle_digits_and_articles(strip_punctuation(flatten_blanks(text)))


def tiny_lvlm_overall(correct: Mapping[str, int], total: Mapping[str, int]) -> float:
    """Sum over the abilities of ``100 * correct / total``: at most 500 for the five abilities.

    The leaderboard's "overall" is this sum, not a mean (``updated_eval_tiny.py`` adds the five fractions).

    Args:
        correct: ability to number of right answers.
        total: ability to number of questions; the same abilities.

    Raises:
        ValueError: the abilities differ, or one has no questions.
    """
    if set(correct) != set(total) or not all(total.values()):
        raise ValueError(f"abilities with counts {dict(correct)!r} do not fit totals {dict(total)!r}")
    return sum(100 * correct[ability] / total[ability] for ability in total)


def tiny_lvlm_cee_vote(replies: Sequence[str]) -> int:
    """The majority of five judge replies: 1 right, 0 wrong, -1 unreadable; ties go to what was seen first.

    The text between a prompt's key and its next occurrence is read: "0" in it is 0, else "1" in it is 1, else -1; so
    "Score: 10" is 0. A reply without the key, in its own spelling or all lower-case, is -1, and three of those make
    the vote -1.

    Source: ``chatgpt_ensemble_evaluation/cal_ensemble_accuracy.py``.

    Args:
        replies: one a prompt, in the order of ``CEE_KEYS``.

    Raises:
        ValueError: there are not five replies.
    """
    if len(replies) != len(CEE_KEYS):
        raise ValueError(f"the vote takes {len(CEE_KEYS)} replies, got {len(replies)}")
    votes = [_read_reply(reply, key) for reply, key in zip(replies, CEE_KEYS, strict=True)]
    return Counter(votes).most_common(1)[0][0]


def _read_reply(reply: str, key: str) -> int:
    if key not in reply:
        reply = reply.replace(key.lower(), key)
    if key not in reply:
        return UNREADABLE
    score = reply.split(key)[1]
    if "0" in score:
        return 0
    return 1 if "1" in score else UNREADABLE
