"""The loop around a conversation: lines in, answers out as they come.

Answers go to standard output and everything else to standard error, so that what is piped on is answers alone.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from rich.status import Status

from llava_moe.chat.answer import Answer
from llava_moe.chat.line import COMMANDS, Command, image_path, read_line
from llava_moe.chat.session import Picture, Session
from llava_moe.data.images.deep_values import dark_line
from llava_moe.errors import UserError
from llava_moe.terminal.console import VisibleConsole
from llava_moe.text.escape_control import visible

CUT_SHORT = {
    "limit": "cut off at max_new_tokens={}: give a larger one at the start",
    "positions": "cut off: the model has no more positions; /undo or /reset makes room",
}


class Terminal:
    """A conversation on standard input and output: interactive where a person types, plain where lines are piped in.

    Attributes:
        num_refused: lines that could not be followed.
    """

    def __init__(self, session: Session, max_new_tokens: int, is_interactive: bool) -> None:
        self.num_refused = 0
        self._session, self._max_new_tokens, self._is_interactive = session, max_new_tokens, is_interactive
        self._out: TextIO = sys.stdout
        self._notices = VisibleConsole(stderr=True, soft_wrap=True)
        self._num_asked = 0
        self._saved: set[Path] = set()

    def talk(self, welcome: str) -> int:
        """Follow lines until they end; the exit status: 2 if a piped line was refused."""
        if not self._is_interactive:
            return self._follow_pipe()
        self._notice(welcome)
        _complete_lines()
        was_interrupted = False
        while True:
            try:
                self._caption_waiting()
                line = input(self._prompt())
                was_interrupted = False
                if not self._follow(line):
                    return 0
            except EOFError:
                self._out.write("\n")
                return 0
            except KeyboardInterrupt:
                self._out.write("\n")
                if was_interrupted:
                    return 0
                was_interrupted = True
                self._notice("Ctrl-C again, or Ctrl-D, leaves")

    def attach(self, path: Path) -> Picture:
        """Open an image for the next question, and say so where it comes out nearly black.

        Raises:
            UserError: as :func:`~llava_moe.chat.session.open_picture` does.
        """
        picture = self._session.attach(path)
        if picture.dark is not None and (line := dark_line([picture.dark])):
            self._notices.print(line, style="yellow", markup=False, highlight=False)
        return picture

    def answer(self, text: str) -> None:
        """Ask, and write the answer with a line break behind it.

        Raises:
            KeyboardInterrupt: Ctrl-C stopped it; what was said so far is kept in the conversation.
        """
        if self._session.captions and text:
            self._notice("this model captions images: the question is not read")
        with self._waiting() as status:

            def write(piece: str) -> None:
                status.stop()
                self._out.write(visible(piece, keep="\n\t") if self._out.isatty() else piece)
                self._out.flush()

            answer = self._session.ask(text, write)
        self._num_asked += 1
        if answer.ended == "interrupted":
            raise KeyboardInterrupt
        self._out.write("\n")
        self._out.flush()
        self._say_how_it_ended(answer)

    # --- lines -------------------------------------------------------------------------------------------------------

    def _follow_pipe(self) -> int:
        self._caption_waiting()
        for number, line in enumerate(sys.stdin.buffer, start=1):
            if line.strip() and not self._follow(line.decode(errors="surrogateescape"), f"line {number}: "):
                break
        if not self._num_asked and not self.num_refused:
            raise UserError("standard input held no question: write one a line, or give prompt=")
        return 2 if self.num_refused else 0

    def _follow(self, line: str, where: str = "") -> bool:
        """Do what a line says; False where it says to leave."""
        try:
            said = read_line(line)
            if isinstance(said, Command):
                return self._obey(said)
            for path in said.images:
                self._attach(path, said.text)
            if not said.images or (said.text and not self._session.captions):
                self.answer(said.text)
        except UserError as error:
            self.num_refused += 1
            self._notices.print(f"{where}{error}", style="red", markup=False, highlight=False)
        return True

    def _obey(self, command: Command) -> bool:
        session, argument = self._session, command.argument
        if command.name == "/quit":
            return False
        if command.name == "/help":
            self._notice("\n".join(f"{name:<8} {meaning}" for name, meaning in COMMANDS.items()))
        elif command.name == "/image" and argument:
            self._attach(image_path(argument))
        elif command.name == "/image":
            paths = [f"{picture.path}" for picture in session.pictures]
            paths += [f"{picture.path} (goes with the next question)" for picture in session.waiting]
            self._notice("\n".join(paths) or "no images: /image PATH attaches one")
        elif command.name == "/reset":
            session.reset()
            self._notice("a new conversation, without images")
        elif command.name == "/undo":
            self._notice(f"taken back: {' '.join(session.undo().question.split())}")
        elif command.name == "/save":
            self._save(argument)
        return True

    def _attach(self, path: Path, text: str = "") -> None:
        picture = self.attach(path)
        if self._session.captions:
            self.answer(text)
        elif self._is_interactive and not text:
            number = len(self._session.pictures) + len(self._session.waiting)
            more = f" (image {number} of this conversation; /reset begins without)" if number > 1 else ""
            self._notice(f"{picture.path.name} goes with your next question{more}")

    def _caption_waiting(self) -> None:
        if self._session.captions and self._session.waiting:
            self.answer("")

    def _save(self, argument: str) -> None:
        if not argument:
            raise UserError("/save needs a file: /save FILE.jsonl")
        records, path = self._session.records(), image_path(argument).absolute()
        if not records:
            raise UserError("there is nothing to save: the conversation is empty")
        if path.exists() and path not in self._saved:
            raise UserError(f"{path} is there already: give another name")
        try:
            path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): give another name") from error
        self._saved.add(path)
        self._notice(f"saved to {path}")

    # --- what is shown -----------------------------------------------------------------------------------------------

    def _prompt(self) -> str:
        waiting = "".join(f"[{picture.path.name}] " for picture in self._session.waiting)
        prompt = visible(f"{waiting}> ")
        if self._out.isatty():
            return prompt
        self._notices.print(prompt, end="", markup=False, highlight=False)
        return ""

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[Status]:
        """A sign of life until the first words come."""
        status = self._notices.status("reading")
        if self._is_interactive:
            status.start()
        try:
            yield status
        finally:
            status.stop()

    def _say_how_it_ended(self, answer: Answer) -> None:
        if answer.ended in CUT_SHORT:
            self._notice(CUT_SHORT[answer.ended].format(self._max_new_tokens))
        elif not answer.text:
            self._notice("no answer: the model ended at once; the question is not kept")

    def _notice(self, text: str) -> None:
        self._notices.print(text, style="dim", markup=False, highlight=False)


def _complete_lines() -> None:
    """History and editing for ``input``, and the tab key for commands and paths."""
    try:
        import readline
    except ImportError:  # no readline on this system: lines are typed without history
        return

    def complete(text: str, number: int) -> str | None:
        lead = "/image " if text.startswith("/image ") else "/save " if text.startswith("/save ") else ""
        pattern = glob.escape(os.path.expanduser(text[len(lead) :])) + "*"
        paths = [lead + path + ("/" if os.path.isdir(path) else "") for path in sorted(glob.glob(pattern))]
        options = [name for name in COMMANDS if text.startswith("/") and name.startswith(text)] + paths
        return options[number] if number < len(options) else None

    readline.set_completer(complete)
    readline.set_completer_delims("\n")
    readline.parse_and_bind("tab: complete")
