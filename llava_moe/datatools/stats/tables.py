"""An account as tables of text, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llava_moe.datatools.stats.groups import Group
from llava_moe.datatools.stats.lengths import sparkline
from llava_moe.datatools.stats.mixture_formula import CountBesideFormula
from llava_moe.datatools.stats.stage import StageAccount
from llava_moe.datatools.stats.text_table import TextTable
from llava_moe.text.escape_control import visible


@dataclass(frozen=True)
class Column:
    """A column: its heading, what stands in a group's row, and whether it is set to the left."""

    name: str
    cell: Callable[[Group], str]
    is_left: bool = False


def stage_tables(account: StageAccount) -> tuple[TextTable, ...]:
    """Everything there is to show of a stage, in the order of its reading."""
    tables = [
        _records_table(account),
        _epoch_table(account),
        _shares_table(account),
        _tokens_table(account),
        _lengths_table(account),
        _training_table(account),
    ]
    if account.counts:
        tables.append(_counts_table(account))
    return tuple(tables)


def rows_of(account: StageAccount) -> tuple[tuple[str, Group], ...]:
    """The groups in reading order with their labels: each domain, its sources below it, and all.

    A source that is alone in its domain stands in the domain's row.
    """
    found = []
    for domain in account.of("domain"):
        sources = [group for group in account.of("source") if group.domain == domain.name]
        if len(sources) == 1:
            name = domain.name if sources[0].name == domain.name else f"{domain.name}: {sources[0].name}"
            found.append((name, sources[0]))
            continue
        found.append((domain.name, domain))
        found += [(f"  {source.name}", source) for source in sources]
    if len(found) > 1:
        found.append(("all", account.all))
    return tuple(found)


def count(number: int) -> str:
    """``1,234,567``; from a hundred million on ``123.4 M`` and ``1.234 G``, the exact number standing in the JSON."""
    if number < 100_000_000:
        return f"{number:,}"
    return f"{number / 1e6:,.1f} M" if number < 1_000_000_000 else f"{number / 1e9:,.3f} G"


def percent(share: float) -> str:
    """``12.34 %``."""
    return f"{100 * share:.2f} %"


def _table(account: StageAccount, title: str, note: str, columns: Sequence[Column]) -> TextTable:
    rows = rows_of(account)
    return TextTable(
        title=title,
        note=note,
        header=("domain", *(column.name for column in columns)),
        rows=tuple((visible(label), *(column.cell(group) for column in columns)) for label, group in rows),
        emphasis=tuple(group.kind == "all" for _, group in rows),
        is_left=(True, *(column.is_left for column in columns)),
    )


def _records_table(account: StageAccount) -> TextTable:
    reasons = list(account.all.records.left_out)
    columns = [
        Column("records", lambda group: count(group.records.num_records)),
        Column("usable", lambda group: count(group.records.usable)),
        Column("left out", lambda group: count(group.records.num_left_out)),
        Column("cut", lambda group: count(group.records.cut)),
        *(() if not account.all.records.listed else (Column("listed", lambda group: count(group.records.listed)),)),
        *(
            ()
            if not account.all.records.held_out
            else (Column("held out", lambda group: count(group.records.held_out)),)
        ),
        *(Column(visible(reason), _left_out(reason)) for reason in reasons),
    ]
    if account.over_length == "cut":
        policy = f"cut: usable, but last turns were left off to keep within {account.max_length:,} tokens"
    else:
        policy = f"records longer than {account.max_length:,} tokens are left out"
    if account.all.records.listed:
        policy += "; listed: others that data.quarantine names"
    return _table(account, "Records", f"{policy}. No image is opened here: data check looks at them.", columns)


def _left_out(reason: str) -> Callable[[Group], str]:
    return lambda group: count(group.records.left_out.get(reason, 0))


def _epoch_table(account: StageAccount) -> TextTable:
    passes = (
        Column("whole", lambda group: "" if group.whole_passes is None else count(group.whole_passes)),
        Column("drawn", lambda group: "" if group.drawn is None else count(group.drawn)),
    )
    return _table(
        account,
        "An epoch",
        f"{account.steps_per_epoch:,} steps of {account.seats.samples_per_step:,} samples. Passes: samples for each "
        "usable record; drawn: samples of a pass that is not whole.",
        [
            Column("samples", lambda group: count(group.epoch.tally.samples)),
            Column("passes", lambda group: f"{group.passes:.2f}"),
            *(passes if any(group.drawn for group in account.of("source")) else ()),
            Column("tokens", lambda group: count(group.epoch.tally.tokens)),
            Column("images", lambda group: count(group.epoch.tally.images)),
        ],
    )


def _shares_table(account: StageAccount) -> TextTable:
    return _table(
        account,
        "Shares of an epoch",
        "loss: mean over steps of the share of a step's supervised tokens, which is the weight in the loss.",
        [
            Column("samples", lambda group: percent(group.epoch.of_samples)),
            Column("tokens", lambda group: percent(group.epoch.of_tokens)),
            Column("supervised", lambda group: percent(group.epoch.of_supervised)),
            Column("loss", lambda group: percent(group.epoch.of_loss)),
        ],
    )


def _tokens_table(account: StageAccount) -> TextTable:
    return _table(
        account,
        "Tokens of an epoch",
        "Images take unequal numbers of tokens."
        if account.num_image_tokens is None
        else f"An image is {account.num_image_tokens} tokens.",
        [
            Column("image", lambda group: count(group.epoch.tally.image_tokens)),
            Column("prompt", lambda group: count(group.epoch.tally.prompt_tokens)),
            Column("supervised", lambda group: count(group.epoch.tally.supervised_tokens)),
            Column("images/sample", lambda group: _ratio(group.epoch.tally.images, group.epoch.tally.samples)),
            Column("text only", lambda group: count(group.epoch.tally.text_only)),
        ],
    )


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


def _lengths_table(account: StageAccount) -> TextTable:
    width = next((group.lengths.bin_width for group in account.groups if group.lengths is not None), 1)

    def length(name: str) -> Callable[[Group], str]:
        return lambda group: "-" if group.lengths is None else f"{getattr(group.lengths, name):,}"

    return _table(
        account,
        "Lengths of an epoch's samples, in tokens",
        f"A block of the histogram is {width} tokens.",
        [
            Column("mean", lambda group: "-" if group.lengths is None else f"{group.lengths.mean:,.1f}"),
            *(Column(name, length(name)) for name in ("median", "p90", "p99", "max")),
            Column(
                "histogram", lambda group: "" if group.lengths is None else sparkline(group.lengths.histogram), True
            ),
        ],
    )


def _histogram(group: Group) -> str:
    return "" if group.lengths is None else sparkline(group.lengths.histogram)


def _training_table(account: StageAccount) -> TextTable:
    counted = ""
    if account.epochs_counted < account.epochs:
        counted = f" Counted here: the first {account.epochs_counted}."
    return _table(
        account,
        "The training",
        f"{account.steps:,} steps, {account.epochs:.4g} epochs.{counted} Seen: usable records that come up at all.",
        [
            Column("samples", lambda group: count(group.training.tally.samples)),
            Column("passes", lambda group: f"{group.training_passes:.2f}"),
            Column("seen", lambda group: _share_of(group.seen, group.records.usable)),
            Column("tokens", lambda group: count(group.training.tally.tokens)),
            Column("supervised", lambda group: count(group.training.tally.supervised_tokens)),
            Column("loss", lambda group: percent(group.training.of_loss)),
        ],
    )


def _share_of(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _counts_table(account: StageAccount) -> TextTable:
    has_cap = any(one.cap is not None for one in account.counts)
    caps = [("-" if one.cap is None else count(one.cap),) if has_cap else () for one in account.counts]
    return TextTable(
        title="Samples of an epoch beside the mixture's formula",
        note="",
        header=("source", "formula", "gives", *(("cap",) if has_cap else ()), "planned"),
        rows=tuple(
            (_name_of(one), one.formula, f"{one.wanted:,.2f}", *cap, count(one.given))
            for one, cap in zip(account.counts, caps, strict=True)
        ),
        emphasis=(False,) * len(account.counts),
        is_left=(True, True, False, *((False,) if has_cap else ()), False),
    )


def _name_of(one: CountBesideFormula) -> str:
    return visible(one.source if one.phase is None else f"phase {one.phase + 1}: {one.source}")
