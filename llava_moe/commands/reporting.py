"""What a run leaves for its reader: the report page and the commands to type next."""

from __future__ import annotations

from pathlib import Path

from llava_moe.report.run import report_run


def next_commands(root: Path, has_scores: bool) -> list[str]:
    """Three commands that make sense after this run."""
    where = str(root) if " " not in str(root) else f"'{root}'"
    first = f"llava-moe eval run={where}" if not has_scores else f"llava-moe eval run={where} limit=200"
    return [
        first,
        "llava-moe train adapter=lora                 # the same story with plain LoRA, to compare",
        "llava-moe train exp=mix_general_doc_med --cfg job   # the 7B experiment, as it would run",
    ]


def write_run_report(root: Path, stages: list[Path] | None = None) -> Path:
    """Write ``report.html`` into a run's or an experiment's folder."""
    has_scores = (root / "eval" / "results.json").is_file()
    return report_run(root, next_commands=next_commands(root, has_scores), stages=stages)
