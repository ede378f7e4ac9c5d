"""A family whose images take unequal numbers of tokens goes the way that LLaVA goes, from a record to a gradient."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from llava_moe.adapters import Lora
from llava_moe.assemble import Assembled, ModelSpec, new_model
from llava_moe.data.batch import Batch, collate_row
from llava_moe.data.held_out import take
from llava_moe.data.mixture import Mixture
from llava_moe.data.records import Source
from llava_moe.data.source import open_records
from llava_moe.data.source_index import index_source
from llava_moe.data.stream import StepStream
from llava_moe.data.template import Template
from llava_moe.datatools.stats.rows import first_rows
from llava_moe.errors import UserError
from llava_moe.eval.benchmark import Question
from llava_moe.eval.generation.generate import answer_questions
from llava_moe.model import TrainableParts
from llava_moe.model.families import FAMILIES, registry
from llava_moe.plan.dummy_rows import NullImage, Row, hollow_batch, seat_steps
from llava_moe.plan.steps import count_steps, stand_in
from llava_moe.plan.trace import Blueprint, trace
from llava_moe.plugins import Registry
from llava_moe.runs.objective import objective_of
from llava_moe.runs.stage_features import shape_of
from llava_moe.train.optimizer import OptimizerSettings
from tests.model.families.toy_tiles import MOST_TILES, TILES, TilesShape
from tests.model.test_stages import TEXT, VISION

CPU = torch.device("cpu")
TOKENS_PER_TILE = 4
# File, width, height, tiles.
PICTURES = (("square.png", 30, 28, 1), ("wide.png", 50, 24, 2), ("tall.png", 20, 70, 3), ("long.png", 200, 21, 3))
# Pictures of each record; the last has none.
RECORDS = (("square.png",), ("wide.png",), ("tall.png", "square.png"), ("long.png",), ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name, width, height, _ in PICTURES:
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / name)
    records = [
        {
            "id": str(number),
            "images": list(names),
            "conversations": [
                {"role": "user", "text": "<image>\n" * len(names) + f"what {number} ?"},
                {"role": "assistant", "text": "a red square " * (number + 1)},
            ],
            "source": "s",
            "domain": "d",
        }
        for number, names in enumerate(RECORDS)
    ]
    (tmp_path / "records.json").write_text(json.dumps(records))
    return tmp_path


@pytest.fixture
def assembled(tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Assembled:
    both = Registry("families", {"tiles": TILES, **FAMILIES.ours}, lambda plugin, found: found)
    monkeypatch.setattr(registry, "FAMILIES", both)
    text = {**TEXT, "max_position_embeddings": 512, "initializer_range": 0.1}
    shape = TilesShape({**VISION, "initializer_range": 0.1}, text, str(tokenizer_folder))
    model_spec = ModelSpec(shape, Lora(r=2, lora_alpha=4), "fp32", Template("v1", ""), "pad", 400, "cut")
    made = new_model(model_spec, CPU)
    with torch.no_grad():
        # A fresh LoRA adds nothing.
        for name, tensor in made.attached.named_parameters().items():
            if "lora_B" in name:
                tensor.normal_(0, 0.1)
    return made


@pytest.fixture
def make_stream(folder: Path, assembled: Assembled) -> Callable[..., StepStream]:
    def make(**more: object) -> StepStream:
        source = Source("s", "d", str(folder / "records.json"), images=str(folder))
        records = open_records(source, folder / "cache")
        index = index_source(source, records, assembled.encoder, folder / "cache")
        stream = StepStream(Mixture((source,)), (index,), (records,), assembled.encoder, len(RECORDS), 500)
        return replace(stream, **more)  # type: ignore[arg-type]

    return make


def tiles_of(names: tuple[str, ...]) -> int:
    tiles = {name: count for name, _, _, count in PICTURES}
    return sum(tiles[name] for name in names)


def only_batch(stream: StepStream) -> Batch:
    (step,) = stream.iterate(0)
    (batch,) = step.batches
    return batch


def test_each_image_takes_the_places_and_the_pixels_of_its_own_tiles(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    (index,), (records,), encoder = stream.indexes, stream.records, stream.encoder
    assert index.num_images.tolist() == [len(names) for names in RECORDS]
    for row, names in enumerate(RECORDS):
        example = encoder.encode(records[row], records.image_root, 0)
        assert len(example.input_ids) == len(example.labels) == index.lengths[row]
        assert (example.input_ids == encoder.image_token_id).sum() == TOKENS_PER_TILE * tiles_of(names)
        assert index.image_tokens is not None and index.image_tokens[row] == TOKENS_PER_TILE * tiles_of(names)
        assert (len(example.pixels), example.num_images) == (tiles_of(names), len(names))
        assert (example.labels != -100).sum() == index.supervised[row]


def test_a_row_is_packed_along_the_first_axis_and_shown_image_by_image(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    batch = only_batch(stream)
    assert len(batch.pixel_values) == sum(map(tiles_of, RECORDS))
    assert batch.num_images == len(batch.image_sizes) == sum(map(len, RECORDS))
    (row,) = first_rows(stream, 0, 0, 1)
    shown = {segment.id: segment for segment in row.segments}
    for number, names in enumerate(RECORDS):
        segment = shown[str(number)]
        assert [len(piece.tokens) for piece in segment.pieces if piece.kind == "image"] == [
            TOKENS_PER_TILE * tiles_of((name,)) for name in names
        ]
        assert len(segment.pixels) == tiles_of(names)


def test_forward_and_backward_are_the_same_packed_and_alone(
    assembled: Assembled, make_stream: Callable[..., StepStream]
) -> None:
    model, stream = assembled.model.eval(), make_stream()
    batch = only_batch(stream)
    weights = assembled.attached.trainable_parameters() | {
        name: tensor for name, tensor in model.named_parameters() if TILES.parts.is_projectors(name)
    }

    def gradients(rows: list[Batch]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        for tensor in weights.values():
            tensor.requires_grad_(True).grad = None
        logits = []
        for row in rows:
            logits_TV = model(**assembled.inputs_of(row)).logits[0]
            labels_T = row.labels[0].roll(-1)
            torch.nn.functional.cross_entropy(logits_TV, labels_T, reduction="sum").div(50).backward()
            logits.append(logits_TV.detach())
        return torch.cat(logits), {name: tensor.grad.clone() for name, tensor in weights.items()}

    (step,) = stream.iterate(0)
    rows = {key: number for number, key in enumerate(step.keys)}
    plan = stream.mixture.plan(stream.indexes, 0)
    alone = []
    for key in batch.keys:
        record = stream.records[0][int(plan.row[rows[key]])]
        example = stream.encoder.encode(record, stream.records[0].image_root, 0)
        alone.append(collate_row(stream.encoder, [example], [0]))
    packed_logits, packed_gradients = gradients([batch])
    logits, expected = gradients(alone)
    assert packed_logits.abs().max() > 0.01
    torch.testing.assert_close(packed_logits, logits, rtol=0, atol=1e-6)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=0, atol=1e-6, msg=name)


def test_a_row_without_images_gets_the_smallest_one(
    assembled: Assembled, make_stream: Callable[..., StepStream]
) -> None:
    stream = make_stream(global_batch_size=1, null_image=assembled.encoder.null_image)
    without = [batch for step in stream.iterate(0) for batch in step.batches if batch.sample_positions == (0, -1)]
    (batch,) = without
    assert batch.segment_lengths[-1] == TOKENS_PER_TILE and len(batch.pixel_values) == 1
    assert torch.isfinite(assembled.model(**assembled.inputs_of(batch)).logits).all()


def test_answers_do_not_depend_on_what_is_asked_beside_them(assembled: Assembled, folder: Path) -> None:
    questions = [
        Question(name, (str(folder / name),), f"what is {name} ?", ("",), "d", "", False, 4) for name, *_ in PICTURES
    ]
    together = answer_questions(assembled.model, assembled.encoder, questions)
    alone = [answer_questions(assembled.model, assembled.encoder, [question])[0] for question in questions]
    assert together == alone and len(set(together)) > 1


def test_a_plan_takes_the_row_that_training_takes(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    encoder, real = stream.encoder, only_batch(stream)
    count = partial(count_steps, stream.mixture, num_entries=encoder.transform.num_entries)
    packing = count(stream.indexes, 1, 1, len(RECORDS)).seat(500, 1, NullImage.of(encoder))
    (row,) = packing.rows
    planned = hollow_batch(row, encoder, FakeTensorMode())
    assert planned.segment_lengths == real.segment_lengths and planned.image_sizes == real.image_sizes
    assert planned.pixel_values.shape == real.pixel_values.shape
    assert packing.most_entries == len(real.pixel_values) == sum(map(tiles_of, RECORDS))
    for name in ("input_ids", "labels"):
        theirs, ours = (
            [(segment == encoder.image_token_id).sum() for segment in getattr(one, name)[0].split(one.segment_lengths)]
            for one in (real, planned)
        )
        assert theirs == ours
    # One sample a step: the one without images gets the null image, of one tile.
    alone = count(stream.indexes, len(RECORDS), len(RECORDS), 1)
    assert {step.entries().tolist()[0] for step in alone.picked} == {tiles_of(names) for names in RECORDS}
    (without,) = [step for step in alone.picked if not step.num_images.any()]
    (row,) = seat_steps([without], 500, 1, NullImage.of(encoder)).rows
    assert hollow_batch(row, encoder, FakeTensorMode()).pixel_values.shape == (
        1,
        *encoder.transform.no_pixels.shape[1:],
    )


def test_a_plan_of_data_that_are_not_there_takes_images_of_one_size(make_stream: Callable[..., StepStream]) -> None:
    stream = make_stream()
    encoder, size = stream.encoder, (50, 24)
    index = stand_in(8, [40], [5], size)
    steps = count_steps(stream.mixture, (index,), 2, 2, 4, ("s",), encoder.transform.num_entries)
    row = steps.seat(500, 1, None).rows[0]
    assert row.image_sizes == ((size,),) * 4
    assert hollow_batch(row, encoder, FakeTensorMode()).pixel_values.shape[0] == 8


def test_a_traced_step_costs_what_its_tiles_cost(assembled: Assembled, tokenizer_folder: Path) -> None:
    shape = TilesShape(VISION, {**TEXT, "max_position_embeddings": 512}, str(tokenizer_folder))
    model_spec = ModelSpec(shape, Lora(r=2, lora_alpha=4), "fp32", Template("v1", ""), "pad", 400, "cut")
    parts = TrainableParts({"adapter": 1e-4, "projector": 1e-4})
    stage = Blueprint(model_spec, parts, OptimizerSettings(), objective_of, 1, False, False)
    of = {
        tiles: trace(stage, Row((60,), (1,), (8,), (((20 * tiles, 20),),)), False) for tiles in range(1, MOST_TILES + 1)
    }
    # The language model sees as many tokens; each tile more goes through tower and projector once more.
    assert of[3].flops - of[2].flops == of[2].flops - of[1].flops > 0
    assert of[3].peak > of[2].peak > of[1].peak


def test_what_is_held_out_keeps_its_images(make_stream: Callable[..., StepStream]) -> None:
    (index,) = make_stream().indexes
    kept = take(index, np.array([True, False, True, False, True]))
    names = [RECORDS[number] for number in (0, 2, 4)]
    sizes = {name: (width, height) for name, width, height, _ in PICTURES}
    assert kept.image_tokens is not None and kept.image_sizes is not None
    assert kept.image_tokens.tolist() == [TOKENS_PER_TILE * tiles_of(one) for one in names]
    assert [*map(tuple, kept.image_sizes.tolist())] == [sizes[name] for one in names for name in one]


def test_features_of_unequal_images_are_not_kept(assembled: Assembled) -> None:
    with pytest.raises(UserError, match="unequal numbers of tokens"):
        shape_of(assembled)
