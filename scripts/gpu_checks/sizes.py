"""The two sizes at which everything runs: that of a GPU, and one that a CPU goes through in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llava_moe.adapters import LlavaMole, Lora, MixLora
from llava_moe.assemble import ADAPTERS, ARCHITECTURES, from_target
from llava_moe.model import FromShape
from llava_moe.plan.dummy_rows import Row
from llava_moe.text.structured_text import parse_yaml
from scripts.gpu_checks.machine import REPOSITORY

CHECKED_VISION = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
                  "image_size": 112, "patch_size": 14, "projection_dim": 256}  # fmt: skip
CHECKED_TEXT = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4, "num_attention_heads": 16,
                "num_key_value_heads": 16, "max_position_embeddings": 4096, "tie_word_embeddings": False}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What runs, and how long it may take.

    Attributes:
        checked: the model of the checks, and ``checked_row`` its row.
        stepped: the model whose step is measured, and ``stepped_row`` its row.
        num_timed: steps of which the median is told, after two that warm up.
        check_seconds, compile_seconds, step_seconds: what one check, one compiled check and one adapter's step take at
            most; each is skipped where less is left.
    """

    checked: FromShape
    checked_row: Row
    stepped: FromShape
    stepped_row: Row
    num_timed: int
    check_seconds: float
    compile_seconds: float
    step_seconds: float


def full_sizes() -> Sizes:
    """Checks on 60 million parameters, steps of Vicuna-7B with CLIP-L/336 on rows of ten examples of an image."""
    return Sizes(
        checked=FromShape(vision=CHECKED_VISION, text=CHECKED_TEXT),
        checked_row=Row((331, 262, 210, 97, 512), (1, 1, 2, 0, 1), (60, 31, 44, 25, 110)),
        stepped=_shape("random_7b"),
        stepped_row=Row((820,) * 10, (1,) * 10, (73,) * 10),
        num_timed=7,
        check_seconds=15,
        compile_seconds=75,
        step_seconds=75,
    )


def tiny_sizes() -> Sizes:
    """The same on the tests' tiny model, with the fewest layers of each tower."""
    tiny = _shape("tiny")
    tiny = replace(tiny, vision=tiny.vision | {"num_hidden_layers": 2}, text=tiny.text | {"num_hidden_layers": 1})
    return Sizes(
        checked=tiny,
        checked_row=Row((40, 33, 47, 9), (1, 1, 2, 0), (9, 8, 7, 4)),
        stepped=tiny,
        stepped_row=Row((40, 33), (1, 1), (9, 8)),
        num_timed=1,
        check_seconds=1,
        compile_seconds=1,
        step_seconds=1,
    )


def shipped_adapters() -> dict[str, Any]:
    """LoRA, LLaVA-MoLE (r=32, K=3) and MixLoRA as ``configs/adapter`` has them."""
    return {name: from_target(_yaml("adapter", name), ADAPTERS) for name in ("lora", "llava_mole", "mixlora")}


def checked_adapters() -> dict[str, Lora | LlavaMole | MixLora]:
    """The same without dropout, whose masks depend on how examples lie in rows."""
    return {name: replace(one, lora_dropout=0.0) for name, one in shipped_adapters().items()}


def _shape(name: str) -> FromShape:
    shape: FromShape = from_target(_yaml("model", name)["architecture"], ARCHITECTURES, "model.architecture")
    return shape


def _yaml(group: str, name: str) -> Any:
    return parse_yaml((REPOSITORY / "configs" / group / f"{name}.yaml").read_bytes())
