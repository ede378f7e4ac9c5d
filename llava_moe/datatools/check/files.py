"""The files of a check: the list that training honours, and the numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_moe.data.quarantine import Quarantined
from llava_moe.datatools.check.findings import Findings
from llava_moe.datatools.check.run_check import Checked
from llava_moe.files.atomic_write import write_atomically

LIST = "quarantine.jsonl"
NUMBERS = "check.json"
PAGE = "check.html"


def write_list(folder: Path, listed: Sequence[Quarantined]) -> Path:
    """Write the quarantine list, a JSON object a line; it is written empty where nothing is to be left out.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / LIST
    write_atomically(path, "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in listed))
    return path


def write_numbers(folder: Path, about: Mapping[str, Any], checked: Checked, listed: Sequence[Quarantined]) -> Path:
    """Write ``check.json``.

    Args:
        about: what was checked, for people.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / NUMBERS
    seconds = {part: round(spent, 3) for part, spent in checked.seconds.items()}
    content = {
        **about,
        "records": checked.num_records,
        "images": {
            "shown": checked.num_images,
            "different": checked.num_distinct,
            "opened": checked.num_opened,
        },
        "listed": len(listed),
        "sources": {one.view.label: _source(one, listed) for one in checked.findings},
        "troubles": [asdict(trouble) for trouble in checked.troubles],
        "known_faults": [
            {
                "source": label,
                "name": name,
                "images": known.count,
                "expected": known.repair.expected,
                "fault": known.repair.fault,
                "remedy": known.repair.remedy,
                "example": known.example,
            }
            for (label, name), known in checked.repairs.items()
        ],
        "seconds": seconds,
        "records_per_second": _rate(checked.num_records, checked.seconds.get("records")),
        "images_per_second": _rate(checked.num_opened, checked.seconds.get("images")),
    }
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=True) + "\n")
    return path


def _source(findings: Findings, listed: Sequence[Quarantined]) -> dict[str, Any]:
    source = findings.view.source
    return {
        "source": source.name,
        "domain": source.domain,
        "path": source.path,
        "stages": list(findings.view.stages),
        "records": len(findings.view.records),
        "bad": findings.num_bad,
        "listed_alone": dict(findings.listed_alone),
        "dropped": len(findings.dropped),
        "listed": sum(entry.source == source.name for entry in listed),
        "kinds": {
            kind: {
                "count": count,
                "first": [{"record": one.number, "id": one.id, "detail": one.detail} for one in findings.shown[kind]],
            }
            for kind, count in sorted(findings.counts.items())
            if count
        },
    }


def _rate(count: int, seconds: float | None) -> float | None:
    return round(count / seconds, 1) if seconds else None
