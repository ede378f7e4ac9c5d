"""A domain has one colour, wherever and beside whatever it is shown."""

from __future__ import annotations

from itertools import permutations

from llava_moe.pages.domain_colors import PALETTE, colors_of

HEADLINE = {"general": PALETTE[0], "documents": PALETTE[1], "medical": PALETTE[2]}


def test_the_order_in_which_a_page_meets_domains_changes_no_color() -> None:
    names = ("general", "mine", "invoices", "x-rays")
    assert len({tuple(sorted(colors_of(order).items())) for order in permutations(names)}) == 1


def test_the_headline_domains_have_their_colors_in_any_company() -> None:
    for names in (["medical"], ["documents", "mine"], ["mine", "general", "medical"], [*HEADLINE]):
        colors = colors_of(names)
        assert all(colors[name] == HEADLINE[name] for name in names if name in HEADLINE)


def test_as_many_domains_as_colors_are_told_apart() -> None:
    for names in (["a", "b", "c", "d", "e", "f"], ["a", "b", "c", *HEADLINE], ["captions", "mine", *HEADLINE]):
        assert len(set(colors_of(names).values())) == len(names)
    assert set(colors_of([str(number) for number in range(20)]).values()) == {*PALETTE}


def test_what_a_benchmark_adds_to_a_page_takes_no_color_from_the_mixture() -> None:
    mixture = ["captions", "mine", "yours"]
    alone = colors_of(mixture)
    for more in (["a"], ["general", "b"], ["mine", "c", "d", "e", "f"]):
        beside = colors_of(mixture, more)
        assert all(beside[name] == alone[name] for name in mixture) and {*more} <= {*beside}
