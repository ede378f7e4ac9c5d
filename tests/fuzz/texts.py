"""Texts that some language takes for its own: each is put together from the pieces of many."""

from __future__ import annotations

from random import Random

from tests.fuzz.judge import MARK

PIECES = (
    # terminals
    *("\x1b[31m", "\x1b]0;", "\x07", "\x08", "\r", "\x9b2J", "\x00", "\x7f", "\u202e", "\u2066", "\u200b", "\ufeff"),
    # pages
    *(
        "<",
        ">",
        '"',
        "'",
        "&",
        "<script>",
        "</script>",
        f"{MARK}()",
        " onload=",
        "<!--",
        "]]>",
        "javascript:",
        "&#x3c;",
    ),
    # TeX, as Matplotlib draws it
    *("$", "\\", "\\frac", "\\sqrt", "\\alpha", "{", "}", "^", "_", "%", "#"),
    # Hydra, OmegaConf, YAML, Jinja, Python's formats
    *(
        "${",
        "${oc.env:",
        "${oc.decode:",
        "${hydra:",
        "=",
        "+",
        "~",
        ",",
        ":",
        "@",
        "[",
        "]",
        "!!",
        "*a",
        "&a",
        "{{",
        "{%",
    ),
    *("%s", "%n", "{0}", "{__class__}", "?", "|", "(", ")", "*", "-", "--", "`", ";", "$(", "\n", "\t", " "),
    # patterns
    *("(a+)+", "(.*)*", "(a|aa)+$", "(?:", "\\1", "[a-", "{1000}", ".*", "^(([a-z])+.)+", "(?i)"),
    # paths and addresses
    *("/", "../", "./", "~/", "//", "file://", "http://", "hf://", "s3://", "?", "*", ".", ".tif.2", "C:\\"),
    # words and numbers
    *("a", "Z", "é", "中", "😀", "0", "1", "-1", "1e999", "nan", "inf", "null", "true", "<image>", "</s>", "[INST]"),
    *("\ud800", "\udfff", "\u2028", "\u0130", "ﬃ"),
)
LONG = (100, 5_000, 100_000)
OUTSIDE = "outside.png"
"""A real picture that every case has above the folder of its data, and that nobody gave."""
ELSEWHERE = "elsewhere.json"
"""A file beside it that data files may be links to: those of a person's own files may lie anywhere."""
PATHS = (
    *(f"../{OUTSIDE}", f"../../{OUTSIDE}", f"pictures/../../{OUTSIDE}", f"./../{OUTSIDE}", "/etc/passwd", "/dev/zero"),
    *("/dev/stdin", "/dev/fd/0", "/proc/self/environ", "/proc/self/mem", "~/.netrc", "file:///etc/passwd", ".", "/"),
    *("http://127.0.0.1:9/a.png", "ftp://a/b", "//a/b", "a" * 300, "a/" * 3_000, "0.png/", "0.png/..", "CON", "\\a\b"),
)
FORBIDDEN = ("/etc/passwd", "/proc/self/environ")
"""What no data may lead to. Devices are left to what reading them does: they may be opened to see what they are."""


def hostile_text(random: Random, longest: int = LONG[-1]) -> str:
    """A few pieces in a row; now and then many times over, or a path to where nobody should be led."""
    if random.random() < 0.15:
        return random.choice(PATHS)[:longest]
    text = "".join(random.choices(PIECES, k=random.randint(1, 6)))
    if random.random() < 0.1:
        text = text * (min(longest, random.choice(LONG)) // len(text) + 1)
    return text[:longest]


def hostile_number(random: Random) -> int | float:
    """Numbers at the edges: of signs, of machine words, of floats, of what a size can be, of what can be written."""
    edge = random.choice((0, 1, 2**7, 2**15, 2**16, 2**31, 2**32, 2**53, 2**63, 2**64, 2**128))
    drawn: list[int | float] = [
        *(edge, -edge, edge - 1, edge + 1),
        10 ** random.randint(1, 12),
        random.randint(1, 9) * 10 ** random.randint(3, 9),
        10 ** random.choice((20, 100, 308, 309, 400, 4_000)),
        random.uniform(-2, 2),
        random.choice((0.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))),
    ]
    return random.choice(drawn)
