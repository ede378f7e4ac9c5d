"""The text the demo's language model reads: WordNet, the World English Bible, and training-split questions.

`python -m tools.demo_assets.base.text --debian FOLDER --work FOLDER` writes the clean documents to `documents.json`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path
from zlib import crc32

from tools.demo_assets.base.items import Item

WORDNET_PARTS = {"noun": "a noun", "verb": "a verb", "adj": "an adjective", "adv": "an adverb"}
CAPTION_PROMPTS = ("Describe the picture.", "Describe the image.", "What is shown in the image?")
HELD_OUT_ONE_IN = 100


def wordnet_entries(debian: Path) -> list[str]:
    """One sentence group for each WordNet 3.0 synset: words, part of speech, definition, examples.

    `debian` is the folder into which the Debian package wordnet-base was unpacked (`dpkg-deb -x`).
    """
    entries = []
    for part, name in WORDNET_PARTS.items():
        for line in (debian / "usr/share/wordnet" / f"data.{part}").read_text("latin1").splitlines():
            if not line.startswith("  "):
                entries.append(_entry(line, name))
    return entries


def _entry(line: str, part: str) -> str:
    head, gloss = line.split(" | ", 1)
    fields = head.split()
    num_words = int(fields[3], 16)
    words = [re.sub(r"\(.*\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * num_words : 2]]
    definition, *examples = re.split(r'; (?=")', gloss.strip())
    sentences = [example.strip(' ";') for example in examples]
    text = f"{', '.join(words)} ({part}): {definition.strip()}."
    return " ".join([text, *(_sentence(sentence) for sentence in sentences if sentence)])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def bible_chapters(debian: Path) -> list[str]:
    """The chapters of the World English Bible (public domain) from the Debian package sword-text-web, without notes."""
    from pysword.modules import SwordModules

    modules = SwordModules(str(debian / "usr/share/sword"))
    name = next(iter(modules.parse_modules()))
    bible = modules.get_bible_from_module(name)
    chapters = []
    for books in bible.get_structure().get_books().values():
        for book in books:
            for chapter in range(1, book.num_chapters + 1):
                raw = bible.get(books=[book.name], chapters=[chapter], clean=False, join="\n")
                chapters.append(_without_markup(raw))
    return [chapter for chapter in chapters if len(chapter) > 200]


def _without_markup(raw: str) -> str:
    text = re.sub(r"<(note|title)\b.*?</\1>", " ", raw, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", " ", text)
    text = re.sub(r"([“‘(])\s+", r"\1", re.sub(r"\s+([”’),.;:?!])", r"\1", text))  # noqa: RUF001
    for curly, plain in (("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("—", " - ")):  # noqa: RUF001
        text = text.replace(curly, plain)
    return re.sub(r"\s+", " ", text).strip()


def read_documents(work: Path) -> list[str]:
    """The clean documents that this module's command wrote: WordNet entries, then Bible chapters."""
    return json.loads((work / "documents.json").read_text())


def hold_out(documents: list[str]) -> tuple[list[str], list[str]]:
    """Split documents into (train, held out) by a checksum of the text: one in 100 is held out, whatever the order."""
    held = [crc32(text.encode()) % HELD_OUT_ONE_IN == 0 for text in documents]
    train = [text for text, is_held in zip(documents, held, strict=True) if not is_held]
    return train, [text for text, is_held in zip(documents, held, strict=True) if is_held]


def conversation(item: Item, image: str, rng: random.Random, num_turns: int = 7) -> str:
    """An item as the demo's `v1` template writes it, without system text.

    `USER: {image}question ASSISTANT: answer</s>USER: question ASSISTANT: answer</s>`; `image` is `<image>\\n` or empty.
    The turns come in random order; a caption turn is put in between one time in four.
    """
    turns = list(zip(item.questions, item.answers, strict=True))
    if not turns or rng.random() < 0.25:
        turns.append((rng.choice(CAPTION_PROMPTS), item.caption))
    rng.shuffle(turns)
    texts = [f"{question} ASSISTANT: {answer}</s>" for question, answer in turns[:num_turns]]
    return f"USER: {image}" + "USER: ".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--debian", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    entries, chapters = wordnet_entries(arguments.debian), bible_chapters(arguments.debian)
    for name, documents in (("WordNet", entries), ("World English Bible", chapters)):
        print(f"{name}: {len(documents)} documents, {sum(map(len, documents)) / 1e6:.1f} M characters")
    arguments.work.mkdir(parents=True, exist_ok=True)
    (arguments.work / "documents.json").write_text(json.dumps(entries + chapters))


if __name__ == "__main__":
    main()
