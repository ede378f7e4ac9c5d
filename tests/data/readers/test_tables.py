"""The command that a table is answered with makes records of it, with nothing but the standard library."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llava_moe.data.readers.files import find_raw
from llava_moe.data.readers.tables import records_of_table
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.errors import UserError


@pytest.mark.parametrize(("name", "mark"), [("my 'own' table.csv", ","), ("$HOME.TSV", "\t")])
def test_the_printed_command_makes_conversations_and_overwrites_nothing(tmp_path: Path, name: str, mark: str) -> None:
    table = tmp_path / name
    rows = [("Picture", "Question", "the answer"), ("a.png", "Why\nso?", '"it\'s" é'), ("b.png", "How, many?", "3")]
    quoted = (mark.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows)
    table.write_text("\ufeff" + "\n".join(quoted).replace("the answer", "Answer"), encoding="utf-8")
    told = records_of_table(table)
    found = re.fullmatch(r"this makes records of it: (python .*) and then give (.*)", told)
    assert found is not None
    program = [sys.executable, "-S", "-E", *shlex.split(found[1])[1:]]  # without any installed package
    subprocess.run(program, check=True)
    (made,) = shlex.split(found[2])
    entries = open_records(Source("mine", "mine", made), tmp_path / "cache").read(0, 9)
    turns = [[turn.text for turn in entry.content.turns] for entry in entries]  # type: ignore[union-attr]
    assert turns == [["<image>Why\nso?", '"it\'s" é'], ["<image>How, many?", "3"]]
    assert [entry.content.images for entry in entries] == [("a.png",), ("b.png",)]  # type: ignore[union-attr]
    assert subprocess.run(program, capture_output=True).returncode != 0


def test_a_table_and_its_folder_are_answered_with_the_same_command(tmp_path: Path) -> None:
    table = tmp_path / "data.csv"
    table.write_text("image,question,answer\n")
    for path in (table, tmp_path):
        with pytest.raises(UserError) as refusal:
            find_raw(str(path))
        assert str(refusal.value).endswith(records_of_table(table))
    table.write_text("a,b\n")
    assert "(a, b) is known to hold the picture's file: name them image" in records_of_table(table)


def test_a_table_of_questions_and_answers_alone_becomes_texts(tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("question,answer\nWhy?,So\n")
    found = re.fullmatch(r"this makes records of it: (python .*) and then give (.*)", records_of_table(table))
    assert found is not None
    subprocess.run([sys.executable, *shlex.split(found[1])[1:]], check=True)
    (entry,) = open_records(Source("mine", "mine", found[2]), tmp_path / "cache").read(0, 1)
    assert [turn.text for turn in entry.content.turns] == ["Why?", "So"]  # type: ignore[union-attr]
    assert entry.content.images == ()  # type: ignore[union-attr]
