"""One file of kept features: written whole or not at all, and judged by its checksums when it is read.

It is a safetensors file, so that nothing in it is ever run. Its tensors, for n images' features and m images met:

| name | type, shape | holds |
|---|---|---|
| ``features`` | dtype of the run [n, T, W] | what the projector reads |
| ``keys`` | uint8 [n, 32] | SHA-256 of the pixels that they are of |
| ``checks`` | int64 [n] | CRC-32 of each key and its features |
| ``images``, ``pixels`` | uint8 [m, 32] | key of an encoded image, and SHA-256 of the pixels that it became |
| ``dark`` | float64 [m, 2] | lowest and highest value where it came out nearly black, else NaN |

Its metadata hold ``facts``, SHA-256 over all tensors but ``features``.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from llava_moe.data.features.shape import FeatureShape
from llava_moe.data.features.store import Seen
from llava_moe.files.regular_file import open_regular
from llava_moe.text.structured_text import StructuredTextError, parse_json

SUFFIX = ".safetensors"
_FACTS = ("keys", "checks", "images", "pixels", "dark")
_TYPES: dict[str, Any] = {"U8": np.uint8, "I64": np.int64, "F64": np.float64}
_FEATURE_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_LONGEST_HEADER = 1 << 20


class DamagedShardError(Exception):
    """A file that is not what was written; its text says how."""


@dataclass(frozen=True)
class Place:
    """Where the features of an image lie: bytes from the file's beginning, and their checksum."""

    path: Path
    offset: int
    check: int


@dataclass(frozen=True)
class Shard:
    """What a file holds: pixels to where their features lie, and images to what they became."""

    places: Mapping[bytes, Place]
    seen: Mapping[bytes, Seen]


def check_of(pixels: bytes, features: Any) -> int:
    """CRC-32 over a key and the bytes of its features."""
    return zlib.crc32(features, zlib.crc32(pixels))


def bytes_of(features_TW: torch.Tensor) -> np.ndarray:
    """The bytes of contiguous features, in place."""
    return features_TW.reshape(-1).view(torch.uint8).numpy()


def write_shard(
    path: Path, shape: FeatureShape, features: Mapping[bytes, torch.Tensor], seen: Mapping[bytes, Seen]
) -> None:
    """Write a file; it appears whole or not at all.

    Raises:
        OSError: the folder cannot be written, or its disk is full.
    """
    stacked = torch.empty(len(features), shape.num_vectors, shape.width, dtype=shape.dtype)
    for place, one in enumerate(features.values()):
        stacked[place].copy_(one)
    checks = [check_of(key, bytes_of(one)) for key, one in zip(features, stacked, strict=True)]
    facts = {
        "keys": _digests(list(features)),
        "checks": np.asarray(checks, dtype=np.int64),
        "images": _digests(list(seen)),
        "pixels": _digests([one.pixels for one in seen.values()]),
        "dark": np.asarray([one.dark or (math.nan, math.nan) for one in seen.values()], np.float64).reshape(-1, 2),
    }
    tensors = {name: torch.from_numpy(values) for name, values in facts.items()}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        save_file({"features": stacked, **tensors}, part, metadata={"facts": _digest(facts)})
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read_shard(path: Path, shape: FeatureShape) -> Shard:
    """What a file says of itself; its features are not read yet.

    Raises:
        DamagedShardError: it is cut short, was altered, or is of another shape.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise DamagedShardError("it is cut short")
        try:
            header = parse_json(file.read(length))
            metadata, start = header.pop("__metadata__"), 8 + length
            spans = {name: _span(name, tensor, shape) for name, tensor in header.items()}
            if start + max(end for _, end, _ in spans.values()) != size:
                raise DamagedShardError("it is cut short")
            facts = {}
            for name in _FACTS:
                begin, end, values = spans[name]
                file.seek(start + begin)
                facts[name] = np.frombuffer(file.read(end - begin), dtype=values.dtype).reshape(values.shape)
            if metadata["facts"] != _digest(facts):
                raise DamagedShardError("its checksum is another")
            first = start + spans["features"][0]
        except (StructuredTextError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedShardError(f"its header cannot be read ({type(error).__name__})") from error
    keys = [row.tobytes() for row in facts["keys"]]
    places = {
        key: Place(path, first + number * shape.num_bytes, int(check))
        for number, (key, check) in enumerate(zip(keys, facts["checks"].tolist(), strict=True))
    }
    met = zip(facts["images"], facts["pixels"], facts["dark"].tolist(), strict=True)
    return Shard(places, {image.tobytes(): Seen(pixels.tobytes(), _dark(values)) for image, pixels, values in met})


def read_features(pixels: bytes, place: Place, into_TW: torch.Tensor) -> bool:
    """Read features into a contiguous tensor; whether they are what was written.

    Raises:
        OSError: the file cannot be read.
    """
    view = bytes_of(into_TW)
    with open_regular(place.path) as file:
        file.seek(place.offset)
        content = file.read(len(view))
    if len(content) != len(view) or check_of(pixels, content) != place.check:
        return False
    view[:] = np.frombuffer(content, dtype=np.uint8)
    return True


def _span(name: str, tensor: Mapping[str, Any], shape: FeatureShape) -> tuple[int, int, np.ndarray]:
    """Where a tensor begins and ends behind the header, and an array of its type and shape that holds nothing."""
    begin, end = (int(offset) for offset in tensor["data_offsets"])
    sizes = tuple(int(size) for size in tensor["shape"])
    if name == "features":
        fits = tensor["dtype"] == _FEATURE_TYPES[shape.dtype] and sizes[1:] == (shape.num_vectors, shape.width)
        values, num_bytes = np.empty(0, np.uint8), sizes[0] * shape.num_bytes
    else:
        kind = _TYPES[tensor["dtype"]]
        values = np.broadcast_to(np.zeros((), kind), sizes)
        fits, num_bytes = True, values.size * values.itemsize
    if not fits or begin < 0 or end - begin != num_bytes:
        raise DamagedShardError(f"its {name} are of another shape")
    return begin, end, values


def _digests(keys: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 32).copy()


def _digest(facts: Mapping[str, np.ndarray]) -> str:
    digest = sha256()
    for name in _FACTS:
        digest.update(f"{name}|{facts[name].shape}|".encode())
        digest.update(facts[name].tobytes())
    return digest.hexdigest()


def _dark(values: Sequence[float]) -> tuple[float, float] | None:
    return None if math.isnan(values[0]) else (values[0], values[1])
