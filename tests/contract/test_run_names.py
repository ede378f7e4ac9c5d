"""A run without ``out=`` is called by a hash of its configuration: the same words find it again in a later version.

Another name would begin an unfinished run from scratch without a word. ``run_names.json`` holds what the words below
are called. A line of it changes where what is trained by these words changes, and the change log says so.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.test_rates import stages_of

NAMES = Path(__file__).with_name("run_names.json")


@pytest.mark.parametrize("words", json.loads(NAMES.read_text()))
def test_the_same_words_are_called_as_before(words: str) -> None:
    folders = [str(stage.folder) for stage in stages_of(*words.split())]
    assert folders == json.loads(NAMES.read_text())[words]
