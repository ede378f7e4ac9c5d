"""How many tokens a record's text has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate, pairwise

from tokenizers import Tokenizer

from llava_moe.data.conversation import IMAGE_PLACEHOLDER
from llava_moe.data.tokens import Tokens


@dataclass(frozen=True)
class TextTokenizer:
    """A fast tokenizer as worker processes receive it.

    Attributes:
        name: what the user calls it: a hub id, a folder, ``embedded:language_model``.
        text: the tokenizer as the tokenizers library writes it (``Tokenizer.to_str``), without truncation or padding.
    """

    name: str
    text: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text."""
        return sha256(self.text.encode()).hexdigest()

    def count(self, records: Iterable[Sequence[str]]) -> list[int]:
        """Tokens of each record: the sum over its turns' texts.

        Neither begin and end tokens, nor the template's words, nor the places of images are counted: these depend on
        the stage that the records are trained in. What spells a control token is counted as the text that it is.
        """
        texts: list[str] = []
        edges = [0]
        for turns in records:
            texts += [turn.replace(IMAGE_PLACEHOLDER, "") for turn in turns]
            edges.append(len(texts))
        sums = list(accumulate(self._tokens.count(texts), initial=0))
        return [sums[end] - sums[start] for start, end in pairwise(edges)]

    @cached_property
    def _tokens(self) -> Tokens:
        return Tokens(Tokenizer.from_str(self.text))
