"""What can be told from a record's words: kinds by pure functions, no model and no image."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from llava_moe.data.conversation import ASSISTANT, IMAGE_PLACEHOLDER, USER, BadRecord, Turn, merge_turns
from llava_moe.data.encode import Encoder

Told = tuple[str, str]
"""A kind and a line about this case of it."""

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LEFTOVER = re.compile(
    r"<\|?\s*/?\s*(?:image|img|imagehere|image[ _-]?(?:placeholder|token|pad|start|end|\d+)|img[ _-]?\d+"
    r"|im_(?:start|end|patch)|vision_(?:start|end)|picture|video)\s*/?\s*\|?>|\[(?:image|img)\]",
    re.IGNORECASE,
)
# UTF-8's two bytes of U+00A0..U+00FF, its three of general punctuation, and its byte-order mark, each read as cp1252.
# After "Ã" no closing quote, dash or dots: upper-case text in several languages ends in that letter.
_MOJIBAKE = re.compile(
    r"Ã[\u00a1-\u00bf\u20ac\u201e\u2020\u2021\u02c6\u2030\u0160\u0152\u017d]|â€[\u0098-\u00ff\u2018-\u203a"
    r"\u0153\u02dc\u2122\u00a6]|Â[\u00a0-\u00bf](?!\w)|ï»¿"
)
_REFUSAL = re.compile(
    r"(?:i['\u2019]?m |i am )?(?:very |so )?sorry[,.]? (?:but )?"
    r"(?:as an ai|i (?:can['\u2019]?t|cannot|can not|am not able|am unable|don['\u2019]?t have))"
    r"|as an ai(?: language)? (?:model|assistant)"
    r"|i(?: cannot| can['\u2019]t| am unable to|['\u2019]m unable to) (?:see|view|assist|help|provide|process|fulfill)",
    re.IGNORECASE,
)
# LLaVA-1.5's instructions on form, which come behind the question.
_FORM = re.compile(
    r"answer the question using a single word or phrase\.?"
    r"|answer with the option['\u2019]s letter from the given choices "
    r"directly\.?|provide a one-sentence caption for the provided image\.?|reference ocr token: .*",
    re.IGNORECASE,
)
_NO_WORD = re.compile(r"[\W_]+")


def refine(fault: BadRecord, turns: Sequence[Turn]) -> str:
    """The kind of a record that its reader refused: the reason, told apart further where the turns show more.

    Args:
        turns: as the record has them; none where they are not known.
    """
    merged = merge_turns(turns)
    if fault.reason == "role_order" and merged:
        if any(turn.role not in (USER, ASSISTANT) for turn in turns):
            return "unknown_role"
        alternate = all(turn.role == (USER, ASSISTANT)[number % 2] for number, turn in enumerate(merged))
        return "no_answer" if alternate else "role_order"
    if fault.reason == "image_count" and any(t.role == ASSISTANT and IMAGE_PLACEHOLDER in t.text for t in merged):
        return "placeholder_in_answer"
    return fault.reason


def special_tokens(encoder: Encoder) -> tuple[str, ...]:
    """The special tokens that a text may spell by mistake, the end token and the placeholder apart."""
    tokenizer = encoder.tokenizer
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    apart = {IMAGE_PLACEHOLDER, encoder.template.eos, ""}
    return tuple(token for token in dict.fromkeys([*tokenizer.all_special_tokens, *added]) if token not in apart)


def read_turns(turns: Sequence[Turn], encoder: Encoder) -> list[Turn]:
    """The turns whose words are trained on: stage 1 throws its questions away."""
    return [turn for turn in turns if encoder.template.kind != "plain" or turn.role == ASSISTANT]


def text_kinds(turns: Sequence[Turn], end_token: str, specials: Sequence[str]) -> list[Told]:
    """Kinds of a record whose turns are settled, each at most once."""
    told: dict[str, str] = {}
    for turn in turns:
        text = turn.text
        if end_token and end_token in text:
            told.setdefault("end_token", f"{end_token} stands in a turn of the {turn.role}")
        if "<" in text or "[" in text:
            for token in specials:
                if token in text:
                    told.setdefault("special_token", f"{token} stands in a turn of the {turn.role}")
            for found in _LEFTOVER.finditer(text):
                if found[0] != IMAGE_PLACEHOLDER:
                    told.setdefault("leftover_placeholder", f"{found[0]} stands in a turn of the {turn.role}")
        if not text.isascii():
            if "\ufffd" in text:
                told.setdefault("replacement_character", _around(text, text.index("\ufffd")))
            if odd := _MOJIBAKE.search(text):
                told.setdefault("mojibake", _around(text, odd.start()))
        if control := _CONTROL.search(text):
            told.setdefault("control_character", f"U+{ord(control[0]):04X} in {_around(text, control.start())}")
        if turn.role == ASSISTANT and (refusal := _REFUSAL.match(text.lstrip())):
            told.setdefault("refusal", refusal[0])
    for question, answer in pairwise(turns):
        if question.role == USER and answer.role == ASSISTANT and _is_echo(question.text, answer.text):
            told.setdefault("echo", answer.text[:80])
    return list(told.items())


def normal_question(text: str) -> str:
    """A question for comparison: no placeholder, no instruction on form, no case, no punctuation, single blanks."""
    bare = _FORM.sub(" ", text.replace(IMAGE_PLACEHOLDER, " "))
    return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", bare).casefold()).strip()


def asked_questions(turns: Sequence[Turn]) -> set[str]:
    """The normalised questions of a record: each turn of the user's, and each of its lines (M3IT's instruction and
    question are lines of one turn)."""
    asked = set()
    for turn in turns:
        if turn.role == USER:
            asked |= {normal_question(turn.text), *(normal_question(line) for line in turn.text.splitlines())}
    return asked - {""}


def _is_echo(question: str, answer: str) -> bool:
    said = " ".join(answer.split()).casefold()
    return bool(said) and said == " ".join(question.replace(IMAGE_PLACEHOLDER, " ").split()).casefold()


def _around(text: str, at: int) -> str:
    return repr(text[max(0, at - 20) : at + 20])
