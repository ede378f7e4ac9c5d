"""``llava-moe export``: a run as a Hugging Face model or as PEFT folders, loaded back and compared before it stands."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from safetensors import SafetensorError
from torch import Tensor, nn

from llava_moe.adapters import Mole, NoAdapter
from llava_moe.adapters.formats.hub_name import hub_id
from llava_moe.adapters.formats.peft_library import import_peft
from llava_moe.assemble import (
    DTYPES,
    Assembled,
    ModelSpec,
    lineage,
    load_lineage,
    model_spec_of,
    new_base,
    new_model,
    processor_of,
    read_config,
    refuse_strange_base,
    with_adapter,
)
from llava_moe.commands.export_data import card_of, domains_of, open_held_out
from llava_moe.config.key_limits import BY_DOMAIN
from llava_moe.config.settings import is_embedded
from llava_moe.errors import UserError
from llava_moe.export.card import cost_table
from llava_moe.export.constant_gates import (
    all_alike,
    can_be_held,
    expert_names,
    expert_shares,
    gated,
    has_experts,
    wide_linears,
)
from llava_moe.export.held_out import StaticCost, mean_mixings, static_costs
from llava_moe.export.proof import PEFT_READS, Comparison, our_logits, probes_of
from llava_moe.export.write import BASE, PublishedBase, export_merged, export_peft, folder_of
from llava_moe.files.checkpoints import newest_checkpoint
from llava_moe.files.full_disk import is_full
from llava_moe.model import FromCheckpoint
from llava_moe.run_config import RunConfig
from llava_moe.runs.console import say_next, say_notes
from llava_moe.runs.free_memory import free_memory
from llava_moe.terminal.console import VisibleConsole
from llava_moe.text.shell_words import named


@dataclass(frozen=True)
class Static:
    """A mixture held constant: what M is, in words too, and what it costs."""

    words: str
    mixings: dict[str, Tensor]
    costs: tuple[StaticCost, ...]


@dataclass(frozen=True)
class ExportJob:
    """One export: what of which run goes where. It is written to ``partial``, which becomes ``out``."""

    checkpoint: Path
    model_spec: ModelSpec
    run: RunConfig
    partial: Path
    out: Path
    dtype: torch.dtype
    console: Console


def export(plain: dict[str, Any]) -> int:
    """Write the run, loaded back and compared."""
    if plain["to"] == "peft":
        import_peft(PEFT_READS)
    if plain["num_threads"] is not None:
        torch.set_num_threads(int(plain["num_threads"]))
    console = VisibleConsole(soft_wrap=True)
    if not torch.cuda.is_available():
        # transformers asks DeepSpeed, where it is installed, which then writes a warning that there is no accelerator.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not console.is_terminal:
        transformers.utils.logging.disable_progress_bar()  # its bars fill log files with control characters
    checkpoint = newest_checkpoint(Path(plain["run"]))
    run = read_config(checkpoint.parent.parent)
    model_spec = replace(model_spec_of(run), init_from=None)
    _check_adapter(plain, run, model_spec)
    out = Path(plain["out"])
    with _written_whole(out) as partial:
        job = ExportJob(checkpoint, model_spec, run, partial, out, DTYPES[plain["dtype"] or model_spec.dtype], console)
        if plain["to"] == "peft":
            steps = _next_of_peft(out, *_to_peft(job))
        else:
            _to_hf(job, plain)
            steps = _next_of_hf(out, is_embedded(run) and run.stage.template != "plain")
    console.print(f"exported: {out}\nhow to load it: {out / 'README.md'}", highlight=False, markup=False)
    if steps:
        say_next(console, steps)
    return 0


def _next_of_peft(out: Path, base: str, adapters: Sequence[str]) -> list[str]:
    """How to talk to one LoRA on its base; the experts of a mixture are not its answers."""
    if len(adapters) > 1:
        return []
    where = str(out / base) if base == BASE else base
    return [f"llava-moe chat {named('model.path', where)} {named('model.peft', out / adapters[0])}"]


def _next_of_hf(out: Path, reads_demo: bool) -> list[str]:
    """What the merged folder is good for, here."""
    here = named("model.path", out)
    score = f"llava-moe eval {here}   # the demo's questions, by the exported files alone"
    return [f"llava-moe chat {here}", *([score] if reads_demo else [])]


def _check_adapter(plain: dict[str, Any], run: RunConfig, model_spec: ModelSpec) -> None:
    """Refuse what cannot be exported before a model is loaded."""
    if plain["to"] == "peft" and isinstance(model_spec.adapter, NoAdapter):
        raise UserError(f"{plain['run']} has no adapter, so there is nothing for PEFT: use to=hf")
    static = plain["static"]
    if static is not None and static.startswith(BY_DOMAIN):
        name, known = static.removeprefix(BY_DOMAIN), domains_of(run)
        if name not in known:
            raise UserError(f"static={static}: {name!r} is no domain of the run's data: it has {', '.join(known)}")


def _to_hf(job: ExportJob, plain: dict[str, Any]) -> None:
    start = _start_logits(job.model_spec) if isinstance(job.model_spec.adapter, NoAdapter) else None
    assembled = restore_exactly(job.checkpoint, job.model_spec)
    _refuse_small_memory(assembled)
    say_notes(job.console, assembled.notes)
    processor, prompt, static = processor_of(assembled), probes_of(assembled)[0].text, None
    if gated(assembled.model):
        _check_gates(assembled)
        static = _hold(job, plain, assembled)
    elif plain["static"] is not None:
        raise UserError("static= is for a mixture that depends on the input, and this run's does not: leave it out")
    mixings = static.mixings if static else {}
    comparison = export_merged(assembled, processor, job.partial, job.dtype, mixings, start)
    _show([comparison], job.console)
    card = card_of(job.checkpoint, job.run, job.model_spec, "hf", prompt, [comparison])
    if static is not None:
        card = replace(card, static=static.words, costs=static.costs)
    card.write(job.partial, job.out)


def _to_peft(job: ExportJob) -> tuple[str, list[str]]:
    """Write the adapters; returns their base, which may be a folder among what was written, and their folders."""
    assembled = restore_exactly(job.checkpoint, job.model_spec)
    _refuse_small_memory(assembled)
    say_notes(job.console, assembled.notes)
    model = assembled.model
    _check_gates(assembled)
    if not all(has_experts(wide) for wide in gated(model).values()):
        raise UserError(
            f"the factors of {job.model_spec.adapter.method} are paired again for each example, so none is a LoRA "
            "alone: export to=hf with static=by_domain=NAME, or use the run itself"
        )
    published = _published_base(job.checkpoint, job.model_spec)
    processor, prompt = processor_of(assembled), probes_of(assembled)[0].text
    adapters = [folder_of(name) for name in expert_names(model)] or [""]
    comparisons = export_peft(assembled, processor, job.partial, job.dtype, published)
    _show(comparisons, job.console)
    card = card_of(job.checkpoint, job.run, job.model_spec, "peft", prompt, comparisons)
    base = published.hub_id if published else BASE
    replace(card, base_folder=base, adapters=adapters).write(job.partial, job.out)
    return base, adapters


def _check_gates(assembled: Assembled) -> None:
    """Refuse an adapter that computes its mixture in a way of its own."""
    config = assembled.attached.config
    if isinstance(config, Mole) and config.exact and config.granularity != "matrix":
        raise UserError(
            f"adapter.exact mixes what a {config.granularity} puts out, not its weights, which have no merged form: "
            "compose with exact=false, or use the run itself"
        )
    if not all(can_be_held(wide) for wide in wide_linears(assembled.model).values()):
        raise UserError(
            "adapter.as_released computes what the released code does, for comparison, and its mixture cannot be held "
            "constant: train with as_released=false, or use the run itself"
        )


def _refuse_small_memory(assembled: Assembled) -> None:
    """Say that the copy which is read back does not fit, before the system kills what holds it.

    Raises:
        UserError: with the GiB that are needed, of which it is the least.
    """
    # What is read back is cast: for a moment it is there in half precision, too.
    needed = 3 * sum(one.nbytes for one in assembled.model.parameters()) // 2
    if (free := free_memory()) < needed:
        raise UserError(
            "what is exported is read back in fp32 and compared with the run: that takes "
            f"{needed / 2**30:.1f} GiB more, and {free / 2**30:.1f} are free: export on a machine with more memory"
        )


def restore_exactly(checkpoint: Path, model_spec: ModelSpec) -> Assembled:
    """A run's model in fp32: the base as it was rounded for training, what was trained from its fp32 masters."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attention = "auto" if model_spec.attn_implementation == "flash_attention_2" else model_spec.attn_implementation
    bare = new_base(checkpoint.parent.parent, replace(model_spec, attn_implementation=attention), torch.device("cpu"))
    bare = replace(bare, notes=refuse_strange_base(checkpoint.parent.parent, bare.weights))
    nn.Module.to(bare.model, torch.float32)
    load_lineage(bare.model, checkpoint)
    if not isinstance(model_spec.adapter, NoAdapter):
        bare = with_adapter(bare, checkpoint / "adapter")
    nn.Module.to(bare.model, device).eval()
    return bare


def _start_logits(model_spec: ModelSpec) -> list[Tensor]:
    """What the model computed before it was trained, for a run without an adapter."""
    assembled = new_model(model_spec, torch.device("cpu"))
    nn.Module.to(assembled.model, torch.float32).eval()
    return our_logits(assembled, probes_of(assembled))


def _published_base(checkpoint: Path, model_spec: ModelSpec) -> PublishedBase | None:
    """The checkpoint that a run's adapter fits as it was published; none where the base is another, or a folder."""
    if not isinstance(model_spec.architecture, FromCheckpoint):
        return None
    was_trained = any((one / "model" / "base.safetensors").is_file() for one in lineage(checkpoint))
    source = model_spec.architecture.path
    name = hub_id(source)
    return None if was_trained or name is None else PublishedBase(name, source)


def _hold(job: ExportJob, plain: dict[str, Any], assembled: Assembled) -> Static:
    """Hold a mixture constant as asked, and measure what that costs.

    Raises:
        UserError: it was not asked for.
    """
    static, model, console = plain["static"], assembled.model, job.console
    method = assembled.attached.config.method
    are_experts = all(has_experts(wide) for wide in gated(model).values())
    if static is None:
        by_domain = f"static=by_domain=NAME ({', '.join(domains_of(job.run))}), which prints what that costs"
        ways = f"static=uniform or {by_domain}, or export to=peft" if are_experts else by_domain
        raise UserError(f"{method} mixes by the input, so no one set of weights computes it: add {ways}")
    if static == "uniform" and not are_experts:
        raise UserError(
            f"static=uniform: {method} pairs factors, which have no weights to even out: use by_domain=NAME"
        )
    held_out = open_held_out(job.run, assembled, plain["split"], plain["limit"], plain["seed"])
    for note in held_out.notes:
        console.print(note, highlight=False, markup=False)
    if static == "uniform":
        words, mixings = "each expert by 1/K", all_alike(model)
    else:
        domain = static.removeprefix(BY_DOMAIN)
        words, mixings = (
            f"each layer's mean over the tokens of {domain}",
            mean_mixings(assembled, held_out.rows[domain]),
        )
        _show_shares(model, mixings, console)
    costs = static_costs(assembled, held_out.rows, mixings)
    console.print(f"held-out loss, nats per supervised token, with {words}:", highlight=False, markup=False)
    console.print(cost_table(costs), highlight=False, markup=False)
    return Static(words, mixings, costs)


def _show_shares(model: nn.Module, mixings: dict[str, Tensor], console: Console) -> None:
    """A line for each block whose linears share their weights."""
    shown: dict[str, str] = {}
    for name, wide in gated(model).items():
        if has_experts(wide):
            shares = " ".join(f"{share:.3f}" for share in expert_shares(wide, mixings[name]).values())
            shown.setdefault(name.rpartition(".")[0], shares)
    for block, shares in shown.items():
        console.print(f"  {block}: {shares}", highlight=False, markup=False)


def _show(comparisons: Sequence[Comparison], console: Console) -> None:
    for comparison in comparisons:
        console.print(comparison.line, highlight=False, markup=False)


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that takes its place when all went well, and is gone when it did not."""
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): give another folder") from error
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError | RuntimeError | SafetensorError) and is_full(error):
            raise UserError(f"out={out}: the disk is full; free space and run the same command again") from error
        raise
