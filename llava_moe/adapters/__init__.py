"""Adapters on any Hugging Face decoder: attach one, train it, read what it decided, save it, take it off."""

from llava_moe.adapters.core.attached import Attached, attach
from llava_moe.adapters.core.load_balance import ExpertTotals
from llava_moe.adapters.core.method import Method
from llava_moe.adapters.core.router import Routing
from llava_moe.adapters.load import load_adapter, load_adapter_with_modules
from llava_moe.adapters.methods.llava_mole import LlavaMole
from llava_moe.adapters.methods.lora import Lora
from llava_moe.adapters.methods.mixlora import MixLora
from llava_moe.adapters.methods.mole import Mole, drop_experts, mask_experts
from llava_moe.adapters.methods.no_adapter import NoAdapter

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
