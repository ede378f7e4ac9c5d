"""Two machines on one: network namespaces with addresses, names and folders of their own, and a link to be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NUM_HOSTS = 2
# Enters the machine's name, and its own folder in the place of one that both call the same.
ENTER = """
import os, socket, subprocess, sys
name, own, place = sys.argv[1:4]
socket.sethostname(name)
subprocess.run(["mount", "--bind", own, place], check=True)
os.environ["TMPDIR"] = own
os.execvp(sys.argv[4], sys.argv[4:])
"""


@dataclass(frozen=True)
class TwoHosts:
    """The machines ``a`` and ``b``.

    Attributes:
        folder: seen by both as one.
        unshared: a path that is another folder on each.
    """

    tag: str
    folder: Path
    unshared: Path

    @property
    def names(self) -> list[str]:
        """Of the machines."""
        return [f"{self.tag}-{letter}" for letter in "ab"]

    def address(self, number: int) -> str:
        """Of a machine, in a network that nothing else is in."""
        return f"10.213.77.{number + 1}"

    def prefix(self, number: int) -> list[str]:
        """What enters a machine, in front of a command."""
        name = self.names[number]
        own = self.folder / f"own-{name}"
        own.mkdir(exist_ok=True)
        enter = [sys.executable, "-c", ENTER, name, str(own), str(self.unshared)]
        return ["ip", "netns", "exec", name, "unshare", "--uts", "--mount", *enter]

    def set_link(self, state: str) -> None:
        """Cut the link or put it back: ``down`` or ``up``."""
        _run("ip", "-n", self.names[1], "link", "set", "lan", state)


def why_not() -> str | None:
    """What this machine lacks for namespaces; None where there is nothing."""
    missing = [name for name in ("ip", "unshare", "mount") if shutil.which(name) is None]
    if missing:
        return f"two machines need the programs {', '.join(missing)}"
    if os.geteuid() != 0:
        return "two machines need namespaces, and these the rights of root"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


def two_hosts(folder: Path) -> Iterator[TwoHosts]:
    """Make them, and take them down at the end."""
    hosts = TwoHosts(f"lm{os.getpid()}", folder, folder / "unshared")
    hosts.unshared.mkdir()
    try:
        for name in hosts.names:
            _run("ip", "netns", "add", name)
        one, other = hosts.names
        _run("ip", "link", "add", "lan", "netns", one, "type", "veth", "peer", "name", "lan", "netns", other)
        for number, name in enumerate(hosts.names):
            _run("ip", "-n", name, "address", "add", f"{hosts.address(number)}/24", "dev", "lan")
            for device in ("lo", "lan"):
                _run("ip", "-n", name, "link", "set", device, "up")
        yield hosts
    finally:
        for name in hosts.names:
            with suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "delete", name)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


def stand_in_for_ssh(hosts: TwoHosts, folder: Path) -> Path:
    """A folder with an ``ssh`` that enters a machine by its name, with nothing of the caller's environment.

    It is no ssh: no network, no login, no connection that is lost by itself. Options are passed over. Signals are what
    they are in a new session: what the caller ignores is not ignored there.
    """
    folder.mkdir()
    clean = '/usr/bin/env -i --default-signal HOME=/ PATH=/usr/bin:/bin /bin/sh -c "$*"'
    cases = "".join(
        f"  {name}) exec {_quoted(hosts.prefix(number))} {clean} ;;\n" for number, name in enumerate(hosts.names)
    )
    text = (
        "#!/bin/bash\nwhile [[ $1 == -* ]]; do case $1 in -o | -p) shift 2 ;; *) shift ;; esac; done\nhost=$1\nshift\n"
        f'case $host in\n{cases}  *) echo "ssh: Could not resolve hostname $host" >&2; exit 255 ;;\nesac\n'
    )
    # A link to it would leave its environment behind.
    for name, does in (("ssh", text), ("python", f'#!/bin/bash\nexec {sys.executable} "$@"\n')):
        (folder / name).write_text(does)
        (folder / name).chmod(0o755)
    return folder


def _quoted(words: Sequence[str]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
