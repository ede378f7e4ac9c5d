"""Passwords and access tokens in words, addresses and messages: found, and taken out of what is shown or kept."""

from __future__ import annotations

import re

HIDDEN = "[hidden]"
_ADDRESS = re.compile(r"(?<=://)([^\s/?#]*)([^\s\"'<>]*)")
_NAMED = re.compile(r"([?&#;]([^\s=?&#;]+)=)([^\s&#;]+)")
_TELLING = re.compile(
    r"(?:.*[_.-])?(?:api[_-]?key|key|token|secret|password|passwd|pwd|auth|authorization|sig|signature|credential)",
    re.IGNORECASE,
)
# By the shapes that the services document: Hugging Face, GitHub, Weights & Biases, OpenAI and its like, Amazon.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|wandb_v1_\w{20,}"
    r"|sk-[A-Za-z0-9]{32,}|sk-(?:proj|ant|or|svcacct)-[\w-]{20,}|AKIA[0-9A-Z]{16}(?![A-Za-z0-9]))"
)
_HEADER = re.compile(
    r"(\bbearer\s+|\bauthorization['\"]?\s*[:=]\s*['\"]?(?:basic\s+)?)(?!bearer\b)([\w.~+/-]{8,}=*)", re.IGNORECASE
)


def has_secret(text: str) -> bool:
    """Whether a password or an access token stands in the text, by its place in an address or by its shape."""
    return without_secrets(text) != text


def without_secrets(text: str) -> str:
    """The text with :data:`HIDDEN` in the place of each password and access token."""
    if "://" in text:
        text = _ADDRESS.sub(lambda found: _host(found[1]) + _NAMED.sub(_named, found[2]), text)
    return _HEADER.sub(rf"\1{HIDDEN}", _TOKEN.sub(HIDDEN, text))


def _host(text: str) -> str:
    """Server and port of an address; the name before them stays where a password is beside it."""
    # hf://datasets/NAME@REVISION has its @ behind a slash. A name alone logs nobody in; many services take a token so.
    before, at, server = text.rpartition("@")
    name, colon, _ = before.partition(":")
    return f"{name}:{HIDDEN}@{server}" if colon else f"{HIDDEN}@{server}" if at and len(before) >= 16 else text


def _named(found: re.Match[str]) -> str:
    return found[1] + (HIDDEN if _TELLING.fullmatch(found[2]) else found[3])


def refusal(name: str, text: str) -> str:
    """The line for a secret that was given as the value of the setting ``name``."""
    return f"{name} holds a password or an access token, which the run's files would keep: {_remedy(name, text)}"


def _remedy(name: str, text: str) -> str:
    if name.endswith("endpoint"):
        return "give the address alone, and the key in the environment variable LLAVA_MOE_API_KEY"
    if "wandb" in name:
        return "give it in the environment variable WANDB_API_KEY"
    if "hf_" in text or "hf://" in text or "huggingface" in text:
        return "give it in the environment variable HF_TOKEN"
    return "leave it out there: fetch the file first and give its path"
