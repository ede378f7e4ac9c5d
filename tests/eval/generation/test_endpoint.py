"""A model behind an OpenAI-compatible address, against a real server on this machine: answers, retries, and its end."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Decoding, Question
from llava_moe.eval.files import read_answers
from llava_moe.eval.generation.endpoint import Endpoint, endpoint_fingerprint
from llava_moe.eval.generation.server import ChatServer, ServerError
from llava_moe.eval.ranks import ALONE
from llava_moe.eval.run import ask_benchmark
from llava_moe.eval.tasks.demo import DemoBenchmark, open_demo_benchmark

Reply = tuple[int, Any]
"""Status, and what is sent: JSON, or bytes as they are."""


def answer(text: str | None, ended: str = "stop") -> Reply:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": ended}]}


class Server:
    """A server whose replies a test writes; ``seen`` are the requests, ``most`` the most that were open together."""

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any]], Reply] = lambda body: answer(body["messages"][-1]["content"][-1]["text"])
        self.models: Reply = (200, {"data": [{"id": "tiny", "root": "/models/tiny"}]})
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: dict[str, str] = {}
        self.open = self.most = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.keys.append(self.headers.get("Authorization"))
                self.send(outer.models if self.path == "/v1/models" else (404, {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.seen.append(body)
                    outer.open += 1
                    outer.most = max(outer.most, outer.open)
                reply = outer.reply(body) if self.path == "/v1/chat/completions" else (404, {})
                with outer.lock:
                    outer.open -= 1
                self.send(reply)

            def send(self, reply: Reply) -> None:
                status, content = reply
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def chat(self, **settings: Any) -> ChatServer:
        return ChatServer(self.address, "tiny", **{"attempts": 3, "first_wait": 0.01, "timeout": 10.0, **settings})

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    started = Server()
    yield started
    started.stop()


def png(color: tuple[int, int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (9, 5), color).save(stream, format="PNG")
    return stream.getvalue()


def questions(count: int, **settings: Any) -> list[Question]:
    return [
        Question(f"q{number}", (png((number, 2, 3)),), f"Say {number}.", ("x",), "general", "kind", True, 7, **settings)
        for number in range(count)
    ]


def asked(endpoint: Endpoint, these: list[Question]) -> dict[int, str]:
    return {one.index: one.text for batch in endpoint.answers(these, ALONE) for one in batch}


def test_each_question_is_asked_once_with_its_image_and_its_decoding(server: Server) -> None:
    these = questions(20)
    assert asked(Endpoint(server.chat(), concurrency=4), these) == {n: f"Say {n}." for n in range(20)}
    assert len(server.seen) == 20
    body = next(body for body in server.seen if body["messages"][0]["content"][1]["text"] == "Say 5.")
    assert {name: body[name] for name in body if name != "messages"} == {
        **{"model": "tiny", "max_tokens": 7, "temperature": 0.0},
    }
    head, _, data = body["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (5, 2, 3)


def test_no_more_questions_are_on_their_way_than_were_allowed(server: Server) -> None:
    plain = server.reply

    def slow(body: dict[str, Any]) -> Reply:
        time.sleep(0.01)
        return plain(body)

    server.reply = slow
    asked(Endpoint(server.chat(), concurrency=3), questions(15))
    assert 2 <= server.most <= 3


def test_sampling_sends_each_question_its_own_seed_whatever_else_is_asked(server: Server) -> None:
    these = questions(3, decoding=Decoding(temperature=0.5, top_p=0.9, seed=4), system="Be brief.")
    endpoint = Endpoint(server.chat())
    asked(endpoint, these)
    asked(endpoint, these[2:])
    seeds = {body["messages"][1]["content"][1]["text"]: body["seed"] for body in server.seen[:3]}
    assert len(set(seeds.values())) == 3
    assert server.seen[3]["seed"] == seeds["Say 2."]
    assert server.seen[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (server.seen[0]["temperature"], server.seen[0]["top_p"]) == (0.5, 0.9)


def test_an_answer_ends_at_its_stop_string_even_where_the_server_goes_on(server: Server) -> None:
    server.reply = lambda _: answer(" red\n\nand more")
    these = questions(1, decoding=Decoding(stop=("\n\n",)))
    assert asked(Endpoint(server.chat()), these) == {0: "red"}
    assert server.seen[0]["stop"] == ["\n\n"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    replies = [(status, {"error": {"message": "later"}}), (status, b"<html>"), answer("red")]
    server.reply = lambda _: replies.pop(0)
    assert asked(Endpoint(server.chat()), questions(1)) == {0: "red"}


def test_the_wait_that_a_server_asks_for_is_kept(server: Server) -> None:
    server.headers = {"Retry-After": "0.3"}
    replies = [(429, {}), answer("red")]
    server.reply = lambda _: replies.pop(0)
    began = time.monotonic()
    assert asked(Endpoint(server.chat()), questions(1)) == {0: "red"}
    assert time.monotonic() - began >= 0.3


def test_a_server_that_stays_busy_is_given_up_in_one_line(server: Server) -> None:
    server.reply = lambda _: (503, {"error": {"message": "overloaded"}})
    with pytest.raises(ServerError, match=r"says 503 \(overloaded\), 3 times \(question q0\)"):
        asked(Endpoint(server.chat()), questions(1))
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((400, {"error": {"message": "the prompt is too long"}}), r"question q0: .*400 \(the prompt is too long\)"),
        ((401, {"error": "no"}), "refuses requests without a key"),
        ((200, b"<html>hello"), "question q0: .*'<html>hello', which is no JSON object"),
        ((200, {"object": "error", "message": "out of memory"}), r"JSON without an answer \(out of memory\)"),
        ((200, {"choices": []}), "JSON without an answer"),
        ((200, b"[" * 100_000), "which is no JSON object"),
        ((400, b'{"error": ' * 100_000), "says 400"),
        (answer(None, "length"), r"empty answer \(finish_reason length\)"),
        (answer("", "content_filter"), r"empty answer \(finish_reason content_filter\)"),
    ],
)
def test_what_is_no_answer_is_one_line_and_not_asked_again(server: Server, reply: Reply, told: str) -> None:
    server.reply = lambda _: reply
    with pytest.raises(ServerError, match=told) as caught:
        asked(Endpoint(server.chat()), questions(1))
    assert "\n" not in str(caught.value) and len(server.seen) == 1


def test_a_reply_that_does_not_end_is_given_up_unread(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_moe.eval.generation.server.MOST_REPLY", 1000)
    for status in (200, 400):

        def endless(_: dict[str, Any], status: int = status) -> Reply:
            return status, b" " * 1001

        server.reply = endless
        with pytest.raises(ServerError, match="more than 1,000 bytes in one reply"):
            asked(Endpoint(server.chat()), questions(1))


def test_a_reply_that_is_cut_short_is_asked_for_again(server: Server) -> None:
    replies = iter([{"Content-Length": "9999"}, {}])

    def reply(body: dict[str, Any]) -> Reply:
        server.headers = next(replies)
        return answer("whole")

    server.reply = reply
    assert asked(Endpoint(server.chat()), questions(1)) == {0: "whole"}


def test_a_model_that_chose_to_say_nothing_is_taken_at_its_word(server: Server) -> None:
    server.reply = lambda _: answer("", "stop")
    assert asked(Endpoint(server.chat()), questions(1)) == {0: ""}


def test_a_repetition_penalty_is_refused_before_anything_is_asked(server: Server) -> None:
    with pytest.raises(UserError, match="repetition_penalty=10 counts the answer's own tokens"):
        asked(Endpoint(server.chat()), questions(1, decoding=Decoding(repetition_penalty=10.0)))
    assert server.seen == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_redirection_is_refused_and_the_key_does_not_travel(server: Server, status: int, host: str) -> None:
    other = Server()
    try:
        place = other.address.replace("127.0.0.1", host)
        server.headers = {"Location": f"{place}/chat/completions"}
        server.reply, server.models = lambda _: (status, {}), (status, {})
        chat = server.chat(api_key="secret")
        for ask in (chat.describe, lambda: asked(Endpoint(chat, 1), questions(1))):
            with pytest.raises(
                ServerError, match=rf"sends requests on to {place}/chat/completions \({status}\)"
            ) as told:
                ask()
            assert "secret" not in str(told.value) and "\n" not in str(told.value)
        assert not other.seen and not other.keys and len(server.seen) == 1
    finally:
        other.stop()


def test_a_redirection_to_what_is_no_address_is_one_line(server: Server) -> None:
    server.headers = {"Location": "http://[::1"}
    server.reply, server.models = lambda _: (302, {}), (302, {})
    chat = server.chat(api_key="secret")
    for ask in (chat.describe, lambda: asked(Endpoint(chat), questions(1))):
        with pytest.raises(ServerError, match=r"sends requests on to what is no address \(302\)"):
            ask()


def test_the_key_is_sent_and_never_shown(server: Server) -> None:
    chat = server.chat(api_key="hidden-key")
    server.models = (401, {"error": "no"})
    with pytest.raises(ServerError, match=r"refuses the key \(401\)") as caught:
        chat.describe()
    assert server.keys == ["Bearer hidden-key"]
    assert "hidden-key" not in str(caught.value) + repr(chat) + repr(Endpoint(chat))


def test_a_server_that_sends_the_key_back_gets_it_into_no_answer_and_no_message(server: Server) -> None:
    chat = server.chat(api_key="hidden-key")
    server.reply = lambda _: answer("the key is hidden-key", "stop")
    assert asked(Endpoint(chat), questions(1)) == {0: "the key is [hidden]"}
    server.models = (500, {"error": {"message": "wrong key hidden-key"}})
    server.reply = lambda _: (400, {"error": {"message": "wrong key hidden-key"}})
    with pytest.raises(ServerError, match=r"wrong key \[hidden\]"):
        asked(Endpoint(chat), questions(1))
    # A short key is a word like others.
    server.reply = lambda _: answer("EMPTY", "stop")
    assert asked(Endpoint(server.chat(api_key="EMPTY")), questions(1)) == {0: "EMPTY"}


@pytest.mark.parametrize("key", ["hidden\nX-Other: 1", "hidden\r", "hidden€", "hidden\x00"])
def test_a_key_that_no_request_can_carry_is_refused_unshown(server: Server, key: str) -> None:
    with pytest.raises(UserError, match="another character that no request can carry") as caught:
        server.chat(api_key=key)
    assert "hidden" not in str(caught.value)


def test_another_model_than_the_served_ones_is_refused_with_their_names(server: Server) -> None:
    with pytest.raises(ServerError, match=r"does not serve other; model\.name= one of tiny"):
        ChatServer(server.address, "other").describe()


def test_the_fingerprint_names_the_model_and_not_its_address(server: Server) -> None:
    before = endpoint_fingerprint(server.chat())
    again = Server()
    try:
        assert endpoint_fingerprint(again.chat()) == before
        again.models = (200, {"data": [{"id": "tiny", "root": "/models/other"}]})
        assert endpoint_fingerprint(again.chat()) != before
    finally:
        again.stop()


@pytest.mark.parametrize(
    "address", ["localhost:8000", "ftp://x/v1", "http://", "http://[x/v1", "http://me:secret@host/v1"]
)
def test_what_is_no_address_is_refused_without_showing_a_password(address: str) -> None:
    with pytest.raises(UserError, match=r"model\.endpoint") as caught:
        ChatServer(address, "tiny")
    assert "secret" not in str(caught.value)


@pytest.fixture
def benchmark(demo_folder: Path) -> DemoBenchmark:
    return open_demo_benchmark(demo_folder, limit=2, min_compared=0)


def test_a_server_that_dies_midway_leaves_its_answers_to_go_on_from(
    server: Server, benchmark: DemoBenchmark, tmp_path: Path
) -> None:
    plain, lock = server.reply, threading.Lock()
    left = iter(range(10))

    def dying(body: dict[str, Any]) -> Reply:
        with lock:
            alive = next(left, None) is not None
        if not alive:
            # Closed without waiting: this is called by the server's own thread.
            server.http.socket.close()
            raise ConnectionAbortedError
        return plain(body)

    server.http.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.reply = dying
    folder = tmp_path / "run"
    with pytest.raises(
        UserError, match=r"\d+ of \d+ waiting answers came and are kept: run the same command"
    ) as caught:
        ask_benchmark(benchmark, Endpoint(server.chat(), concurrency=4), folder, fingerprint="abc")
    assert "\n" not in str(caught.value) and server.address in str(caught.value)
    kept = read_answers(folder / "eval" / "demo.answers.jsonl")
    assert len(kept) == 10 and all(one.prediction for one in kept)

    again = Server()
    try:
        ask_benchmark(benchmark, Endpoint(again.chat(), concurrency=4), folder, fingerprint="abc")
        asked_again = len(again.seen)
    finally:
        again.stop()
    total = len(benchmark.questions())
    assert asked_again == total - 10
    ended = read_answers(folder / "eval" / "demo.answers.jsonl")
    assert [one.question_id for one in ended] == [question.id for question in benchmark.questions()]
    assert [one.prediction for one in ended] == [question.prompt.strip() for question in benchmark.questions()]
