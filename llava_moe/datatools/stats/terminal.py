"""An account in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from llava_moe.datatools.stats.stage import StageAccount
from llava_moe.datatools.stats.tables import count, percent, stage_tables
from llava_moe.datatools.stats.text_table import rich_tables
from llava_moe.text.escape_control import visible


def print_account(account: StageAccount, console: Console) -> None:
    """Print a stage's tables, its seating, and what training would refuse."""
    console.print()
    console.print(Text(visible(account.title), style="bold reverse"))
    console.print(Text(summary_line(account)))
    for table in stage_tables(account):
        console.print()
        console.print(Text(table.title, style="bold"))
        if table.note:
            console.print(Text(table.note, style="dim"))
        for part in rich_tables(table, console.width):
            console.print(part)
    console.print()
    console.print(Text("Rows", style="bold"))
    for line in seating_lines(account):
        console.print(Text(line))
    for line in warning_lines(account):
        console.print(Text(line, style="bold red"))


def summary_line(account: StageAccount) -> str:
    """How long the stage trains, in words."""
    return (
        f"{account.steps:,} steps of {account.seats.samples_per_step:,} samples: {account.epochs:.4g} epochs of "
        f"{account.steps_per_epoch:,} steps"
    )


def seating_lines(account: StageAccount) -> tuple[str, ...]:
    """How the samples of a step fill rows, in words."""
    seating, seats = account.seating, account.seats
    looked_at = "every step of the epoch"
    if seating.num_seated < seating.num_steps:
        looked_at = f"{seating.num_seated:,} of {seating.num_steps:,} steps, evenly spaced"
    rows = f"{seating.rows_mean:.2f} rows a step"
    if seating.rows_min < seating.rows_max:
        rows += f" ({seating.rows_min} to {seating.rows_max})"
    if seats.num_ranks > 1:
        rows += f" on each of {seats.num_ranks} ranks, whose work balances to {percent(seating.balance)}"
    return (
        f"{rows}; a row holds up to {seats.tokens_per_row:,} tokens",
        f"packing: rows are {percent(seating.packing_efficiency)} full; padding: {percent(seating.padding_share)} of "
        "the tokens computed",
        f"from the seating of {looked_at}",
    )


def warning_lines(account: StageAccount) -> tuple[str, ...]:
    """What training would stop at, and what it would never see."""
    lines = [
        f"{visible(group.name)}: {count(group.records.bad)} of {count(group.records.num_records)} records are "
        f"bad, more than data.max_bad_share={account.max_bad_share:g} allows: train will refuse the source; fix it, "
        "list them (data check), or raise the share"
        for group in account.refused
    ]
    lines += [
        f"{visible(group.name)}: an epoch takes none of its {count(group.records.usable)} records: raise its repeats, "
        "cap or weight"
        for group in account.of("source")
        if group.records.usable and not group.epoch.tally.samples
    ]
    return tuple(lines)
