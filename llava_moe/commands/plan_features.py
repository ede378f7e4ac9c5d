"""What ``model.cache_features`` will keep, told before anything is computed."""

from __future__ import annotations

from llava_moe.assemble import DTYPES, model_spec_of
from llava_moe.data.features.wanted import num_image_uses, wanted_records
from llava_moe.data.stream import StepStream
from llava_moe.model import read_base
from llava_moe.plan.terminal import size
from llava_moe.run_config import RunConfig
from llava_moe.runs.stage_features import cache_of, feature_shape


def features_note(config: RunConfig, stream: StepStream, num_steps: int) -> str | None:
    """A line on the features that a whole run keeps; None where it keeps none."""
    kind = cache_of(config)
    if kind == "off":
        return None
    base = read_base(model_spec_of(config).architecture)
    shape = feature_shape(base, DTYPES[config.train.dtype])
    num_images = wanted_records(stream, num_steps).num_different
    where = "in the memory of a process, beside the above" if kind == "memory" else "in the cache folder"
    return (
        f"model.cache_features={kind}: features of at most {num_images:,} images, {shape.num_vectors:,} x "
        f"{shape.width:,} numbers each, {size(num_images * shape.num_bytes)} {where}; the vision tower runs once for "
        f"each, where it would run about {num_image_uses(stream, num_steps):,} times"
    )
