"""What experts stand on: the parts of the base that their runs trained, which must be the same for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from llava_moe.adapters.methods.mole_experts import adapter_folder
from llava_moe.assemble import lineage, read_config
from llava_moe.errors import UserError

FILES = ("projector.safetensors", "model/base.safetensors")


def run_of(expert: str) -> Path | None:
    """The run whose newest checkpoint an expert is; ``None`` for an adapter's folder from elsewhere."""
    folder = adapter_folder(Path(expert)).absolute()
    run = folder.parent.parent.parent
    is_checkpoints = folder.name == "adapter" and folder.parent.parent.name == "checkpoints"
    return run if is_checkpoints and (run / "config.yaml").is_file() else None


def common_start(experts: Sequence[str]) -> Path | None:
    """The run that holds the base parts on which all experts were trained; ``None`` where none has trained any.

    Raises:
        UserError: two experts were trained on base parts that differ.
    """
    runs = {expert: run for expert in experts if (run := run_of(expert)) is not None}
    chains = {expert: _trained_parts(expert) for expert in runs}
    if len({tuple(chain) for chain in chains.values()}) > 1:
        digests = {expert: _digests(chain) for expert, chain in chains.items()}
        (first, parts), *others = digests.items()
        for other, theirs in others:
            differing = sorted(name for name in parts.keys() | theirs.keys() if parts.get(name) != theirs.get(name))
            if differing:
                is_projector = all("projector" in name for name in differing)
                what = "projectors" if is_projector else f"base parts ({differing[0]})"
                raise UserError(
                    f"experts: {first} and {other} were trained with {what} of their own, and a composition has one: "
                    "name the run whose parts to take with init_from=, or train the experts from one run with the "
                    "projector frozen (init_from=RUN '~stage.learning_rates.projector')"
                )
    newest = next((chain[0] for chain in chains.values() if chain), None)
    return None if newest is None else _run_holding(newest)


def refuse_other_models(experts: Sequence[str], model: Mapping[str, Any]) -> None:
    """Refuse experts whose runs were made with another base than ``model`` describes.

    Raises:
        UserError: naming the first of them.
    """
    for expert in experts:
        run = run_of(expert)
        theirs = None if run is None else read_config(run).model.architecture
        if theirs is not None and theirs != model["architecture"]:
            raise UserError(
                f"experts: {expert} was trained on {_say(theirs)}, and this composes on {_say(model['architecture'])}: "
                "give the scale= or model= that it was trained with"
            )


def _trained_parts(expert: str) -> list[Path]:
    """Files of trained base parts behind an expert, the newest first."""
    chain = lineage(adapter_folder(Path(expert)).absolute().parent)
    return [path.resolve() for checkpoint in chain for name in FILES if (path := checkpoint / name).is_file()]


def _digests(chain: Sequence[Path]) -> dict[str, str]:
    """A digest of each tensor that the files leave behind when they are loaded, the oldest first."""
    found: dict[str, str] = {}
    for path in reversed(chain):
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118
                    found[name] = hashlib.sha256(file.get_tensor(name).tobytes()).hexdigest()
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} is damaged ({error}): copy it again, or take another expert") from error
    return found


def _run_holding(path: Path) -> Path:
    """The run to which a file of base parts belongs."""
    return path.parents[2] if path.parent.name != "model" else path.parents[3]


def _say(architecture: Mapping[str, Any]) -> str:
    named = [str(architecture[key]) for key in ("path", "language_model") if architecture.get(key)]
    return ", ".join(named) or str(architecture.get("_target_"))
