"""Give the shipped base its version: `python -m tools.demo_assets.base.version NUMBER`, after `export`.

Writes `llava_moe/demo/base/version.json` from the files that lie there. Runs are told apart by it: a number is given
once, and other files need a higher one.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch

from llava_moe.embedded_base import (
    PART_FILES,
    VERSION_FILE,
    base_folder,
    fingerprint_part,
    fingerprint_whole,
    read_version,
)
from llava_moe.model import FromParts, build_base
from llava_moe.model.fingerprint import base_fingerprint

BASE = FromParts("embedded:vision_tower", "embedded:language_model")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def weights_now() -> dict[str, str]:
    """Precision -> fingerprint of the weights, which is all that runs recorded before there was a version."""
    return {name: base_fingerprint(build_base(BASE, dtype).model) for name, dtype in PRECISIONS.items()}


def versioned(version: int) -> dict[str, object]:
    """The content of `version.json`; exits where the number was given to other files."""
    parts = {name: fingerprint_part(name) for name in PART_FILES}
    whole, earlier = fingerprint_whole(parts), []
    if (base_folder() / VERSION_FILE).is_file():
        before = read_version()
        if before.fingerprint != whole:
            if version <= before.version:
                sys.exit(f"{VERSION_FILE} gives {before.version} to other files: give {before.version + 1}")
            earlier = [before]
        elif version != before.version:
            sys.exit(f"these files are {before} already")
        earlier += before.earlier
    return {
        "version": version,
        "fingerprint": whole,
        "parts": parts,
        "weights": weights_now(),
        "earlier": [
            {"version": one.version, "fingerprint": one.fingerprint, "weights": dict(one.weights)} for one in earlier
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", type=int)
    told = versioned(parser.parse_args().version)
    (base_folder() / VERSION_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    print(f"embedded base {told['version']} ({str(told['fingerprint'])[:8]})")


if __name__ == "__main__":
    main()
