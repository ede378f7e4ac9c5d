"""A judge behind a real address: five prompts, a vote, what fails is counted and asked again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llava_moe.errors import UserError
from llava_moe.eval.generation.server import ChatServer
from llava_moe.eval.judging.judge import MOST_FAILURES, Verdicts, judge_answers, judged_path, write_verdicts
from llava_moe.eval.judging.judge_prompts import RUBRICS
from llava_moe.eval.metrics import tiny_lvlm_cee_vote
from llava_moe.eval.metrics.tiny_lvlm import CEE_KEYS
from llava_moe.eval.results.scored_run import ScoredRun, read_scored
from llava_moe.eval.tasks import Places, open_benchmark
from tests.eval.scored_runs import write_scored
from tests.eval.tasks.published import LAYOUTS

Reply = Callable[[dict[str, Any]], tuple[int, str]]


class JudgeServer:
    """OpenAI's protocol over HTTP; ``reply`` says status and text for a request, all of which are kept."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.reply: Reply = lambda request: (200, "")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                status, text = outer.reply(body)
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                sent = json.dumps({"choices": [choice]} if status == 200 else {"error": {"message": text}}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def client(self, **more: Any) -> ChatServer:
        address = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        return ChatServer(address, "judge", **({"attempts": 1, "first_wait": 0.01, "timeout": 20.0} | more))


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    one = JudgeServer()
    yield one
    one.http.shutdown()
    one.http.server_close()


@pytest.fixture
def run(tmp_path: Path) -> ScoredRun:
    """Tiny LVLM-eHub's fixture, every second answer right."""
    place = tmp_path / "data"
    next(iter(LAYOUTS["tiny_lvlm"].values()))(place)
    benchmark = open_benchmark("tiny_lvlm", places=Places(paths={"tiny_lvlm": str(place)}, cache=tmp_path / "cache"))
    order = [question.id for question in benchmark.questions()]
    folder = write_scored(
        tmp_path / "run",
        benchmark,
        lambda question: benchmark.oracle(question) if order.index(question.id) % 2 == 0 else "no idea",
    )
    return read_scored(folder, "run", "tiny_lvlm")


@pytest.fixture
def questions(run: ScoredRun, tmp_path: Path) -> list[Any]:
    places = Places(paths={"tiny_lvlm": str(tmp_path / "data")}, cache=tmp_path / "cache")
    return list(open_benchmark("tiny_lvlm", places=places).questions())


def asked_key(request: dict[str, Any]) -> str:
    """The key that the prompt wants its score behind."""
    return next(rubric.key for rubric in RUBRICS if f"'{rubric.key}: 1'" in request["messages"][1]["content"])


def fair(request: dict[str, Any]) -> tuple[int, str]:
    """Reads question, truth and answer as a judge would."""
    text = request["messages"][1]["content"]
    is_right = "Student's answer: no idea" not in text
    return 200, f"Analysis: I compared them. {asked_key(request)}: {int(is_right)}"


def judge(server: ChatServer, run: ScoredRun, questions: list[Any], **more: Any) -> dict[str, Verdicts]:
    return judge_answers(server, "judge", run, questions, temperature=0.5, **({"concurrency": 4} | more))


def replies(run: ScoredRun) -> list[dict[str, Any]]:
    return [json.loads(line) for line in judged_path(run.folder, "tiny_lvlm").read_text().splitlines()]


def test_five_prompts_go_out_for_each_answer_and_the_majority_counts(
    server: JudgeServer, run: ScoredRun, questions: list[Any]
) -> None:
    server.reply = fair
    seen: list[tuple[int, int]] = []
    verdicts = judge(server.client(), run, questions, on_progress=lambda *now: seen.append(now))
    num = len(questions)
    assert len(server.requests) == len(replies(run)) == 5 * num and seen[-1] == (5 * num, 5 * num)
    whole = verdicts["all"]
    assert (whole.right, whole.wrong, whole.unreadable, whole.failed) == ((num + 1) // 2, num // 2, 0, 0)
    assert whole.accuracy == whole.right / num
    assert sum(one.right for domain, one in verdicts.items() if domain != "all") == whole.right
    assert all(request["temperature"] == 0.5 and request["model"] == "judge" for request in server.requests)
    of_first = [one for one in server.requests if questions[0].prompt in one["messages"][1]["content"]]
    assert all(run.answers[questions[0].id].prediction in one["messages"][1]["content"] for one in of_first)


def test_each_prompt_asks_for_what_the_vote_reads() -> None:
    assert tuple(rubric.key for rubric in RUBRICS) == CEE_KEYS
    for rubric in RUBRICS:
        system, user = rubric.messages("What is it?", ["a cat", "cat"], "a {dog} %s")
        assert system["role"] == "system" and user["role"] == "user"
        for part in ("What is it?", "a cat or cat", "a {dog} %s", f"'{rubric.key}: 1'", f"'{rubric.heading}:'"):
            assert part in user["content"]
    said = [f"{rubric.heading}: x. {rubric.key}: 1" for rubric in RUBRICS]
    assert tiny_lvlm_cee_vote(said) == 1 and tiny_lvlm_cee_vote([one[:-1] + "0" for one in said]) == 0


def test_a_failed_call_is_an_error_in_the_file_and_in_the_count_and_in_no_score(
    server: JudgeServer, run: ScoredRun, questions: list[Any]
) -> None:
    unlucky = questions[0].prompt

    def failing(request: dict[str, Any]) -> tuple[int, str]:
        text = request["messages"][1]["content"]
        is_hit = f"Question: {unlucky}\n" in text and asked_key(request) == "Final Assessment Score"
        return (500, "out of memory") if is_hit else fair(request)

    server.reply = failing
    verdicts = judge(server.client(), run, questions, concurrency=1)
    num_failed = sum(question.prompt == unlucky for question in questions)
    assert verdicts["all"].failed == num_failed > 0
    assert verdicts["all"].right + verdicts["all"].wrong == len(questions) - num_failed
    errors = [line for line in replies(run) if line["error"] is not None]
    assert len(errors) == num_failed
    assert all(line["reply"] is None and "500" in line["error"] and line["prompt"] == 2 for line in errors)

    num_before = len(server.requests)
    server.reply = fair
    fixed = judge(server.client(), run, questions)
    assert len(server.requests) - num_before == num_failed
    assert fixed["all"].failed == 0 and fixed["all"].right + fixed["all"].wrong == len(questions)


def test_a_finished_judgment_asks_nothing_again(server: JudgeServer, run: ScoredRun, questions: list[Any]) -> None:
    server.reply = fair
    first = judge(server.client(), run, questions)
    num = len(server.requests)
    assert judge(server.client(), run, questions) == first and len(server.requests) == num


def test_a_killed_judgment_goes_on_and_drops_the_line_that_was_cut(
    server: JudgeServer, run: ScoredRun, questions: list[Any]
) -> None:
    server.reply = fair
    first = judge(server.client(), run, questions)
    path = judged_path(run.folder, "tiny_lvlm")
    whole = path.read_text()
    path.write_text(whole[: whole.index("\n", len(whole) // 2) + 20])
    num = len(server.requests)
    assert judge(server.client(), run, questions) == first
    assert 0 < len(server.requests) - num < 5 * len(questions)
    assert all(set(line) == {"question_id", "prompt", "asked", "reply", "error"} for line in replies(run))


def test_another_answer_or_another_judge_is_asked_anew(
    server: JudgeServer, run: ScoredRun, questions: list[Any]
) -> None:
    server.reply = fair
    judge(server.client(), run, questions)
    num, name = len(server.requests), questions[0].id
    changed = replace(run, answers={**run.answers, name: replace(run.answers[name], prediction="no idea")})
    verdicts = judge(server.client(), changed, questions)
    assert len(server.requests) - num == 5 and verdicts["all"].right == (len(questions) + 1) // 2 - 1
    num = len(server.requests)
    judge_answers(server.client(), "another", run, questions, temperature=0.5)
    assert len(server.requests) - num == 5 * len(questions)


def test_unreadable_votes_are_wrong_and_told_apart(server: JudgeServer, run: ScoredRun, questions: list[Any]) -> None:
    server.reply = lambda request: (200, "I would rather not say")
    whole = judge(server.client(), run, questions)["all"]
    assert (whole.unreadable, whole.accuracy, whole.accuracy_readable) == (len(questions), 0.0, None)


def test_a_judge_that_dies_ends_in_one_line_with_the_replies_kept(
    server: JudgeServer, run: ScoredRun, questions: list[Any]
) -> None:
    many = [replace(one, id=f"{one.id}+{number}") for one in questions for number in range(9)]
    run = replace(run, answers={one.id: run.answers[one.id.rpartition("+")[0]] for one in many})
    alive = 7

    def dying(request: dict[str, Any]) -> tuple[int, str]:
        return fair(request) if len(server.requests) <= alive else (503, "gone")

    server.reply = dying
    with pytest.raises(UserError, match=f"failed {MOST_FAILURES} times in a row") as refused:
        judge(server.client(), run, many, concurrency=2)
    assert "\n" not in str(refused.value)
    kept = [line for line in replies(run) if line["reply"] is not None]
    assert len(kept) == alive
    server.reply = fair
    judge(server.client(), run, many)
    good = [(line["question_id"], line["prompt"]) for line in replies(run) if line["reply"] is not None]
    assert len(good) == len(set(good)) == 5 * len(many) and good[:alive] == [
        (line["question_id"], line["prompt"]) for line in kept
    ]


def test_a_busy_judge_is_asked_again(server: JudgeServer, run: ScoredRun, questions: list[Any]) -> None:
    tried: dict[str, int] = {}

    def busy_at_first(request: dict[str, Any]) -> tuple[int, str]:
        key = json.dumps(request["messages"])
        tried[key] = tried.get(key, 0) + 1
        return fair(request) if tried[key] > 1 else (429, "slow down")

    server.reply = busy_at_first
    assert judge(server.client(attempts=3), run, questions)["all"].failed == 0


def test_the_verdicts_file_names_the_judge_and_counts_everything(
    server: JudgeServer, run: ScoredRun, questions: list[Any]
) -> None:
    server.reply = fair
    verdicts = judge(server.client(), run, questions)
    content = json.loads(write_verdicts(run, verdicts, "judge", "http://x/v1", 0.5).read_text())
    assert (content["judge"], content["temperature"], content["model"]) == ("judge", 0.5, run.result.model)
    assert content["domains"]["all"]["right"] == verdicts["all"].right
    assert set(content["domains"]["all"]) >= {"right", "wrong", "unreadable", "failed", "accuracy"}


def test_nothing_voted_is_no_score() -> None:
    assert Verdicts(failed=3).accuracy is None and Verdicts(failed=3).accuracy_readable is None


def test_a_damaged_replies_file_is_refused(run: ScoredRun, questions: list[Any], server: JudgeServer) -> None:
    judged_path(run.folder, "tiny_lvlm").write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1 is no reply"):
        judge(server.client(), run, questions)
