"""One training job that several trainers can do: a LLaVA with LoRA, its data, and the samples of every step.

The data goes through the project's own path, decoded before any clock starts; every trainer gets the same samples in
the same optimizer steps.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llava_moe.adapters import Lora
from llava_moe.assemble import DTYPES, Assembled, ModelSpec, new_model
from llava_moe.data.encode import Example
from llava_moe.data.mixture import Mixture
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import index_source
from llava_moe.data.stream import Step, StepStream
from llava_moe.data.template import Template
from llava_moe.model import FromShape, ParameterGroup, TrainableParts, prepare_stage
from llava_moe.train.engine import LocalEngine
from llava_moe.train.log import StepRecord
from llava_moe.train.loop import LoopSettings, train
from llava_moe.train.objective import Objective
from llava_moe.train.optimizer import OptimizerSettings
from llava_moe.train.schedule import Schedule
from llava_moe.train.state import RunState
from tests.peers.generated_data import DOMAINS, write_records, write_tokenizer

CPU = torch.device("cpu")
LORA = Lora(r=16, lora_alpha=32, lora_dropout=0.0)


@dataclass(frozen=True)
class Job:
    """Sizes and hyper-parameters. The language model's width sets its depth's cost; heads are 64 wide.

    Attributes:
        mean_words: mean length of a text; an image takes ``(image_size / 14) ** 2`` tokens beside it.
        micro_batch_size: samples of one padded batch of the peer.
        tokens_per_row: longest packed row of ours.
    """

    dtype: str = "fp32"
    hidden_size: int = 256
    num_layers: int = 4
    vocab_size: int = 4096
    vision_hidden_size: int = 64
    image_size: int = 112
    mean_words: float = 22.0
    num_steps: int = 4
    global_batch_size: int = 16
    micro_batch_size: int = 8
    tokens_per_row: int = 1024
    learning_rate: float = 2e-4
    gradient_clipping: float = 1.0
    seed: int = 0

    @property
    def schedule(self) -> Schedule:
        """One step of warm-up, then the cosine."""
        return Schedule(self.num_steps, 1 / self.num_steps)

    @property
    def shape(self) -> FromShape:
        """CLIP at a quarter of the width and half again the depth; a Llama with Vicuna's proportions."""
        width, tower = self.hidden_size, self.vision_hidden_size
        return FromShape(
            vision={
                "hidden_size": tower, "intermediate_size": 4 * tower, "num_hidden_layers": 6,
                "num_attention_heads": tower // 32, "image_size": self.image_size, "patch_size": 14,
            },
            text={
                "hidden_size": width, "intermediate_size": round(width * 11008 / 4096 / 32) * 32,
                "num_hidden_layers": self.num_layers, "num_attention_heads": width // 64,
                "num_key_value_heads": width // 64, "vocab_size": self.vocab_size, "max_position_embeddings": 2048,
                "tie_word_embeddings": False,
            },
        )  # fmt: skip


@dataclass
class Trial:
    """What one run of a job showed, step by step; gradients are the first step's, after clipping."""

    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedJob:
    """A job with its model built and its samples decoded.

    Attributes:
        groups: what trains, by our names; ``start`` holds its first values in fp32.
        base_folder: the bare model as ``save_pretrained`` wrote it.
        examples: the samples of each step, in plan order.
    """

    job: Job
    assembled: Assembled
    groups: Sequence[ParameterGroup]
    start: dict[str, torch.Tensor]
    base_folder: Path
    steps: Sequence[Step]
    examples: Sequence[Sequence[Example]]

    @property
    def num_tokens(self) -> int:
        """Real tokens of all steps."""
        return sum(len(example.input_ids) for step in self.examples for example in step)

    @property
    def num_supervised(self) -> int:
        """Supervised tokens of all steps."""
        return sum(int((example.labels != -100).sum()) for step in self.examples for example in step)


def prepare(job: Job, folder: Path) -> PreparedJob:
    """Write the data set, read it back through the data path, build the model."""
    tokenizer = write_tokenizer(folder / "tokenizer")
    (folder / "images").mkdir()
    files = write_records(folder / "images", job.num_steps * job.global_batch_size, job.mean_words, job.seed)
    shape = FromShape(job.shape.vision, job.shape.text, tokenizer, seed=job.seed)
    assembled = new_model(ModelSpec(shape, LORA, job.dtype, Template("v1", system=""), "pad", 1024, "cut"), CPU)
    parts = TrainableParts({"adapter": job.learning_rate, "projector": job.learning_rate})
    groups = prepare_stage(assembled.model, parts, assembled.attached.named_parameters(), assembled.base.family)
    start = _start(groups, job.seed)
    assembled.model.save_pretrained(folder / "base", state_dict=assembled.attached.base_state_dict())
    sources = tuple(Source(domain, domain, str(path), images=str(path.parent)) for domain, path in files.items())
    records = [open_records(source, folder / "cache") for source in sources]
    indexes = [
        index_source(source, one, assembled.encoder, folder / "cache")
        for source, one in zip(sources, records, strict=True)
    ]
    mixture = Mixture(sources, seed=job.seed)
    stream = StepStream(mixture, indexes, records, assembled.encoder, job.global_batch_size, job.tokens_per_row)
    plan = mixture.plan(indexes, 0)
    places = list(zip(plan.source.tolist(), plan.row.tolist(), strict=True))
    samples = [assembled.encoder.encode(records[s][row], sources[s].images, s) for s, row in places]
    size = job.global_batch_size
    examples = [samples[first : first + size] for first in range(0, len(samples), size)]
    return PreparedJob(job, assembled, groups, start, folder / "base", list(stream.iterate(0)), examples)


def _start(groups: Sequence[ParameterGroup], seed: int) -> dict[str, torch.Tensor]:
    """First values of what trains; LoRA's B is not zero, or A would have no gradient in the first step."""
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(parameter.shape, generator=draw) * 0.02
        if name.endswith("lora_B")
        else parameter.detach().float().clone()
        for group in groups
        for name, parameter in group.parameters.items()
    }


@dataclass(frozen=True)
class Replay:
    """The decoded steps of one epoch as a stream."""

    steps: Sequence[Step]

    def steps_in_epoch(self, epoch: int) -> int:
        return len(self.steps)

    def iterate(self, epoch: int, first_step: int) -> Generator[Step, None, None]:
        yield from self.steps[first_step:]


class Watch:
    """A run without a folder: it keeps the time, loss and gradient norm of every step."""

    stop_status = 0

    def __init__(self, trial: Trial, clock: Any) -> None:
        self.trial, self.clock = trial, clock
        self.before = clock()

    def log(self, record: StepRecord) -> None:
        now = self.clock()
        self.trial.seconds.append(now - self.before)
        self.before = now
        self.trial.losses.append(record.fields["loss"])
        self.trial.grad_norms.append(record.fields["grad_norm"])

    def quarantine(self, bad: Sequence[Any]) -> None:
        assert not bad

    def save(self, state: RunState) -> None:
        return None

    def settle(self) -> None:
        return None

    def check_saving(self) -> None:
        return None

    def name_samples(self, keys: Sequence[str], epoch: int, index: int) -> list[str]:
        return list(keys)


def run_ours(prepared: PreparedJob, clock: Any) -> Trial:
    """Do the job with the project's loop: packed rows, head on supervised tokens, LocalEngine."""
    job, model = prepared.job, prepared.assembled.model
    with torch.no_grad():
        for group in prepared.groups:
            for name, parameter in group.parameters.items():
                parameter.copy_(prepared.start[name])
    settings = OptimizerSettings(gradient_clipping=job.gradient_clipping)
    engine = LocalEngine(model, prepared.groups, settings, CPU)
    trial = Trial()

    def keep_gradients(*_: Any) -> None:
        if not trial.gradients:
            for name, master in engine.masters.items():
                assert master.grad is not None
                trial.gradients[name] = master.grad.clone()

    engine.optimizer.register_step_pre_hook(keep_gradients)
    train(
        engine,
        Replay(prepared.steps),
        Objective(prepared.assembled.inputs_of),
        job.schedule,
        [group.learning_rate for group in prepared.groups],
        Watch(trial, clock),
        LoopSettings(DOMAINS, save_every=0),
        RunState(),
    )
    return trial


def padding_share(lengths: Sequence[int], batch_size: int) -> float:
    """Share of padding when batches of ``batch_size`` are padded to their longest."""
    batches = [lengths[first : first + batch_size] for first in range(0, len(lengths), batch_size)]
    return 1 - sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def percentile_text(values: Sequence[int]) -> str:
    """Quartiles in words."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return f"{low:.0f}/{middle:.0f}/{high:.0f}"


assert set(DTYPES) >= {"fp32", "bf16"}
