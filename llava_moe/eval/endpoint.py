"""A model behind an OpenAI-compatible address (vLLM, ...) that answers questions, several at a time.

The server writes the prompt with its own chat template and scales images its own way: it is given the question's text,
its images as PNG and the decoding.
"""

from __future__ import annotations

import base64
import hashlib
import io
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llava_moe.data.deep_values import DarkImage
from llava_moe.data.reading import AS_LLAVA, ImageReading
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Decoding, Question
from llava_moe.eval.decoding import cut_at_stop, question_seed
from llava_moe.eval.generate import Generated, open_images
from llava_moe.eval.ranks import Ranks
from llava_moe.eval.server import ChatServer, ServerError


@dataclass(frozen=True)
class Endpoint:
    """Asks a server.

    Attributes:
        concurrency: questions that are on their way together.
        image_root: folder that image paths are relative to.
        reading: what becomes of images' orientation, transparency and deep values before they are sent.
        dark: images met on the way that came out nearly black.
    """

    server: ChatServer
    concurrency: int = 32
    image_root: str | None = None
    reading: ImageReading = ImageReading()  # noqa: RUF009
    dark: list[DarkImage] = field(default_factory=list)

    def answers(self, questions: Sequence[Question], ranks: Ranks) -> Iterator[list[Generated]]:
        """See :class:`~llava_moe.eval.generate.Answerer`: each answer as it comes.

        Raises:
            ServerError: a question could not be answered; what came before was yielded.
            UserError: an image is unreadable, or the questions' decoding is one that servers do not have.
        """
        for question in questions:
            refuse_decoding(question.decoding)
        mine = ranks.share(range(len(questions)))
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in mine:
            waiting.put(index)
        done: queue.SimpleQueue[Generated | UserError] = queue.SimpleQueue()
        stopped = threading.Event()
        for _ in range(min(self.concurrency, len(mine))):
            # Daemons: Ctrl-C does not wait for requests that may take minutes.
            threading.Thread(target=self._work, args=(questions, waiting, done, stopped), daemon=True).start()
        try:
            for _ in mine:
                got = done.get()
                if isinstance(got, UserError):
                    stopped.set()
                    yield from _arrived(done)
                    raise got
                yield [got]
        finally:
            stopped.set()

    def _work(
        self,
        questions: Sequence[Question],
        waiting: queue.SimpleQueue[int],
        done: queue.SimpleQueue[Generated | UserError],
        stopped: threading.Event,
    ) -> None:
        while not stopped.is_set():
            try:
                index = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put(Generated(index, self._answer(questions[index], stopped)))
            except UserError as error:
                done.put(error)
            except Exception as error:
                # A thread's own end would leave the asking one waiting for ever.
                done.put(ServerError(f"question {questions[index].id}: {type(error).__name__}: {error}"))

    def _answer(self, question: Question, stopped: threading.Event) -> str:
        decoding = question.decoding
        settings: dict[str, Any] = {"max_tokens": question.max_new_tokens, "temperature": decoding.temperature}
        if decoding.temperature > 0:
            # Servers take seeds of 32 or 64 bits with a sign.
            settings |= {"top_p": decoding.top_p, "seed": question_seed(decoding.seed, question.id) % 2**31}
        if decoding.stop:
            settings["stop"] = list(decoding.stop)
        messages = question_messages(question, self.image_root, self.reading, self.dark.append)
        text = self.server.complete(messages, f"question {question.id}", stopped.is_set, **settings)
        return cut_at_stop(text, decoding.stop).strip()


def _arrived(done: queue.SimpleQueue[Generated | UserError]) -> Iterator[list[Generated]]:
    """What came meanwhile, a failure's own aside."""
    while True:
        try:
            got = done.get_nowait()
        except queue.Empty:
            return
        if not isinstance(got, UserError):
            yield [got]


def refuse_decoding(decoding: Decoding) -> None:
    """Refuse what a server would do in another way.

    Raises:
        UserError: a repetition penalty.
    """
    if decoding.repetition_penalty != 1:
        raise UserError(
            f"repetition_penalty={decoding.repetition_penalty:g} counts the answer's own tokens, where servers have "
            "none or count the question's too: score the weights themselves (model.path=), or choose another protocol="
        )


def question_messages(
    question: Question,
    image_root: str | None = None,
    reading: ImageReading = ImageReading(),  # noqa: B008
    on_dark: Callable[[DarkImage], None] | None = None,
) -> list[Mapping[str, Any]]:
    """The conversation as OpenAI's protocol has it: a system message if there is one, images before the text.

    Raises:
        UserError: an image is missing or unreadable.
    """
    parts: list[Mapping[str, Any]] = []
    for opened in open_images(question, image_root, reading, on_dark):
        file = io.BytesIO()
        opened.save(file, format="PNG", compress_level=1)
        address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        parts.append({"type": "image_url", "image_url": {"url": address}})
    parts.append({"type": "text", "text": question.prompt})
    system = [] if question.system is None else [{"role": "system", "content": question.system}]
    return [*system, {"role": "user", "content": parts}]


def endpoint_fingerprint(server: ChatServer, reading: ImageReading = ImageReading()) -> str:  # noqa: B008
    """16 hex digits over the model's name and what the server says it was loaded from, and how it is shown images.

    The address is left out: a server that is started again, elsewhere, goes on with the same answers.
    """
    entry = server.describe()
    told = f"endpoint|{server.model}|{entry.get('root', '')}"
    if reading != AS_LLAVA:
        told += f"|{reading}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]
