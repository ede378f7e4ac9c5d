"""Our loop against Hugging Face ``Trainer`` + PEFT on one job: first equal losses and gradients, then time.

    python -m tests.peers.hugging_face --dtype bf16 --threads 2

prints a table. All trainers run in this process and take turns, round by round, after a round that only warms up.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlavaForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments

from llava_moe.assemble import DTYPES
from llava_moe.data.encode import Example
from llava_moe.data.images.transform import ImageTransform
from tests.peers.job import Job, PreparedJob, Trial, padding_share, prepare, run_ours

OURS = "llava-moe"
LINEARS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Peer:
    """A way to use Trainer and PEFT.

    Attributes:
        grouped: samples of a step are sorted by length before they are cut into batches (``group_by_length`` within
            the step, which keeps the step's samples).
        fp32_adapters: PEFT's default for half-precision models, with ``bf16=True`` (autocast) as it asks for.
        checkpointing: recompute activations, as LLaVA's scripts do.
    """

    name: str
    grouped: bool = False
    fp32_adapters: bool = True
    checkpointing: bool = False


DEFAULT = Peer("Trainer + PEFT, default")
CHECKPOINTED = Peer("Trainer + PEFT, default + checkpointing", checkpointing=True)
TUNED = Peer("Trainer + PEFT, tuned", grouped=True, fp32_adapters=False)


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Decoded samples in the order of training, pixels normalised as a processor leaves them."""

    def __init__(self, samples: Sequence[dict[str, torch.Tensor]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.samples[index]


@dataclass(frozen=True)
class PaddingCollator:
    """Pads to the longest of the batch, as LLaVA's ``DataCollatorForSupervisedDataset`` does."""

    pad_token_id: int

    def __call__(self, samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        def pad(name: str, value: int) -> torch.Tensor:
            sequences = [sample[name] for sample in samples]
            return torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)

        batch = {"input_ids": pad("input_ids", self.pad_token_id), "labels": pad("labels", -100)}
        batch["attention_mask"] = pad("attention_mask", 0)
        pixels = torch.cat([sample["pixel_values"] for sample in samples])
        return batch | ({"pixel_values": pixels} if len(pixels) else {})


class WatchedTrainer(Trainer):
    """Trainer that keeps the unrounded loss of every optimizer step."""

    def __init__(self, trial: Trial, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.trial, self.num_micro_batches = trial, 0

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        loss = super().training_step(*arguments, **named)
        if self.num_micro_batches % self.args.gradient_accumulation_steps == 0:
            self.trial.losses.append(0.0)
        self.num_micro_batches += 1
        self.trial.losses[-1] += float(loss)
        return loss


class StepWatch(TrainerCallback):
    """Keeps the time of every step, its gradient norm, and the first step's gradients."""

    def __init__(self, trial: Trial, clock: Callable[[], float]) -> None:
        self.trial, self.clock, self.before = trial, clock, 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.before = self.clock()

    def on_pre_optimizer_step(self, *_: Any, **given: Any) -> None:
        model: torch.nn.Module = given["model"]
        if not self.trial.gradients:
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None
                    self.trial.gradients[our_name(name)] = parameter.grad.float().clone()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        now = self.clock()
        self.trial.seconds.append(now - self.before)
        self.before = now

    def on_log(self, *_: Any, **given: Any) -> None:
        logs: dict[str, float] = given["logs"]
        if "grad_norm" in logs:
            self.trial.grad_norms.append(float(logs["grad_norm"]))


def our_name(name: str) -> str:
    """A parameter of a PEFT model by its name in ours."""
    return name.removeprefix("base_model.model.").replace(".default.weight", "")


@dataclass(frozen=True)
class PreparedPeer:
    """A peer with its model and its samples."""

    peer: Peer
    prepared: PreparedJob
    model: Any
    samples: Samples
    padding: float

    def run(self, clock: Callable[[], float]) -> Trial:
        """Do the job from the start."""
        job, peer, trial = self.prepared.job, self.peer, Trial()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(self.prepared.start[our_name(name)])
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=job.num_steps,
                per_device_train_batch_size=job.micro_batch_size,
                gradient_accumulation_steps=job.global_batch_size // job.micro_batch_size,
                learning_rate=job.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=job.schedule.num_warmup_steps,
                weight_decay=0.0,
                max_grad_norm=job.gradient_clipping,
                bf16=job.dtype == "bf16" and peer.fp32_adapters,
                gradient_checkpointing=peer.checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": False} if peer.checkpointing else None,
                train_sampling_strategy="sequential",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                disable_tqdm=True,
                use_cpu=True,
            )
            trainer = WatchedTrainer(
                trial,
                model=self.model,
                args=arguments,
                train_dataset=self.samples,
                data_collator=PaddingCollator(self.prepared.assembled.encoder.pad_token_id),
                callbacks=[StepWatch(trial, clock)],
            )
            for callback in list(trainer.callback_handler.callbacks):
                if type(callback).__name__ == "PrinterCallback":
                    trainer.remove_callback(callback)
            trainer.train()
        return trial


def prepare_peer(peer: Peer, prepared: PreparedJob) -> PreparedPeer:
    """Load the bare model with Hugging Face, put PEFT's LoRA on it, let the projector train, lay out the samples."""
    from peft import LoraConfig, get_peft_model

    job = prepared.job
    base = LlavaForConditionalGeneration.from_pretrained(prepared.base_folder, dtype=DTYPES[job.dtype])
    text_config: Any = base.config.text_config
    base.config.use_cache = text_config.use_cache = False
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=LINEARS)
    model = get_peft_model(base, config, autocast_adapter_dtype=peer.fp32_adapters)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(our_name(name) in prepared.start)
    order = [
        example
        for step in prepared.examples
        for example in (sorted(step, key=lambda one: len(one.input_ids)) if peer.grouped else step)
    ]
    samples = Samples([_sample(example, prepared) for example in order])
    padding = padding_share([len(example.input_ids) for example in order], job.micro_batch_size)
    return PreparedPeer(peer, prepared, model, samples, padding)


def _sample(example: Example, prepared: PreparedJob) -> dict[str, torch.Tensor]:
    input_ids = torch.from_numpy(example.input_ids)
    transform = prepared.assembled.encoder.transform
    assert isinstance(transform, ImageTransform)
    pixels = transform.normalize(torch.from_numpy(example.pixels))
    return {
        "input_ids": input_ids,
        "labels": torch.from_numpy(example.labels),
        "attention_mask": torch.ones_like(input_ids),
        "pixel_values": pixels,
    }


def largest_loss_difference(ours: Trial, theirs: Trial) -> float:
    """Largest |ours - theirs| / theirs over the steps."""
    assert len(ours.losses) == len(theirs.losses)
    return max(abs(a - b) / b for a, b in zip(ours.losses, theirs.losses, strict=True))


def largest_gradient_difference(ours: Trial, theirs: Trial) -> float:
    """Largest difference of a first-step gradient over the largest gradient of that parameter."""
    assert ours.gradients.keys() == theirs.gradients.keys()
    return max(
        float((gradient - theirs.gradients[name]).abs().max() / theirs.gradients[name].abs().max())
        for name, gradient in ours.gradients.items()
    )


@dataclass(frozen=True)
class Row:
    """One line of the table; ratios are this trainer's time over ours."""

    name: str
    padding: float
    seconds_min: float
    seconds_median: float
    ratio_min: float
    ratio_median: float
    ratio_paired: float
    loss_difference: float
    gradient_difference: float


def race(prepared: PreparedJob, peers: Sequence[Peer], num_rounds: int, clock: Callable[[], float]) -> list[Row]:
    """Run ours and every peer in turn, ``num_rounds`` times after a warm-up round; the last row is ours.

    Seconds are of one optimizer step: the mean over the job's steps (the first left out) of the smallest or median
    time that the step took in any round. The paired ratio is the median over rounds of the ratio within a round.

    Raises:
        ValueError: losses or first gradients differ (fp32 1e-5 and 1e-4, bf16 5e-3 and 5e-2 relative): no time is
            reported.
    """
    runners = {one.name: prepare_peer(one, prepared) for one in peers}
    trials: dict[str, list[Trial]] = {name: [] for name in (OURS, *runners)}
    for _ in range(num_rounds + 1):
        trials[OURS].append(run_ours(prepared, clock))
        for name, runner in runners.items():
            trials[name].append(runner.run(clock))
    rows = [row_of(name, runner.padding, trials[name], trials[OURS]) for name, runner in runners.items()]
    loss_limit, gradient_limit = (1e-5, 1e-4) if prepared.job.dtype == "fp32" else (5e-3, 5e-2)
    for row in rows:
        if row.loss_difference > loss_limit or row.gradient_difference > gradient_limit:
            raise ValueError(
                f"{row.name}: losses differ by {row.loss_difference:.1e}, gradients by {row.gradient_difference:.1e}: "
                "there is no time to compare"
            )
    return [*rows, row_of(OURS, 0.0, trials[OURS], trials[OURS])]


def row_of(name: str, padding: float, theirs: Sequence[Trial], ours: Sequence[Trial]) -> Row:
    """Compare two trainers' trials; the first of each was the warm-up, which says nothing of time."""
    low, middle = _seconds(theirs, min), _seconds(theirs, statistics.median)
    pairs = zip(theirs[1:], ours[1:], strict=True)
    return Row(
        name=name,
        padding=padding,
        seconds_min=low,
        seconds_median=middle,
        ratio_min=low / _seconds(ours, min),
        ratio_median=middle / _seconds(ours, statistics.median),
        ratio_paired=statistics.median(sum(a.seconds[1:]) / sum(b.seconds[1:]) for a, b in pairs),
        loss_difference=max(largest_loss_difference(a, b) for a, b in zip(ours, theirs, strict=True)),
        gradient_difference=largest_gradient_difference(ours[0], theirs[0]),
    )


def _seconds(trials: Sequence[Trial], choose: Callable[[Sequence[float]], float]) -> float:
    by_step = zip(*(trial.seconds[1:] for trial in trials[1:]), strict=True)
    return statistics.mean(choose(seconds) for seconds in by_step)


def print_table(prepared: PreparedJob, rows: Sequence[Row]) -> None:
    """Print the job in words and the table."""
    job = prepared.job
    lengths = [len(example.input_ids) for step in prepared.examples for example in step]
    print(
        f"{job.dtype}, {prepared.assembled.model.num_parameters() / 1e6:.1f} M parameters ({job.hidden_size} wide, "
        f"{job.num_layers} layers, vocabulary {job.vocab_size}), {job.global_batch_size} samples a step in batches of "
        f"{job.micro_batch_size}, {sum(lengths) / len(lengths):.0f} tokens a sample (longest {max(lengths)}), "
        f"{prepared.num_supervised / prepared.num_tokens:.1%} supervised; {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )
    titles = ("trainer", "padding", "s/step: min", "median", "ratio of minima", "of medians", "in a round")
    print(f"| {' | '.join((*titles, 'loss differs by', 'gradient by'))} |")
    print("|---" * 9 + "|")
    for row in rows:
        print(
            f"| {row.name} | {row.padding:.1%} | {row.seconds_min:.3f} | {row.seconds_median:.3f} | "
            f"{row.ratio_min:.2f} | {row.ratio_median:.2f} | {row.ratio_paired:.2f} | {row.loss_difference:.1e} | "
            f"{row.gradient_difference:.1e} |"
        )


def main() -> None:
    """Read the command line, run the race, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--image-size", type=int, default=168)
    parser.add_argument("--mean-words", type=float, default=50.0)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--row", type=int, default=2048)
    parser.add_argument("--cpu-time", action="store_true", help="count the process's CPU seconds, not the wall's")
    words = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch.set_num_threads(words.threads)
    job = Job(
        dtype=words.dtype,
        hidden_size=words.hidden_size,
        num_layers=words.layers,
        vocab_size=words.vocab_size,
        vision_hidden_size=max(64, words.hidden_size // 4),
        image_size=words.image_size,
        mean_words=words.mean_words,
        num_steps=words.steps,
        global_batch_size=words.batch,
        micro_batch_size=words.micro_batch,
        tokens_per_row=words.row,
    )
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(job, Path(folder))
        clock = time.process_time if words.cpu_time else time.perf_counter
        print_table(prepared, race(prepared, (DEFAULT, CHECKPOINTED, TUNED), words.rounds, clock))


if __name__ == "__main__":
    main()
