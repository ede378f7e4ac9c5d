"""Every place that leans on another library's private or moving name, and what it counts on there.

A name with an underscore may go with any release. So may a few public ones, which other projects have renamed before:
they stand here with what we count on, so that a release that moves one fails here, and not by a silent wrong result.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama import modeling_llama

from llava_moe import kv_cache
from llava_moe.adapters.core.gated_mlp import is_gated_mlp

PACKAGE = Path(__file__).resolve().parent.parent / "llava_moe"

PRIVATE = {
    # DeepSpeed's tie between parameters and AdamW's tensors; tests/distributed/test_divided_state.py holds it.
    "train.divided_state": {"_lazy_init_hp_params_optimizer_state"},
    # Python's own: where another thread is.
    "train.heartbeats": {"_current_frames"},
    "adapters.core.backward_pass": {"_C", "_current_graph_task_id"},
    "adapters.core.gated_mlp": {"_forward_hooks", "_forward_pre_hooks"},
    "adapters.core.wide_linear": {
        *("_backward_hooks", "_backward_pre_hooks", "_forward_hooks", "_forward_pre_hooks"),
        *("_is_view", "_version"),
    },
    # How Hydra writes a value of its grammar; what comes back is held by tests/commands/test_compare_grid.py.
    "commands.compare_axes": {"_get_value_element_as_str"},
    # Hydra's own completion of keys; its matches are held by tests/commands/test_completion.py, in real shells.
    "commands.completion": {"_get_matches"},
    "config.hydra_compose": {"hydra._internal.utils", "_actions"},
    "config.hydra_settings": {"hydra._internal.config_loader_impl", "hydra._internal.hydra"},
    # A file of sources as a member of the group data; what it reads is held by tests/commands/test_own_mixtures.py.
    "config.own_mixtures": {"_get_header_dict", "_normalize_file_name", "hydra._internal.config_repository"},
    "data.ordered_prefetch": {"_shutdown_workers"},
    # lmms-eval's own hook for models; its copy is held by tests/lmms_eval_plugin.
    "lmms_eval_plugin.model": {"_resolve_system_prompt"},
    "model.pretrained": {"_from_config"},
    # Operations on lists of tensors, of which torch's optimizers are made.
    "train.engine": {"_foreach_add_", "_foreach_copy_"},
    "plan.fake_tensors": {
        *("torch._subclasses.fake_tensor", "torch.utils._python_dispatch", "torch.utils._pytree"),
        *("_cdata", "_local_scalar_dense", "_overloadpacket"),
        *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"),
    },
    "plan.dummy_rows": {"torch._subclasses.fake_tensor"},
}


DOCUMENTED = {"_asdict", "_fields", "_make", "_replace", "_exit"}
"""Public, for all their underscores: of named tuples, and ``os._exit``."""


def private_names(tree: ast.Module) -> set[str]:
    """Names with a leading underscore that ``tree`` takes from elsewhere: imports, attributes that it never sets."""
    nodes = list(ast.walk(tree))
    set_here = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    set_here |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    set_here |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("llava_moe"):
            found |= {node.module} if "._" in node.module else set()
            found |= {alias.name for alias in node.names if alias.name.startswith("_")}
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
            found |= {node.attr} - set_here
    return found - DOCUMENTED


def test_every_private_name_of_another_library_is_listed() -> None:
    found = defaultdict(set)
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    methods: defaultdict[Path, set[str]] = defaultdict(set)  # a class may inherit its neighbour's
    for path, tree in trees.items():
        methods[path.parent] |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for path, tree in trees.items():
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if names := private_names(tree) - methods[path.parent]:
            found[module] = names
    assert dict(found) == PRIVATE


def _llama() -> LlamaForCausalLM:
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, **sizes))


def _cache_goes_round() -> None:
    """A decoder takes and returns its cache by a name that ``kv_cache`` reads, and hands it to its layers by one."""
    model, seen = _llama().eval(), {}
    ids = torch.ones(1, 3, dtype=torch.int64)
    layer = model.model.layers[0]
    layer.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    cache = kv_cache.returned_cache(model(input_ids=ids, use_cache=True))
    assert isinstance(cache, DynamicCache) and cache.get_seq_length() == 3
    model(input_ids=ids[:, :1], **{kv_cache.cache_name(type(model).forward): cache})
    assert kv_cache.find_cache(seen) is not None and kv_cache.cached_length(seen) == 4


def _llava_takes_a_cache() -> None:
    kv_cache.cache_name(LlavaForConditionalGeneration.forward)
    assert isinstance(BaseModelOutputWithPast(last_hidden_state=torch.ones(1)), dict)


def _attention_is_handed_its_rotary_embeddings() -> None:
    """``ForwardCallHistory`` tells calls apart by them."""
    assert "position_embeddings" in inspect.signature(modeling_llama.LlamaAttention.forward).parameters


def _checkpointing_flag() -> None:
    """``ExactUnit`` reads and sets the flag on layers."""
    assert _llama().model.layers[0].gradient_checkpointing is False


def _gated_mlp_is_the_product_that_is_recomputed() -> None:
    assert is_gated_mlp(_llama().model.layers[0].mlp)


def _packed_mask_is_built_from_positions() -> None:
    """Packed rows are masked by positions alone where no cache is asked for; see ``model/attention.py``."""
    masks = importlib.import_module("transformers.masking_utils")
    assert callable(masks.sdpa_mask) and callable(masks.create_causal_mask)
    sdpa = importlib.import_module("transformers.integrations.sdpa_attention")
    assert callable(sdpa.repeat_kv) and callable(sdpa.sdpa_attention_forward)


def _pil_image_processor() -> None:
    importlib.import_module("transformers.models.llava.image_processing_pil_llava").LlavaImageProcessorPil()


def _fast_tokenizer_backend() -> None:
    """Offsets are read from the backend itself."""
    base = importlib.import_module("transformers").PreTrainedTokenizerFast
    assert isinstance(vars(base)["backend_tokenizer"], property) and callable(Tokenizer.encode_batch)


def _deepspeed_compatible_ops() -> None:
    """A flag there keeps DeepSpeed from compiling a shared-memory backend on a machine without GPU."""
    ops = pytest.importorskip("deepspeed").ops
    assert "deepspeed_shm_comm" in ops.__compatible_ops__


def _models_without_first_weights() -> None:
    """A base that is put together in memory skips the start that its checkpoint overwrites."""
    assert callable(importlib.import_module("transformers.initialization").no_init_weights)


def _hooks_of_a_module() -> None:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    assert not any(getattr(nn.Linear(1, 1), name) for name in hooks)


def _graph_task() -> None:
    """-1 outside a backward pass, another number within one: how recomputation is told from a first pass."""
    seen: list[int] = []
    x = torch.ones(1, requires_grad=True)
    y = x * 2
    y.register_hook(lambda _: seen.append(torch._C._current_graph_task_id()))
    assert torch._C._current_graph_task_id() == -1
    y.backward()
    assert seen and seen[0] != -1


MOVING: list[Callable[[], Any]] = [
    _cache_goes_round,
    _llava_takes_a_cache,
    _attention_is_handed_its_rotary_embeddings,
    _checkpointing_flag,
    _gated_mlp_is_the_product_that_is_recomputed,
    _packed_mask_is_built_from_positions,
    _pil_image_processor,
    _fast_tokenizer_backend,
    _deepspeed_compatible_ops,
    _models_without_first_weights,
    _hooks_of_a_module,
    _graph_task,
]


@pytest.mark.parametrize("counted_on", MOVING, ids=lambda check: check.__name__.strip("_"))
def test_what_is_counted_on_is_there(counted_on: Callable[[], Any]) -> None:
    counted_on()
