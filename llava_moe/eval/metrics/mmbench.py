"""MMBench: which option an answer means, and the circular score over rotated options.

Source: open-compass/VLMEvalKit e8e78f0 ``vlmeval/utils/matching_util.py`` ``can_infer`` (no judge model) and its
circular evaluation. What it cannot read VLMEvalKit hands to a judge model, or counts wrong without one; lmms-eval's
``mmbench_*`` tasks draw an option at random when their judge fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_LETTER_NOISE = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_LAST_TOKENS = 5
_FAILED_CALL = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
REFUSED = "Z"


def mmbench_extract(prediction: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the option that the answer names, or None; ``Z`` when it refuses to choose.

    First the letter rule: signs to blanks, exactly one option letter among the tokens, its first place within the
    last four ("A dog" is A; lower-case letters never match). Then the text rule: exactly one option's text occurs in
    the answer, case aside, and the answer is at most twice as long as all option texts together.

    Args:
        prediction: the model's text.
        choices: letter to option text, in order.
    """
    return _by_letter(prediction, choices) or _by_text(prediction, choices)


def _by_letter(prediction: str, choices: Mapping[str, str]) -> str | None:
    if _FAILED_CALL in prediction:
        return None
    if any(refusal in prediction for refusal in _REFUSALS):
        return REFUSED
    tokens = prediction.translate(_LETTER_NOISE).split()
    named = [letter for letter in choices if letter in tokens]
    if len(named) == 1:
        return named[0] if tokens.index(named[0]) > len(tokens) - _LAST_TOKENS else None
    return REFUSED if not named and REFUSED in tokens else None


def _by_text(prediction: str, choices: Mapping[str, str]) -> str | None:
    lowered = prediction.lower()
    if len(lowered) > 2 * sum(len(text) for text in choices.values()):
        return None
    named = [letter for letter, text in choices.items() if text.lower() in lowered]
    return named[0] if len(named) == 1 else None


def mmbench_circular(predictions: Sequence[str], rotations: Sequence[Mapping[str, object]]) -> float:
    """1.0 only if the answer to every rotation of one question is right; an unread answer is wrong.

    Args:
        predictions: one raw text a rotation.
        rotations: one ``{"answer": letter, "choices": {letter: text}}`` a rotation, in the same order.

    Raises:
        ValueError: no rotation, or another number of predictions.
    """
    if not rotations or len(predictions) != len(rotations):
        raise ValueError(f"{len(predictions)} predictions for {len(rotations)} rotations")
    return float(
        all(_is_right(prediction, rotation) for prediction, rotation in zip(predictions, rotations, strict=True))
    )


def _is_right(prediction: str, rotation: Mapping[str, object]) -> bool:
    choices = rotation["choices"]
    if not isinstance(choices, Mapping):
        raise ValueError(f"a rotation's choices must map letters to texts, got {choices!r}")
    return mmbench_extract(prediction, choices) == rotation["answer"]
