"""``check.html``: what was found, an example of each kind, and what to do: one page without script or network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llava_moe.datatools.check.examples import examples_of
from llava_moe.datatools.check.fault_kinds import KINDS
from llava_moe.datatools.check.files import PAGE
from llava_moe.datatools.check.run_check import Checked
from llava_moe.datatools.check.table import kind_rows
from llava_moe.files.atomic_write import write_atomically
from llava_moe.pages.html_page import page_template

TEMPLATE = Path(__file__).with_name("page.html.j2")


def write_page(
    folder: Path,
    title: str,
    words: str,
    checked: Checked,
    num_listed: int,
    notes: Sequence[str] = (),
    next_commands: Sequence[str] = (),
) -> Path:
    """Write the page.

    Args:
        words: those of ``train`` that say what was checked.
        notes: sentences that belong to this check.
        next_commands: what to type next, one command each.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / PAGE
    page = page_template(TEMPLATE).render(
        title=title,
        words=words,
        checked=checked,
        rows=kind_rows(checked),
        kinds=KINDS,
        examples=examples_of(checked),
        num_listed=num_listed,
        notes=notes,
        next_commands=next_commands,
    )
    write_atomically(path, page)
    return path
