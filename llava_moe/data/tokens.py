"""Rendered text to tokens, so that nothing that a person wrote becomes a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Encoding, Tokenizer

from llava_moe.data.template import Rendered
from llava_moe.text.structured_text import parse_json

_MARK = re.compile(r"<.+>", re.DOTALL)
_PRIVATE, _LAST_PRIVATE = 0xF0000, 0x10FFFD
"""Code points that Unicode gives no meaning: planes 15 and 16."""


class Tokens:
    """Tokenizes with a fast tokenizer's backend.

    Hugging Face's tokenization of the whole text is the reference. It reads ``</s>`` as the end token whoever wrote it;
    where a text spells a control token outside of the template's own marks, a copy of the backend is used that knows
    the control tokens under names that the text does not hold. The marks are written by these names, and what people
    wrote is tokenized as the letters that it is.

    A control token is an added token that is special, or one in angle brackets that stands behind the vocabulary.
    """

    def __init__(self, backend: Tokenizer) -> None:
        self._backend = backend
        self._control = control_tokens(backend)
        # The longest first, as the tokenizers library finds them.
        spellings = sorted(self._control, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, spellings))) if spellings else None
        self._shielded: dict[int, Tokenizer] = {}

    def encode(self, rendered: Sequence[Rendered]) -> list[Encoding]:
        """The tokens of each text, without those that a tokenizer adds in front or behind."""
        self._settle()
        odd = [place for place, one in enumerate(rendered) if self._spells_more(one)]
        if len(rendered) == 1 and not odd:
            return [self._backend.encode(rendered[0].text, add_special_tokens=False)]
        plain = [one.text for one in rendered]
        for place in odd:
            plain[place] = ""
        encodings = list(self._backend.encode_batch(plain, add_special_tokens=False))
        for place in odd:
            encodings[place] = self._encode_shielded(rendered[place])
        return encodings

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each of these texts has, every one of them written by people."""
        self._settle()
        odd = [place for place, text in enumerate(texts) if self._spells_more(Rendered(text, (), ()))]
        counts = [len(one) for one in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        for place in odd:
            counts[place] = len(self._encode_shielded(Rendered(texts[place], (), ())))
        return counts

    def spelled(self, text: str) -> tuple[tuple[int, int], ...]:
        """Where the text spells control tokens."""
        return () if self._spelled is None else tuple(found.span() for found in self._spelled.finditer(text))

    def disguise(self, text: str, letters: int) -> str:
        """The text with private letters, from ``letters`` on, where it spells control tokens; as long as before."""
        names = shield_names(self._control, letters)
        for start, end in self.spelled(text):
            text = text[:start] + names[text[start:end]] + text[end:]
        return text

    def reveal(self, text: str, letters: int) -> str:
        """What was disguised, as it was written."""
        return text.translate({letters + place: spelling[0] for place, spelling in enumerate(self._control)})

    def free_letters(self, *texts: str) -> int:
        """The first of as many neighbouring private letters as there are control tokens that no text holds."""
        held = {ord(letter) for text in texts for letter in set(text) if ord(letter) >= _PRIVATE}
        count = max(len(self._control), 1)
        starts = range(_PRIVATE, _LAST_PRIVATE - count, count)
        return next(start for start in starts if held.isdisjoint(range(start, start + count)))

    def _settle(self) -> None:
        if self._backend.truncation is not None:
            self._backend.no_truncation()
        if self._backend.padding is not None:
            self._backend.no_padding()

    def _spells_more(self, one: Rendered) -> bool:
        """Whether a person spelled a control token."""
        return one.marks is not None and self.spelled(one.text) != one.marks

    def _encode_shielded(self, one: Rendered) -> Encoding:
        letters = self.free_letters(one.text)
        names = shield_names(self._control, letters)
        if letters not in self._shielded:
            self._shielded[letters] = shielded(self._backend, names, self._control)
        text = one.text
        for start, end in one.marks or ():
            # A name is as long as what it stands for: offsets stay those of the text.
            text = text[:start] + names.get(text[start:end], text[start:end]) + text[end:]
        return self._shielded[letters].encode(text, add_special_tokens=False)


def control_tokens(backend: Tokenizer) -> dict[str, int]:
    """The spellings of a tokenizer's control tokens, ``<image>`` among them, with their ids."""
    added = backend.get_added_tokens_decoder()
    # SentencePiece's user-defined symbols are text, and part of the vocabulary.
    own = backend.get_vocab(with_added_tokens=False)
    return {
        token.content: number
        for number, token in added.items()
        if token.special or (_MARK.fullmatch(token.content) and token.content not in own)
    }


def shield_names(control: dict[str, int], letters: int) -> dict[str, str]:
    """Other names for control tokens: the first letter of each is a private one of its own."""
    return {spelling: chr(letters + place) + spelling[1:] for place, spelling in enumerate(control)}


def shielded(backend: Tokenizer, names: dict[str, str], control: dict[str, int]) -> Tokenizer:
    """A copy of the backend that knows its control tokens by other names, under the same ids.

    Raises:
        ValueError: the copy numbers a token otherwise.
    """
    state = parse_json(backend.to_str())
    state |= {"truncation": None, "padding": None, "post_processor": None}
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    _rename(state["model"], names, control)
    copy = Tokenizer.from_str(json.dumps(state))
    for spelling, number in control.items():
        if (found := copy.token_to_id(names[spelling])) != number:
            raise ValueError(f"the tokenizer numbers {spelling} {number}, and a copy of it {found}")
    return copy


def _rename(model: dict[str, Any], names: dict[str, str], control: dict[str, int]) -> None:
    """Rename control tokens in a model's own vocabulary too, where letters could be merged into them."""
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        renamed = {names.get(piece, piece): number for piece, number in vocabulary.items()}
        model["vocab"] = renamed | {names[spelling]: number for spelling, number in control.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if "merges" in model:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
        model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & names.keys()]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
