"""The short trainings of a transfer matrix, one of each domain and seed, each a piece that outlives the process.

Letters of shapes: N records, D domains, S seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console

from llava_moe.analyze.losses import example_losses_S
from llava_moe.analyze.pieces import Pieces
from llava_moe.analyze.progress import Progress
from llava_moe.analyze.records import HeldOutRecords
from llava_moe.analyze.short_training import ShortTraining
from llava_moe.assemble import Assembled
from llava_moe.errors import UserError
from llava_moe.eval.ranks import Ranks
from llava_moe.train.loop import Stream

StreamOf = Callable[[str, int], Stream]
"""(domain, seed) -> the records that a short training is on."""


@dataclass(frozen=True)
class Cells:
    """Each domain's short training by seed, and what it does to the loss of every held-out record.

    Attributes:
        tokens_per_row: of the packed rows in which losses are measured; which records share a row never changes.
    """

    assembled: Assembled
    records: HeldOutRecords
    training: ShortTraining
    stream_of: StreamOf
    tokens_per_row: int

    def losses_before(self) -> tuple[np.ndarray, float]:
        """float64 [N], nats per supervised token before any training, and the seconds that it took.

        Raises:
            UserError: one is not finite.
        """
        started = time.monotonic()
        losses_N = self._losses()
        if not np.isfinite(losses_N).all():
            raise UserError(
                "before any training a held-out loss is not finite: look at an earlier checkpoint=, or give dtype=fp32"
            )
        return losses_N, time.monotonic() - started

    def losses_after(
        self, seeds: Sequence[int], pieces: Pieces, ranks: Ranks, console: Console
    ) -> tuple[np.ndarray, np.ndarray]:
        """float64 [S, D, N], the losses after each short training, and [S, D], its own last training loss.

        Each process takes its share of the trainings, of which none depends on another.

        Raises:
            UserError: a loss is not finite, out of memory, or the disk is full.
        """
        cells = [(seed, domain) for seed in range(len(seeds)) for domain in range(len(self.records.names))]
        mine = ranks.share(range(len(cells)))
        found: dict[int, tuple[np.ndarray, float]] = {}
        for number in mine:
            known = pieces.get(self._name(seeds, *cells[number]))
            if known is not None and known["losses"].shape == (len(self.records.examples),):
                found[number] = known["losses"], float(known["training_loss"])

        def compute() -> dict[int, tuple[np.ndarray, float]]:
            with Progress(console, "short trainings", len(mine)) as progress:
                progress.skip(len(found))
                for number in mine:
                    if number in found:
                        continue
                    seed, domain = cells[number]
                    found[number] = self._losses_of(self.records.names[domain], seeds[seed])
                    losses_N, training_loss = found[number]
                    pieces.put(
                        self._name(seeds, seed, domain), losses=losses_N, training_loss=np.asarray(training_loss)
                    )
                    progress.step()
            return found

        ranks.together(compute)
        everywhere = {number: cell for share in ranks.gather(found) for number, cell in share.items()}
        shape = (len(seeds), len(self.records.names))
        losses = np.stack([everywhere[number][0] for number in range(len(cells))]).reshape(*shape, -1)
        return losses, np.array([everywhere[number][1] for number in range(len(cells))]).reshape(shape)

    def _name(self, seeds: Sequence[int], seed: int, domain: int) -> str:
        return f"after-{seeds[seed]}-{domain:03d}"

    def _losses_of(self, domain: str, seed: int) -> tuple[np.ndarray, float]:
        with self.training.trained_on(self.stream_of(domain, seed), domain, seed) as training_loss:
            losses_N = self._losses()
        if not np.isfinite(losses_N).all():
            raise UserError(f"after a short training on {domain} a held-out loss is not finite: give a smaller rate=")
        return losses_N, training_loss

    @torch.no_grad()
    def _losses(self) -> np.ndarray:
        losses: list[float] = []
        for row in self.records.rows(range(len(self.records.examples)), self.tokens_per_row):
            losses += example_losses_S(self.assembled, self.records.row(row)).double().tolist()
        return np.array(losses)
