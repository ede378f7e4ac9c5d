"""Adapters' folders, ours and PEFT's: settings and tensors changed, then put on a model that runs a few tokens."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.case import Attempt
from tests.fuzz.texts import FORBIDDEN
from tests.fuzz.tree import change_files, copy_tree
from tests.tiny_models import tiny_llama


class Adapters:
    """One folder of each method, and one as PEFT itself writes it, with every key that it knows."""

    name = "adapters"

    def prepare(self, folder: Path) -> None:
        from llava_moe.adapters import LlavaMole, Lora, MixLora, Mole, attach

        attach(tiny_llama(), Lora(r=2)).save(folder / "lora")
        attach(tiny_llama(), Lora(r=3)).save(folder / "wide")
        experts = (str(folder / "lora"), str(folder / "wide"))
        configs: dict[str, Any] = {"llava_mole": LlavaMole(r=2), "mixlora": MixLora(), "mole": Mole(experts)}
        for name, config in configs.items():
            attach(tiny_llama(), config).save(folder / name)
        _write_peft(folder / "peft")
        self._good = sorted(path for path in folder.iterdir() if path.is_dir())
        self._model = tiny_llama()

    def draw(self, random: Random, folder: Path) -> Attempt:
        source = random.choice(self._good)
        folder.mkdir()
        files = copy_tree(source, folder / "adapter")
        outside = folder / "outside.json"
        outside.write_bytes((source / "adapter_config.json").read_bytes())
        told = change_files(random, files, outside)
        with_modules = random.random() < 0.3
        about = f"load_adapter{'_with_modules' if with_modules else ''}: {source.name} after {told}"
        may_not_read = tuple(map(Path, FORBIDDEN))
        return Attempt(lambda: self._load(folder / "adapter", with_modules), about, (), may_not_read)

    def _load(self, folder: Path, with_modules: bool) -> int:
        import torch

        from llava_moe.adapters.load import load_adapter, load_adapter_with_modules
        from llava_moe.errors import UserError

        model: Any = self._model
        try:
            (load_adapter_with_modules if with_modules else load_adapter)(model, folder)
        except UserError:
            return 2
        with torch.no_grad():
            model(torch.arange(1, 6)[None])
        return 0


def _write_peft(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj", "down_proj"],
        rank_pattern={"q_proj": 3},
        alpha_pattern={"v_proj": 5},
        modules_to_save=["lm_head"],
        task_type="CAUSAL_LM",
    )
    get_peft_model(tiny_llama(), config).save_pretrained(folder)
