"""The command line: ``llava-moe COMMAND [hydra overrides]``. Help answers without importing anything heavy.

A command's words go to its file in ``commands/words``, which is loaded by its name. Nothing but ``__main__`` imports
this: what commands need of it too stands in ``commands/table.py`` and ``config/hydra_words.py``. Of several processes
one tells what is wrong (``runs/told_once.py``).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from llava_moe.commands.table import COMMANDS, SECOND_WORDS
from llava_moe.config.hydra_words import prepare_override
from llava_moe.text.did_you_mean import did_you_mean


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 our fault, 2 the user's to fix, 75 stopped by a signal, 130 interrupted."""
    from llava_moe.terminal.stream import VisibleStream

    sys.stderr = VisibleStream(sys.stderr)
    if sys.stdout.isatty():
        # A file or another program gets what there is, an answer or a configuration, to the letter.
        sys.stdout = VisibleStream(sys.stdout, is_terminal=True)
    status = run(list(sys.argv[1:] if arguments is None else arguments))
    if status in (75, 130):
        # The terminal and a launcher both tell of one Ctrl-C: the later one must not end the process in its clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if "torch" in sys.modules and os.environ.get("WORLD_SIZE", "1") != "1":
        end_rank(status)
    sys.exit(status)


def end_rank(status: int) -> NoReturn:
    """End a process that has exchanged tensors with others, without the interpreter's own end.

    Gloo lets go of a collective's tensors in threads of its own, a little later than the collective returns. A thread
    that asks for the interpreter when it has ended aborts the process (status -6, "terminate called without an active
    exception"), and a launcher counts a training that ended well as failed. What is ours is closed by now.
    """
    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit status."""
    from llava_moe.errors import (
        FULL_DISK,
        INTERRUPTED,
        LostRankError,
        ReportedByRankZeroError,
        StoppedBySignalError,
        UserError,
    )

    if not arguments or arguments[0] in ("-h", "--help"):
        return _say(_overview())
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from llava_moe import __version__

        return _say(f"llava-moe {__version__}")
    if name not in COMMANDS:
        return _complain(
            f"{name} is not a command{did_you_mean(name, COMMANDS)}: the commands are {', '.join(COMMANDS)}"
        )
    if garbled := [word for word in rest if not _is_unicode(word)]:
        return _complain(f"{garbled[0]!a} is not UTF-8 text: rename the file, or name it by a link")
    if told := _secret_in(rest):
        return _complain(told)
    if any(word in ("-h", "--help") for word in rest):
        try:
            return _say(_help_of(name, rest[0]))
        except UserError as error:
            return _complain(str(error))
    # Trap: OpenMP's threads spin while they wait. Beside other busy processes a step of the demo then takes ten times
    # as long (measured: 23 s against 2.5 s); libgomp reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Torch's sockets write a stack of C++ for each connection that another process has closed, which is no fault.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    before, sys.argv = sys.argv, ["llava-moe", *arguments]
    try:
        module = importlib.import_module(f"llava_moe.commands.words.{name}")
        return int(module.main([prepare_override(word) for word in rest]) or 0)
    except UserError as error:
        return _complain(str(error), is_consequence=isinstance(error, LostRankError))
    except ReportedByRankZeroError:
        from llava_moe.runs.told_once import hear

        hear()
        return 2
    except StoppedBySignalError as error:
        sys.stderr.write(f"llava-moe: {_one_line(str(error))}\n")
        return error.status
    except KeyboardInterrupt as error:
        sys.stderr.write(f"llava-moe: {_one_line(str(error) or 'interrupted')}\n")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            where = f" of {error.filename}" if error.filename else ""
            return _complain(
                f"the disk{where} is full: free space and run the same command again; what is saved stands"
            )
        sys.stderr.write(_shown(traceback.format_exc()))
        return 1
    finally:
        sys.argv = before


def _help_of(name: str, second: str) -> str:
    command = SECOND_WORDS.get(name, {}).get(second)
    if command is None and name == "analyze":
        from llava_moe.commands.find_instrument import help_of

        command = help_of(second)
    command = command or COMMANDS[name]
    return f"{command.summary}\n\n{command.usage}"


def _overview() -> str:
    lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    return (
        "llava-moe: instruction-tuning multimodal models on mixtures of domains, with mixtures of LoRA\n\n"
        "llava-moe COMMAND [key=value ...]\n\n" + "\n".join(lines) + "\n\n"
        "llava-moe COMMAND --help tells more. Start with: llava-moe train"
    )


def _is_unicode(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:  # a file name in another encoding, smuggled in by Python as lone surrogates
        return False
    return True


def _secret_in(words: Sequence[str]) -> str:
    """What to say of the first word that holds a password or a token; "" where none does."""
    from llava_moe.text.secrets import has_secret, refusal, without_secrets

    for word in words:
        # A question to a model is no setting: it is kept nowhere.
        if has_secret(word) and not word.startswith("prompt="):
            return refusal(without_secrets(word.partition("=")[0]), word)
    return ""


def _say(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


def _complain(text: str, is_consequence: bool = False) -> int:
    line = f"llava-moe: {_one_line(text)}\n"

    def write() -> None:
        sys.stderr.write(line)
        sys.stderr.flush()

    if os.environ.get("WORLD_SIZE", "1") == "1":
        write()
        return 2
    from llava_moe.runs.told_once import tell_once

    # It waits a little for the others.
    with suppress(KeyboardInterrupt):
        tell_once(line, write, is_consequence)
    return 2


def _one_line(text: str) -> str:
    """A message on one line; a terminal obeys nothing of what it quotes from files and words, and learns no secret."""
    shown = " ".join(_shown(line) for line in text.strip("\n").split("\n"))
    # A word of thousands of letters, quoted, would push what is wrong with it out of sight.
    shortened = re.sub(r"\S{400,}", lambda found: f"{found[0][:80]}...{found[0][-20:]}", shown)
    return shortened if len(shortened) <= 2000 else f"{shortened[:1500]} ... {shortened[-400:]}"


def _shown(text: str) -> str:
    from llava_moe.text.escape_control import visible
    from llava_moe.text.secrets import without_secrets

    return visible(without_secrets(text), keep="\n\t")
