"""A chat server that speaks OpenAI's protocol (vLLM, SGLang, llama.cpp, ...): one request, retried, or one clear line.

Source of the protocol: OpenAI's API reference, ``POST /chat/completions`` and ``GET /models``, as vLLM serves them.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_moe.errors import UserError
from llava_moe.text.secrets import HIDDEN
from llava_moe.text.structured_text import parse_json

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 60.0


MOST_REPLY = 16 << 20
"""Bytes; an answer is a thousandth of it."""
_SHORTEST_SECRET = 8
"""Letters; shorter keys, such as vLLM's ``EMPTY``, are words that an answer may hold."""
REDIRECTED = frozenset({300, 301, 302, 303, 305, 307, 308})


class ServerError(UserError):
    """The server is gone, refuses us, or answers what is no answer. What came before stands."""


@dataclass(frozen=True)
class ChatServer:
    """Where a model is served.

    Attributes:
        address: up to and with ``/v1``, without key or password in it.
        model: the name it is served under.
        api_key: sent as a bearer token; never shown.
        attempts: how often a request is tried that the server is too busy for, or that did not reach it.
        first_wait: seconds before the second attempt; doubled each time, up to a minute, give or take a quarter.
        timeout: seconds until an answer must have come.
    """

    address: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    attempts: int = 6
    first_wait: float = 1.0
    timeout: float = 600.0

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.address)
        except ValueError:
            parts = urllib.parse.urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("model.endpoint= is no address: give one such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"model.endpoint at {parts.hostname}: give the address without name, password or query; a key comes "
                "from the environment"
            )
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UserError(
                "the key of the server holds a line break or another character that no request can carry: set its "
                "environment variable again"
            )

    def describe(self) -> Mapping[str, Any]:
        """The server's entry of our model, ``{}`` where it lists no models.

        Raises:
            ServerError: nobody answers, the key is refused, or other models alone are served.
        """
        try:
            status, text, _ = self._send("models", None, min(self.timeout, 30.0))
        except ServerError as error:
            raise ServerError(f"{error}: start the server, or fix model.endpoint=") from error
        if status in (401, 403):
            raise self._refused(status)
        if status in REDIRECTED:
            raise self._moved(status, text)
        if status != 200:
            return {}
        reply = self._json(text, "models")
        entries = reply.get("data")
        if not isinstance(entries, list):
            return {}
        served = {str(entry["id"]): entry for entry in entries if isinstance(entry, dict) and "id" in entry}
        if served and self.model not in served:
            raise ServerError(f"{self.address} does not serve {self.model}; model.name= one of {', '.join(served)}")
        return served.get(self.model, {})

    def complete(
        self, messages: Sequence[Mapping[str, Any]], what: str, is_stopped: Callable[[], bool], **settings: Any
    ) -> str:
        """The text that the model answers to a conversation.

        Args:
            messages: as OpenAI's protocol has them.
            what: names the request in error messages, such as ``question q7``.
            is_stopped: asked before each attempt and while waiting for the next one.
            settings: further fields of the request: ``max_tokens``, ``temperature``, ...

        Raises:
            ServerError: every attempt failed, the key or the request is refused, or the reply holds no answer.
        """
        body = {"model": self.model, "messages": list(messages), **settings}
        trouble = ""
        for attempt in range(1, self.attempts + 1):
            wait = 0.0
            try:
                status, text, asked_wait = self._send("chat/completions", body, self.timeout)
            except ServerError as error:
                trouble = str(error)
            else:
                if status == 200:
                    return self._answer(text, what)
                trouble, wait = f"{self.address} says {status}{_reason(text)}", asked_wait
                if status in (401, 403):
                    raise self._refused(status)
                if status in REDIRECTED:
                    raise self._moved(status, text)
                if status not in RETRIED:
                    raise ServerError(f"{what}: {trouble}; fix the question or the server's settings, then run again")
            if attempt < self.attempts:
                self._rest(attempt, wait, is_stopped)
            if is_stopped():
                break
        raise ServerError(f"{trouble}, {self.attempts} times ({what}): see to the server")

    def _rest(self, attempt: int, asked_wait: float, is_stopped: Callable[[], bool]) -> None:
        backed_off = min(LONGEST_WAIT, self.first_wait * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)
        until = time.monotonic() + max(backed_off, min(asked_wait, LONGEST_WAIT))
        while not is_stopped() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _send(self, path: str, body: Mapping[str, Any] | None, timeout: float) -> tuple[int, str, float]:
        """Status, text and the seconds that the server asks us to wait; of a redirection the text is its target."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(f"{self.address.rstrip('/')}/{path}", data, headers)
        try:
            with urllib.request.build_opener(_NoRedirection).open(request, timeout=timeout) as reply:
                return reply.status, self._text_of(reply), 0.0
        except urllib.error.HTTPError as error:
            with error:
                if error.code in REDIRECTED:
                    return error.code, error.headers.get("Location", ""), 0.0
                return error.code, self._text_of(error), _retry_after(error.headers)
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise ServerError(f"{self.address} cannot be reached ({reason or type(error).__name__})") from error

    def _text_of(self, reply: Any) -> str:
        """A reply's text; a server that sends the key back does not get it into answers, caches or messages."""
        content = reply.read(MOST_REPLY + 1)
        if len(content) > MOST_REPLY:
            raise ServerError(
                f"{self.address} sends more than {MOST_REPLY:,} bytes in one reply: that is no chat server"
            )
        # Trap: a reply that was cut short is told by a read of all of it alone.
        if reply.length:
            raise http.client.IncompleteRead(content, reply.length)
        text = content.decode("utf-8", "replace")
        is_secret = self.api_key is not None and len(self.api_key) >= _SHORTEST_SECRET
        return text.replace(str(self.api_key), HIDDEN) if is_secret else text

    def _refused(self, status: int) -> ServerError:
        key = "the key" if self.api_key else "requests without a key"
        return ServerError(
            f"{self.address} refuses {key} ({status}): put the right one into the environment variable that "
            "model.api_key_env= names"
        )

    def _moved(self, status: int, target: str) -> ServerError:
        try:
            parts = urllib.parse.urlsplit(urllib.parse.urljoin(f"{self.address.rstrip('/')}/", target))
            place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:200]
        except ValueError:
            place = "what is no address"
        return ServerError(
            f"{self.address} sends requests on to {place} ({status}), and the key goes nowhere else: if that is the "
            "server, give its address as model.endpoint= or judge.endpoint="
        )

    def _json(self, text: str, what: str) -> dict[str, Any]:
        try:
            reply = parse_json(text)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise ServerError(
                f"{what}: {self.address} sent {' '.join(text.split())[:80]!r}, which is no JSON object: give the "
                "address of an OpenAI-compatible server, up to and with /v1"
            )
        return reply

    def _answer(self, text: str, what: str) -> str:
        reply = self._json(text, what)
        try:
            choice = reply["choices"][0]
            content, ended = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ServerError(f"{what}: {self.address} sent JSON without an answer{_reason(text)}") from None
        if not isinstance(content, str) or (not content and ended != "stop"):
            raise ServerError(
                f"{what}: {self.address} sent an empty answer (finish_reason {ended}): a model that thinks first needs "
                "more tokens or its thinking switched off; nothing is scored as empty that may not be"
            )
        return content


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    """Gives a redirection back as it came: urllib would send the key along to whatever host it names."""

    def http_error_302(self, *_: Any, **__: Any) -> None:
        """No request is made of it, and its address is not even read here."""

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _reason(text: str) -> str:
    """What an error's body says, in brackets and on one line."""
    try:
        reply = parse_json(text)
        error = reply.get("error", reply)
        said = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        said = text
    line = " ".join(str(said).split())[:200]
    return f" ({line})" if line else ""


def _retry_after(headers: Any) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    told = headers.get("Retry-After") if headers is not None else None
    if told is None:
        return 0.0
    try:
        return max(0.0, float(told))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
        except (TypeError, ValueError):
            return 0.0
