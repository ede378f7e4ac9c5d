"""Which parameters of a model are an adapter's, and the model's tensors without them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from llava_moe.adapters.core.method import Injection
from llava_moe.adapters.core.target_model import TargetModel


class AdapterParameters:
    """The parameters that ``injection`` brought into the model of ``target_model``."""

    def __init__(self, target_model: TargetModel, injection: Injection) -> None:
        self._target_model, self._injection = target_model, injection

    def named(self) -> dict[str, nn.Parameter]:
        """By their name in ``model.named_parameters()``, in its order."""
        mine = {id(parameter) for parameter in self._own()}
        return {name: tensor for name, tensor in self._target_model.model.named_parameters() if id(tensor) in mine}

    def trainable(self) -> dict[str, nn.Parameter]:
        """Those of :meth:`named` that train."""
        return {name: tensor for name, tensor in self.named().items() if tensor.requires_grad}

    @property
    def num_elements(self) -> int:
        """How many numbers they have."""
        return sum(parameter.numel() for parameter in self._own())

    def base_state_dict(self) -> dict[str, Tensor]:
        """The model's tensors as if no adapter were there, under the names that Hugging Face gives them."""
        mine = self.named()
        inner = {f"{name}.base.": f"{name}." for name in self._injection.linears}
        tensors = {}
        for name, tensor in self._target_model.model.state_dict().items():
            if name not in mine:
                parent = name.rpartition(".")[0] + "."
                tensors[name.replace(parent, inner[parent]) if parent in inner else name] = tensor
        return tensors

    def _own(self) -> Iterator[nn.Parameter]:
        for wide in self._injection.linears.values():
            inherited = {id(parameter) for parameter in wide.base.parameters()}
            yield from (parameter for parameter in wide.parameters() if id(parameter) not in inherited)
        for module in [*self._injection.routers.values(), *self._injection.modules.values()]:
            yield from module.parameters()
