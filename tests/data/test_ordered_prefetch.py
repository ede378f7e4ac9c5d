"""Workers hand on items in order, and what the user must fix as it was said."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch.utils.data import Dataset

from llava_moe.data.ordered_prefetch import prefetch_in_order
from llava_moe.errors import UserError


class Squares(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        if index == 7:
            raise UserError("shard 7 is damaged: copy it again")
        return index * index


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_items_come_in_order_and_a_users_error_as_it_was_said(num_workers: int) -> None:
    assert list(prefetch_in_order(Squares(), [5, 3, 3, 6], num_workers)) == [25, 9, 9, 36]
    with pytest.raises(UserError, match=r"^shard 7 is damaged: copy it again$"):
        list(prefetch_in_order(Squares(), range(9), num_workers))


def test_workers_that_nobody_ended_do_not_keep_the_process_from_its_end() -> None:
    code = (
        "from llava_moe.data.ordered_prefetch import prefetch_in_order\n"
        "items = prefetch_in_order([1, 2, 3], range(3), num_workers=1)\n"
        "print(next(items))\n"
        "import sys; sys.kept = items\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "1\n"), ended.stderr
