"""An adapter's tensors by the names of its files: read out, loaded, saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from llava_moe.adapters.core.adapter_parameters import AdapterParameters
from llava_moe.adapters.core.method import Injection, Method
from llava_moe.adapters.core.target_model import TargetModel
from llava_moe.errors import UserError


class AdapterState:
    """The tensors of an adapter, one pair for each expert where the model holds one wide pair.

    Args:
        config: the method, which writes the files.
        target_model: the model.
        injection: what the method put on it.
        parameters: those that it brought.
    """

    def __init__(
        self, config: Method, target_model: TargetModel, injection: Injection, parameters: AdapterParameters
    ) -> None:
        self._config, self._target_model, self._injection, self._parameters = (
            config,
            target_model,
            injection,
            parameters,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The live tensors (views) under readable names, one per expert."""
        return self._split(self._live())

    def load_state_dict(self, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
        """Copy ``tensors``, named as in :meth:`state_dict`, into the adapter, cast to its dtypes.

        Raises:
            UserError: a tensor has another shape, or (``strict``) one is missing or unexpected.
        """
        expected = self._shapes()
        faults = [f"{fault}: {_some(names)}" for fault, names in _faults(expected, tensors, strict).items() if names]
        if faults:
            raise UserError(f"the tensors do not fit this adapter and model: {'; '.join(faults)}")
        live = self.state_dict()
        with torch.no_grad():
            for name in expected.keys() & tensors.keys():
                live[name].copy_(tensors[name])

    def save(self, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapter's folder, with ``tensors`` in place of the live ones of the same parameter names.

        Raises:
            ValueError: ``tensors`` has a name that is not a parameter of the adapter.
        """
        live = self._live()
        strangers = sorted((tensors or {}).keys() - live.keys())
        if strangers:
            raise ValueError(f"not parameters of this adapter: {_some(strangers)}")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._config.write(folder, self._target_model, self._split(live | dict(tensors or {})))

    def _live(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._parameters.named().items()}

    def _split(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        taken: set[str] = set()
        for name, wide in self._injection.linears.items():
            pair = (f"{name}.lora_A", f"{name}.lora_B")
            for part, tensor in wide.split(tensors[pair[0]], tensors[pair[1]]).items():
                named[f"{self._target_model.short(name)}.{part}"] = tensor
            taken.update(pair)
        return named | {self._target_model.short(name): tensor for name, tensor in tensors.items() if name not in taken}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()}
        for name, wide in self._injection.linears.items():
            shapes |= {
                f"{self._target_model.short(name)}.{part}": shape for part, shape in wide.expert_shapes().items()
            }
        return shapes


def _faults(
    expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], is_strict: bool
) -> dict[str, list[str]]:
    """What does not fit, by kind of fault."""
    misfits = [
        f"{name} is {tuple(tensors[name].shape)} but must be {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if not is_strict:
        return {"wrong shape": misfits}
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    return {"wrong shape": misfits, "missing": missing, "unexpected": unexpected}


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
