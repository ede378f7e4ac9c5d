"""Stands for ``llava-moe`` in tests of the runner: leaves what a run leaves, in no time; its words say what happens.

``train NAME=...``: ``sleep=S`` waits in steps and saves on SIGTERM, ``fail=TEXT`` ends with status 2, ``base=``,
``data=`` and ``bytes=`` are what the run records. Each command adds a line to ``order.txt`` beside the runs.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    run = Path(given.get("out") or given["run"])
    run.mkdir(exist_ok=True)
    with (run.parent / "order.txt").open("a") as order:
        order.write(f"{words[0]} {run.name}\n")
    if words[0] in ("eval", "analyze"):
        (run / f"{words[0]}.json").write_text(json.dumps(words))
        return 0
    log = run / "log.jsonl"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    num_done = log.read_text().count("\n") if log.exists() else 0
    for step in range(num_done, int(given.get("steps", 3))):
        with log.open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")
        time.sleep(float(given.get("sleep", 0)))
    if "fail" in given:
        sys.stdout.write(f"some lines before\nllava-moe: {given['fail']}\n")
        return 2
    (run / "weights").write_bytes(b"0" * int(given.get("bytes", 10)))
    content = {"base_model": given.get("base", "b"), "data": {"general": given.get("data", "d")}, "commit": "c"}
    (run / "environment.json").write_text(json.dumps(content))
    (run / "finished.json").write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
