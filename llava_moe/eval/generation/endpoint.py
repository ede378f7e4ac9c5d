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

from PIL import Image

from llava_moe.data.conversation import IMAGE_PLACEHOLDER, USER
from llava_moe.data.images.deep_values import DarkImage
from llava_moe.data.images.reading import AS_LLAVA, ImageReading
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Decoding, Question
from llava_moe.eval.generation.decoding import cut_at_stop, question_seed
from llava_moe.eval.generation.generate import Generated, question_turns
from llava_moe.eval.generation.question_images import open_images
from llava_moe.eval.generation.server import ChatServer, ServerError
from llava_moe.eval.ranks import Ranks


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
        """See :class:`~llava_moe.eval.generation.generate.Answerer`: each answer as it comes.

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

    Of several images in a turn of a conversation each stands where it is marked.

    Raises:
        UserError: an image is missing or unreadable.
    """
    images = iter([_image_part(opened) for opened in open_images(question, image_root, reading, on_dark)])
    messages: list[Mapping[str, Any]] = []
    if question.system is not None:
        messages.append({"role": "system", "content": question.system})
    if not question.turns:
        return [*messages, {"role": "user", "content": [*images, _text_part(question.prompt)]}]
    for turn in question_turns(question):
        if turn.role != USER:
            messages.append({"role": turn.role, "content": turn.text})
            continue
        first, *behind = turn.text.split(IMAGE_PLACEHOLDER)
        if len(behind) == 1:
            first, behind = "", [f"{first}{behind[0]}"]  # one alone comes first, as in training
        parts = [_text_part(first.strip() if behind else first)]
        for text in behind:
            parts += [next(images), _text_part(text.strip())]
        messages.append({"role": "user", "content": [part for part in parts if part.get("text") != ""]})
    return messages


def _image_part(image: Image.Image) -> Mapping[str, Any]:
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": address}}


def _text_part(text: str) -> Mapping[str, Any]:
    return {"type": "text", "text": text}


def endpoint_fingerprint(server: ChatServer, reading: ImageReading = ImageReading()) -> str:  # noqa: B008
    """16 hex digits over the model's name and what the server says it was loaded from, and how it is shown images.

    The address is left out: a server that is started again, elsewhere, goes on with the same answers.
    """
    entry = server.describe()
    told = f"endpoint|{server.model}|{entry.get('root', '')}"
    if reading != AS_LLAVA:
        told += f"|{reading}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]
