"""Adapters on any Hugging Face decoder: attach one, train it, read what it decided, save it, take it off."""

from llava_moe.adapters.adapter import Attached, attach
from llava_moe.adapters.balance import ExpertTotals
from llava_moe.adapters.fitting import Method
from llava_moe.adapters.llava_mole import LlavaMole
from llava_moe.adapters.load import load_adapter, load_adapter_with_modules
from llava_moe.adapters.lora import Lora
from llava_moe.adapters.mixlora import MixLora
from llava_moe.adapters.mole import Mole, drop_experts, mask_experts
from llava_moe.adapters.no_adapter import NoAdapter
from llava_moe.adapters.router import Routing

__all__ = [
    "Attached",
    "ExpertTotals",
    "LlavaMole",
    "Lora",
    "Method",
    "MixLora",
    "Mole",
    "NoAdapter",
    "Routing",
    "attach",
    "drop_experts",
    "load_adapter",
    "load_adapter_with_modules",
    "mask_experts",
]
