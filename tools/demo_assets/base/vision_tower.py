"""Pretraining of the demo's vision tower, a small `CLIPVisionModel`, on the training split's pictures.

`python -m tools.demo_assets.base.vision_tower --work FOLDER` reads the teacher's targets (teacher.py) and writes
`FOLDER/vision_tower` (fp32). LLaVA-1.5 reads hidden_states[-2]; the tower has 7 layers, so that is the output of
layer 6, and all heads that shape the patch features stand there. Layer 7 serves the contrastive loss alone.

Losses (h: the patch features of layer 6; all heads are thrown away afterwards):
- distil: smooth L1 between a linear map of each patch and the teacher's 192 components at that place;
- pixels: mean square error between a linear map of each patch and its own 4 x 4 thumbnail;
- words: softmax over caption words from the mean patch, target the caption's words, rare ones weighted up;
- answers: for each closed question that is asked of the picture, softmax over its answers from the mean patch;
- contrast: CLIP's (Radford et al. 2021) symmetric InfoNCE between layer 7's CLS and a bag-of-words caption vector,
  with equal captions counted as matches;
- scale: (mean)^2 + (log std)^2 of each channel of h over the batch, so that a projector can read h as it is.

Shape suffixes: B pictures, P patches, D width, Q questions, A answers, W caption words.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from tools.demo_assets.base.items import CLIP_MEAN, CLIP_STD, Item, all_pixels
from tools.demo_assets.base.teacher import NUM_COMPONENTS, NUM_VIEWS, taught_items

CONFIG = CLIPVisionConfig(
    hidden_size=192,
    intermediate_size=768,
    num_hidden_layers=7,
    num_attention_heads=3,
    image_size=128,
    patch_size=16,
    projection_dim=192,
)
STEPS = 1800
WHOLE_PICTURES = 40  # of each batch: view 0 with all losses
CROPPED_PICTURES = 24  # of each batch: other views, distillation and pixels only
HALF_PATCHES_UNTIL = 0.7  # share of the steps in which each picture shows a random half of its patches
PEAK = 1.5e-3
SEED = 3
WEIGHTS = {"distil": 2.0, "pixels": 0.3, "words": 0.3, "answers": 0.3, "contrast": 0.1, "scale": 0.2}


@dataclass(frozen=True)
class Labels:
    """What the captions and questions of the training items say, as tensors."""

    words_IW: torch.Tensor  # float, rows sum to 1 or are 0
    caption_I: torch.Tensor  # number of the caption's text
    answers_IQ: torch.Tensor  # number of the answer, -1 where the question is not asked
    num_answers: torch.Tensor  # [Q]


def caption_words(caption: str) -> set[str]:
    """The caption's words in lower case, without the commonest ones."""
    return set(re.findall(r"[a-z0-9]+", caption.lower())) - {"a", "an", "and", "in", "is", "of", "the", "with"}


def read_labels(items: list[Item]) -> Labels:
    """Words in at least three captions; closed questions asked at least 40 times with at most 40 answers."""
    counts = collections.Counter(word for item in items for word in caption_words(item.caption))
    words = {word: n for n, word in enumerate(sorted(word for word, count in counts.items() if count >= 3))}
    words_IW = torch.zeros(len(items), len(words))
    captions = {caption: n for n, caption in enumerate(sorted({item.caption for item in items}))}
    answers: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for item in items:
        for question, answer, closed in zip(item.questions, item.answers, item.closed, strict=True):
            if closed:
                answers[question][answer] += 1
    asked = sorted(question for question, c in answers.items() if c.total() >= 40 and 2 <= len(c) <= 40)
    numbers = {question: {answer: n for n, answer in enumerate(sorted(answers[question]))} for question in asked}
    answers_IQ = torch.full((len(items), len(asked)), -1)
    for row, item in enumerate(items):
        for word in caption_words(item.caption) & words.keys():
            words_IW[row, words[word]] = (len(items) / counts[word]) ** 0.25
        for question, answer in zip(item.questions, item.answers, strict=True):
            if question in numbers and answer in numbers[question]:
                answers_IQ[row, asked.index(question)] = numbers[question][answer]
    return Labels(
        words_IW=functional.normalize(words_IW, p=1, dim=1),
        caption_I=torch.tensor([captions[item.caption] for item in items]),
        answers_IQ=answers_IQ,
        num_answers=torch.tensor([len(numbers[question]) for question in asked]),
    )


class Heads(nn.Module):
    """Everything on top of the tower that is thrown away."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        width, num_words = CONFIG.hidden_size, labels.words_IW.shape[1]
        self.distil = nn.Linear(width, NUM_COMPONENTS)
        self.pixels = nn.Linear(width, 48)
        self.words = nn.Linear(width, num_words)
        self.answers = nn.Linear(width, len(labels.num_answers) * int(labels.num_answers.max()))
        self.image = nn.Linear(width, width, bias=False)
        self.text = nn.Sequential(nn.Linear(num_words, width, bias=False), nn.GELU(), nn.Linear(width, width))
        self.log_temperature = nn.Parameter(torch.tensor(2.66))
        beyond = torch.arange(int(labels.num_answers.max())) >= labels.num_answers[:, None]
        self.register_buffer("beyond_QA", beyond)

    def answer_loss(self, mean_BD: torch.Tensor, answers_BQ: torch.Tensor) -> torch.Tensor:
        """Cross entropy over the asked questions, each over its own answers."""
        logits_BQA = self.answers(mean_BD).float().unflatten(1, self.beyond_QA.shape)
        logits_BQA = logits_BQA.masked_fill(self.beyond_QA, float("-inf"))
        asked = answers_BQ >= 0
        return functional.cross_entropy(logits_BQA[asked], answers_BQ[asked])

    def contrast_loss(self, class_BD: torch.Tensor, words_BW: torch.Tensor, caption_B: torch.Tensor) -> torch.Tensor:
        """Symmetric InfoNCE; pictures that share a caption share the probability."""
        image = functional.normalize(self.image(class_BD).float(), dim=1)
        text = functional.normalize(self.text(words_BW * 4).float(), dim=1)
        logits = image @ text.T * self.log_temperature.clamp(max=4.6).exp()
        matches = (caption_B[:, None] == caption_B[None]).float()
        target = matches / matches.sum(1, keepdim=True)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


def initialize(tower: CLIPVisionModel) -> None:
    """CLIP's own initialisation leaves patches too small for so short a training; give them std 0.03."""
    nn.init.trunc_normal_(tower.embeddings.patch_embedding.weight, std=0.03)


def encode(
    tower: CLIPVisionModel, pixels: torch.Tensor, keep: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the last layer but one and of the last layer, [B, 1 + P, D]; `keep` [B, P'] chooses patches."""
    hidden = tower.embeddings(pixels)
    if keep is not None:
        chosen = hidden[:, 1:].gather(1, keep[..., None].expand(-1, -1, hidden.shape[-1]))
        hidden = torch.cat([hidden[:, :1], chosen], 1)
    hidden = tower.pre_layrnorm(hidden)
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    return hidden, tower.encoder.layers[-1](hidden, None)


def augment(pixels_BRHW: torch.Tensor) -> torch.Tensor:
    """Shift by up to 6 px, brightness and contrast by up to 15 %, then CLIP normalisation; uint8 in, float32 out.

    One shift serves the batch: teacher features lie on a 16-px grid, so 6 px keep a patch over its own target.
    """
    shift = torch.randint(-6, 7, (2,)).tolist()
    pixels = torch.roll(pixels_BRHW, shift, (2, 3)).float() / 255
    pixels = (pixels - 0.5) * (1 + 0.3 * (torch.rand(len(pixels), 1, 1, 1) - 0.5)) + 0.5
    pixels = (pixels * (1 + 0.3 * (torch.rand(len(pixels), 1, 1, 1) - 0.5))).clamp(0, 1)
    return _standardise(pixels)


def normalize(pixels_BRHW: torch.Tensor) -> torch.Tensor:
    """CLIP normalisation alone; uint8 in, float32 out."""
    return _standardise(pixels_BRHW.float() / 255)


def _standardise(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


def thumbnails(pixels: torch.Tensor) -> torch.Tensor:
    """The 4 x 4 means of each patch, [B, 64, 48]."""
    small = functional.avg_pool2d(pixels, 4)
    return functional.unfold(small, 4, stride=4).transpose(1, 2)


def scale_loss(h_BPD: torch.Tensor) -> torch.Tensor:
    """Mean over channels of (mean)^2 + (log std)^2."""
    flat = h_BPD.float().flatten(0, 1)
    return flat.mean(0).square().mean() + flat.std(0).clamp(min=1e-4).log().square().mean()


def losses(tower: CLIPVisionModel, heads: Heads, data: Data, step: int) -> dict[str, torch.Tensor]:
    """One batch: WHOLE_PICTURES of view 0, then CROPPED_PICTURES of other views."""
    num = len(data.targets)
    rows = torch.randint(num, (WHOLE_PICTURES + CROPPED_PICTURES,))
    views = torch.randint(1, NUM_VIEWS, (len(rows),))
    views[:WHOLE_PICTURES] = 0
    pixels = augment(torch.from_numpy(data.pixels[rows.numpy(), views.numpy()]))
    target = torch.from_numpy(data.targets[rows.numpy(), views.numpy()]).float()
    thumbnail = thumbnails(pixels)
    keep = None
    if step < HALF_PATCHES_UNTIL * STEPS:
        keep = torch.rand(len(rows), 64).argsort(1)[:, :32]
        target = target.gather(1, keep[..., None].expand(-1, -1, NUM_COMPONENTS))
        thumbnail = thumbnail.gather(1, keep[..., None].expand(-1, -1, 48))
    hidden, last = encode(tower, pixels, keep)
    h_BPD, whole, labels = hidden[:, 1:], rows[:WHOLE_PICTURES], data.labels
    mean_BD = h_BPD[:WHOLE_PICTURES].mean(1)
    words_BW = labels.words_IW[whole]
    return {
        "distil": functional.smooth_l1_loss(heads.distil(h_BPD).float(), target),
        "pixels": functional.mse_loss(heads.pixels(h_BPD).float(), thumbnail),
        "words": -(words_BW * heads.words(mean_BD).float().log_softmax(1)).sum(1).mean(),
        "answers": heads.answer_loss(mean_BD, labels.answers_IQ[whole]),
        "contrast": heads.contrast_loss(
            tower.post_layernorm(last[:WHOLE_PICTURES, 0]), words_BW, labels.caption_I[whole]
        ),
        "scale": scale_loss(h_BPD),
    }


@dataclass(frozen=True)
class Data:
    """The training items' pictures [I, V, 3, 128, 128], the teacher's targets [I, V, 64, 192] and the labels."""

    pixels: np.ndarray
    targets: np.ndarray
    labels: Labels


def read_data(work: Path) -> Data:
    """Training items only."""
    items, rows = taught_items(work, "train")
    assert all(item.split == "train" for item in items)
    pixels = np.stack([all_pixels(items, CONFIG.image_size, view) for view in range(NUM_VIEWS)], 1)
    return Data(pixels, np.load(work / "targets_train.npy")[rows], read_labels(items))


def train_tower(work: Path) -> None:
    """AdamW (0.9, 0.98), weight decay 0.05, linear warm-up and decay; saves every 250 steps and at the end."""
    torch.manual_seed(SEED)
    data = read_data(work)
    tower = CLIPVisionModel(CONFIG)
    initialize(tower)
    heads = Heads(data.labels)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, betas=(0.9, 0.98), weight_decay=0.05)
    print(
        f"{len(data.pixels)} pictures, {len(data.labels.num_answers)} questions, {data.labels.words_IW.shape[1]} words"
    )
    began, sums = time.monotonic(), collections.Counter()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1.0, (step + 1) / 100) * (1 - 0.98 * step / STEPS)
        with torch.autocast("cpu", torch.bfloat16):
            parts = losses(tower, heads, data, step)
        sum(WEIGHTS[name] * value for name, value in parts.items()).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        sums.update({name: value.item() for name, value in parts.items()})
        if (step + 1) % 50 == 0:
            shown = ", ".join(f"{name} {value / 50:.3f}" for name, value in sums.items())
            print(step + 1, shown, f"{time.monotonic() - began:.0f} s", flush=True)
            sums.clear()
        if (step + 1) % 250 == 0:
            tower.save_pretrained(work / "vision_tower")
    tower.save_pretrained(work / "vision_tower")
    figures = {"stage": "vision tower", "steps": STEPS, "seconds": round(time.monotonic() - began)}
    with (work / "figures.jsonl").open("a") as file:
        file.write(json.dumps(figures) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train_tower(arguments.work)


if __name__ == "__main__":
    main()
