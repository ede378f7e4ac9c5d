"""Marks in a text that stand for media which nothing here reads: another program's image tags, videos, sounds.

``<image>`` is read and no such mark. Some marks are no word of any other language: tokens of models
(``<|vision_start|>``, ``<ImageHere>``, ``[IMG]``), numbered tags (``<image_1>``), and a file between tags
(``<img>a.png</img>``): they stand for media wherever they stand. Others are HTML's too (``<video>``, ``<img>``,
``<picture>``, and ``<Image>``, which is React's): they stand for media in a question, unless it speaks of HTML. It does
where it closes the tag, names HTML, JSX or CSS, shows code, has another tag of these, or says "tag" beside the mark.
Tags with attributes, as ``<img src="a.png">``, are HTML's text.
"""

from __future__ import annotations

import re

from llava_moe.data.conversation import ASSISTANT, IMAGE_PLACEHOLDER

_MEDIA = r"(?:images?|imgs?|pic(?:ture)?s?|photos?|videos?|vids?|audios?|speech|sounds?)"
_PART = (
    r"(?:here|token|pad|placeholder|start|end|bos|eos|begin|patch(?:es)?|context|features?|soft[ _-]?token|newline"
    r"|break)"
)
_MARK = re.compile(
    rf"""
    (?P<certain>
      <\|\s*/?(?:{_MEDIA}|vision|frames?)(?:[ _-]?\w+)?\s*\|>        # <|image_1|> <|vision_start|> <|AUDIO|>
    | <\|?(?:start|begin|end)_of_{_MEDIA}\|?>                        # <start_of_image> <|begin_of_video|>
    | <(?!videos>){_MEDIA}(?:[ _-]?\d+|[ _-]?{_PART})>               # <image 1> <ImageHere>; no <vid eos>
    | <im_patch>
    | <img>[^<>]*</img>                                              # Qwen's file; HTML's <img> is never closed
    | <(?P<pair>video|audio|vid)>\s*[^<>\s]+\.\w{{2,4}}\s*</(?P=pair)>
    )
    | (?P<mistral>\[IMG(?:_BREAK|_END)?\](?!\S*\[/IMG\])|\[BEGIN_AUDIO\])
    | (?P<open><\s*{_MEDIA}\s*/?>)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_HTML = re.compile(
    r"```|<!doctype|</?(?:html|head|body|div|span|p|a|script|style|source|form|input|button|table|ul|li|br|h[1-6])\b"
    r"|<\w+\s+[\w-]+\s*=|\b(?:x?html5?|jsx|css)\b|(?-i:</[A-Z]\w*>)|=>|\bfunction\s*\(|\bimport\s.{1,200}?\sfrom\s",
    re.IGNORECASE,
)
_NAMED = re.compile(r"[`'\"]?\s*(?:html5?\s*)?(?:tag|element|attribute|component)s?\b", re.IGNORECASE)


def media_tag(text: str, role: str) -> str | None:
    """The first mark in a turn's text that stands for media; None where none does."""
    # Nearly every text stops here: it has no bracket but those of its images.
    if text.count("<") == text.count(IMAGE_PLACEHOLDER) and "[IMG" not in text and "[BEGIN_AUDIO" not in text:
        return None
    is_closed: dict[str, bool] = {}
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark == IMAGE_PLACEHOLDER:
            continue
        if found["certain"] is not None or (found["mistral"] is not None and mark.isupper()):
            return mark
        if found["open"] is not None and role != ASSISTANT and not _speaks_of_html(text, found, is_closed):
            return mark
    return None


def _speaks_of_html(text: str, mark: re.Match[str], is_closed: dict[str, bool]) -> bool:
    """Whether a tag is one that the text is about; ``is_closed`` keeps what was found of a name in this text."""
    if text[mark.start() - 1 : mark.start()] == "`" or _NAMED.match(text, mark.end()) is not None:
        return True
    name = re.sub(r"\W", "", mark[0]).lower()
    # Once for a name: a text may hold a hundred thousand of one tag.
    if name not in is_closed:
        is_closed[name] = re.search(rf"</\s*{name}\s*>", text, re.IGNORECASE) is not None
    return is_closed[name] or _HTML.search(text) is not None
