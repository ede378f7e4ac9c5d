"""Each record's gradient, kept on the disk, and the products of every two of them by part of the adapter.

With n records, the n x n products of a part (its Gram matrix) are all that first-order interference, cosines and their
bootstrap need; those of a larger part are the sums of its parts'. Gradients are computed one record at a time, so that
nothing depends on how records are dealt to processes.

Letters of shapes: N records, P values of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from llava_moe.analyze.losses import example_losses_S
from llava_moe.analyze.parts import Parameters, Part
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.progress import Progress
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.assemble import Assembled
from llava_moe.errors import UserError
from llava_moe.eval.ranks import Ranks

_VALUES_AT_ONCE = 32_000_000
GRAM = "gram"


@dataclass(frozen=True)
class RecordGradients:
    """The gradient of each record's loss, float32 files of which parts are read.

    Attributes:
        losses_N: nats per supervised token, float64.
    """

    parameters: Parameters
    pieces: Pieces
    losses_N: np.ndarray

    def of(self, record: int) -> np.ndarray:
        """float32 [values], all parameters end to end."""
        flat = self.pieces.map_flat(f"gradient-{record:06d}", self.parameters.num_values)
        if flat is None:
            raise UserError(
                f"{self.pieces.folder}: the gradient of record {record} is not there: all processes must share this "
                "folder; run the same command again"
            )
        return flat

    def spans(self) -> list[slice]:
        """Where each parameter lies in :meth:`of`."""
        ends = np.cumsum([tensor.numel() for tensor in self.parameters.tensors]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def forget(self) -> None:
        """Remove the files."""
        self.pieces.drop(*(f"gradient-{record:06d}" for record in range(len(self.losses_N))))


def record_gradients(
    assembled: Assembled,
    parameters: Parameters,
    records: HeldOutRecords,
    pieces: Pieces,
    ranks: Ranks,
    console: Console,
    are_needed: bool = True,
) -> RecordGradients:
    """Compute what is not there yet, each process its share; the loss of each record with it.

    Args:
        are_needed: False where everything that is made of the gradients is there: then losses are enough.

    Raises:
        UserError: the disk is full, or a record's loss or gradient is not finite.
    """
    places = ranks.share(range(len(records.examples)))
    losses: dict[int, float] = {}
    for place in places:
        known = pieces.get(f"loss-{place:06d}")
        flat = pieces.map_flat(f"gradient-{place:06d}", parameters.num_values) if are_needed else ()
        if known is not None and flat is not None:
            losses[place] = float(known["loss"])

    def compute() -> None:
        with Progress(console, "gradients", len(places)) as progress:
            progress.skip(len(losses))
            for place in places:
                if place not in losses:
                    losses[place], flat = _gradient(assembled, parameters, records, place)
                    pieces.put_flat(f"gradient-{place:06d}", flat)
                    # Last: with it the record counts as done.
                    pieces.put(f"loss-{place:06d}", loss=np.array(losses[place]))
                    progress.step()

    ranks.together(compute)
    everywhere = {place: loss for share in ranks.gather(losses) for place, loss in share.items()}
    return RecordGradients(parameters, pieces, np.array([everywhere[place] for place in sorted(everywhere)]))


def _gradient(
    assembled: Assembled, parameters: Parameters, records: HeldOutRecords, place: int
) -> tuple[float, np.ndarray]:
    with torch.enable_grad():
        loss = example_losses_S(assembled, records.row([place]))[0]
        found = torch.autograd.grad(loss, parameters.tensors, allow_unused=True)
    # What routing never reached has no gradient, which is a gradient of 0.
    filled = [
        torch.zeros_like(tensor) if one is None else one for tensor, one in zip(parameters.tensors, found, strict=True)
    ]
    flat = torch.cat([one.detach().float().reshape(-1) for one in filled])
    if not bool(torch.isfinite(flat).all()) or not bool(torch.isfinite(loss)):
        raise UserError(f"the gradient of held-out record {records.examples[place].key[:12]} is not finite")
    return float(loss.detach().double()), flat.cpu().numpy()


def known_grams(parameters: Parameters, num_records: int, pieces: Pieces) -> dict[Part, np.ndarray] | None:
    """What :func:`gram_matrices` kept; None where it has yet to be computed."""
    parts, known = parameters.distinct_parts(), pieces.get(GRAM)
    if known is None or known["products"].shape != (len(parts), num_records, num_records):
        return None
    return dict(zip(parts, known["products"], strict=True))


def gram_matrices(gradients: RecordGradients, ranks: Ranks, console: Console) -> dict[Part, np.ndarray]:
    """float64 [N, N] of each part: the products of every two records' gradients; each process its share of the parts.

    Raises:
        UserError: a gradient's file is gone.
    """
    parts, num_records = gradients.parameters.distinct_parts(), len(gradients.losses_N)
    if (known := known_grams(gradients.parameters, num_records, gradients.pieces)) is not None:
        return known

    def compute() -> dict[int, np.ndarray]:
        flats = [gradients.of(record) for record in range(num_records)]
        mine = ranks.share(range(len(parts)))
        found = {}
        with Progress(console, "products of gradients", len(mine)) as progress:
            for number in mine:
                found[number] = _gram(flats, _spans_of(gradients, parts[number]))
                progress.step()
        return found

    mine = ranks.together(compute)
    everywhere = {number: gram for share in ranks.gather(mine) for number, gram in share.items()}
    products = np.stack([everywhere[number] for number in range(len(parts))])
    ranks.from_first(lambda: gradients.pieces.put(GRAM, products=products))
    return dict(zip(parts, products, strict=True))


def _spans_of(gradients: RecordGradients, part: Part) -> list[slice]:
    spans = gradients.spans()
    return [span for span, owner in zip(spans, gradients.parameters.parts, strict=True) if owner == part]


def _gram(flats: list[np.ndarray], spans: list[slice]) -> np.ndarray:
    gram_NN = np.zeros((len(flats), len(flats)))
    for span in spans:
        width = max(1, _VALUES_AT_ONCE // len(flats))
        for start in range(span.start, span.stop, width):
            stop = min(start + width, span.stop)
            values_NP = np.stack([flat[start:stop] for flat in flats]).astype(np.float64)
            gram_NN += values_NP @ values_NP.T
    return gram_NN


def summed(grams: Mapping[Part, np.ndarray], places: list[int]) -> np.ndarray:
    """The products over several parts together."""
    matrices = list(grams.values())
    return np.sum([matrices[place] for place in places], axis=0)
