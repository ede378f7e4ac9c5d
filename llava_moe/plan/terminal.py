"""A stage's plan in the terminal: tables that read well in eighty columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llava_moe.plan.devices import GIB
from llava_moe.plan.hours import Hours
from llava_moe.plan.max_row_length import MemoryNeed
from llava_moe.plan.stage import StagePlan
from llava_moe.plan.zero_partition import Memory, Parallel

PARTS = {
    "weights": "weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "masters": "fp32 masters",
    "optimizer": "AdamW's moments",
    "buffers": "DeepSpeed's buffers",
    "inputs": "the step's inputs",
    "activations": "activations kept",
    "logits": "logits and loss",
    "temporary": "temporary",
}


def print_plan(plan: StagePlan, console: Console) -> None:
    """Print one stage."""
    console.print()
    console.print(plan.title, style="bold reverse")
    _print_steps(plan, console)
    _print_memory(plan, console)
    _print_ways(plan, console)
    _print_costs(plan, console)
    for note in plan.notes:
        console.print(f"note: {note}", style="dim")


def size(num_bytes: float) -> str:
    """Bytes in the unit that leaves three figures or so."""
    for unit, scale in (("GiB", GIB), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= scale:
            value = num_bytes / scale
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{num_bytes:.0f} B"


def count(number: float) -> str:
    """A number of things, short when large."""
    for unit, scale in (("G", 1e9), ("M", 1e6)):
        if number >= scale:
            value = number / scale
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{number:,.0f}"


def _figures(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.1f} days"


def _print_steps(plan: StagePlan, console: Console) -> None:
    steps = plan.steps
    mark = "about " if steps.is_expected else ""
    epochs = steps.num_steps / steps.steps_in_epoch
    console.print(
        f"{steps.num_steps:,} steps of {plan.samples_per_step} samples: {epochs:.3g} x {steps.steps_in_epoch:,} of an "
        f"epoch; {steps.samples:,} samples, {mark}{count(steps.tokens)} tokens, "
        f"{mark}{count(steps.supervised)} supervised"
    )
    table = _table("source", "domain", "records", "passes", "samples", "tokens", text=2)
    for source in steps.sources:
        told = f"{source.num_records:,}" if source.num_records else "unknown"
        table.add_row(
            source.name + ("*" if source.is_expected else ""),
            source.domain,
            told,
            f"{source.passes:.4g}",
            f"{source.samples:,}",
            count(source.tokens),
        )
    console.print(table)
    if steps.is_expected:
        console.print(Text("* not there yet: records as published, tokens assumed", style="dim"))
    seating = plan.asked.seating
    fewest, mean, most = seating.rows_per_rank
    rows = f"{most}" if fewest == most else f"{mean:.1f} ({fewest} to {most})"
    console.print(
        f"rows a step on each device: {rows}; its share of a step: at most {plan.share:,} tokens; "
        f"work evenly dealt: {seating.useful_share:.1%}"
    )


def _print_memory(plan: StagePlan, console: Console) -> None:
    first = plan.asked
    parallel = first.choice.parallel
    recomputed = ", activations recomputed" if first.choice.activation_checkpointing else ""
    console.print()
    console.print(
        Text(
            f"Memory of each device at the peak: {parallel.num_devices} x {plan.device.name}, "
            f"parallel={parallel.name}, {plan.dtype}{recomputed}",
            style="bold",
        )
    )
    table = _table("train.tokens_per_micro_batch", *(f"{need.choice.tokens_per_row:,}" for need in plan.needs))
    memories = [need.memory for need in plan.needs]
    for part, words in PARTS.items():
        if any(getattr(memory, part) for memory in memories):
            table.add_row(words, *(size(getattr(memory, part)) for memory in memories))
    if any(memory.at_start > memory.total - 1 for memory in memories):
        table.add_row("weights whole, at the start", *(size(memory.at_start) for memory in memories))
    table.add_section()
    table.add_row("needed", *(Text(size(memory.total), style="bold") for memory in memories))
    table.add_row(
        f"of {size(plan.room)} usable",
        *(_verdict(memory.total <= plan.room, memory.total / max(1, plan.room)) for memory in memories),
    )
    console.print(table)
    if any(memory.host for memory in memories):
        console.print(f"and {size(memories[0].host)} of the machine's memory for each process")
    trained = ", ".join(f"{part} {count(number)}" for part, number in first.traced.num_trained.items())
    console.print(f"trains {trained} of {count(first.traced.num_parameters)} numbers")
    console.print(f"the dearest row: {_row(first)}")
    if plan.longest_row is None:
        console.print(Text("no row fits, not even one sample", style="bold red"))
    elif plan.longest_row >= plan.share:
        console.print(f"the largest micro-batch: a device's whole share of a step fits in one row of {plan.share:,}")
    else:
        console.print(f"the largest micro-batch that fits: train.tokens_per_micro_batch={plan.longest_row}")


def _row(need: MemoryNeed) -> str:
    return (
        f"{need.row.num_tokens:,} tokens, {len(need.row.lengths)} samples, {sum(need.row.num_images)} images, "
        f"{need.row.num_supervised:,} supervised"
    )


def _verdict(fits: bool, share: float) -> Text:
    return Text(f"{share:.0%} fits" if fits else f"{share:.0%} no", style="green" if fits else "bold red")


def _print_ways(plan: StagePlan, console: Console) -> None:
    counts = list(dict.fromkeys(parallel.num_devices for parallel, _ in plan.by_parallel))
    ways: dict[str, dict[int, tuple[Parallel, Memory]]] = {}
    for parallel, memory in plan.by_parallel:
        ways.setdefault(parallel.name, {})[parallel.num_devices] = (parallel, memory)
    console.print()
    console.print(Text("The same row shared otherwise (the machine's memory for a process in brackets)", style="bold"))
    table = _table("parallel=", *(f"{number} device{'s' if number > 1 else ''}" for number in counts))
    for name, by_count in ways.items():
        cells = []
        for number in counts:
            if number not in by_count:
                cells.append(Text(""))
                continue
            memory = by_count[number][1]
            host = f" (+{size(memory.host)})" if memory.host else ""
            cells.append(Text(size(memory.total) + host, style="" if memory.total <= plan.room else "red"))
        table.add_row(name, *cells)
    console.print(table)


def _print_costs(plan: StagePlan, console: Console) -> None:
    console.print()
    console.print(Text("Time and disk", style="bold"))
    parts = ", ".join(f"{name} {size(number)}" for name, number in plan.checkpoint.items() if number)
    console.print(f"time: {_hours(plan, plan.hours)}")
    console.print(f"a checkpoint: {size(sum(plan.checkpoint.values()))} ({parts}); on disk at most {size(plan.disk)}")


def _hours(plan: StagePlan, hours: Hours | None) -> str:
    if hours is None:
        return f"not known for {plan.device.name}: probe=true measures it"
    devices = plan.asked.choice.parallel.num_devices
    kind = "GPU" if plan.device.is_gpu else "device"
    total = f"{duration(hours.hours * 3600)}, {_figures(hours.device_hours)} {kind}-hours"
    step = f"{duration(hours.seconds_per_step)} a step, {_figures(hours.flops_per_step / 1e12)} TFLOP"
    if hours.mfu is None:
        return f"{total} ({step}; measured here on one device{f', divided by {devices}' if devices > 1 else ''})"
    best = "" if hours.best_mfu is None else f"; kernels alone would allow {hours.best_mfu:.0%}"
    rate = (plan.device.flops(plan.dtype) or 0.0) / 1e12
    source = "of the data sheet" if plan.device.is_gpu else "measured of a matrix product here"
    python = f", and {duration(hours.overhead)} a step for what Python does" if hours.overhead else ""
    return f"{total} ({step}; assumed: {hours.mfu:.0%} of {_figures(rate)} TFLOP/s {source}{python}{best})"


def _table(*columns: str, text: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < text else "right", overflow="fold")
    return table
