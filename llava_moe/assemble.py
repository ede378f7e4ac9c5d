"""Base model + adapter + weights: a new model for training, a run's folder turned back into a model.

The only file where ``model/``, ``adapters/`` and ``data/`` meet below ``commands/``.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_moe.adapters import (
    Attached,
    Lora,
    Mole,
    NoAdapter,
    attach,
    load_adapter,
    load_adapter_with_modules,
)
from llava_moe.adapters.field_types import first_misfit
from llava_moe.adapters.load import METHODS
from llava_moe.adapters.own_format import read_settings, refuse_nonfinite
from llava_moe.data.batch import Batch
from llava_moe.data.chat_template import ChatTemplate
from llava_moe.data.encode import Encoder
from llava_moe.data.images import ImageTransform
from llava_moe.data.reading import AS_LLAVA, ImageReading
from llava_moe.data.template import Template, chat_template
from llava_moe.errors import UserError
from llava_moe.model import (
    Architecture,
    AttentionChoice,
    BaseFacts,
    BaseModel,
    FromCheckpoint,
    build_base,
    build_base_without_weights,
    choose_attention,
    packing_arguments,
    read_base,
    vision_config,
)
from llava_moe.model.adapter_record import record_of_adapter, refuse_other_adapter
from llava_moe.model.build import resolve
from llava_moe.model.checkpoint_files import read_chat_template
from llava_moe.model.image_processor import ImageMode, read_image_processor
from llava_moe.model.kinds import TOWERS
from llava_moe.model.recorded_weights import (
    RECORD,
    BaseWeights,
    fingerprint_start,
    refuse_other_base,
    refuse_other_embedded,
    refuse_other_start,
)
from llava_moe.own_files import misfit, read_object
from llava_moe.regular_file import read_regular
from llava_moe.shell_words import as_place, shell
from llava_moe.structured_text import StructuredTextError, parse_yaml
from llava_moe.train.checkpoint import newest_checkpoint, stage_folders

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROJECTOR = "multi_modal_projector"
_ADAPTERS: tuple[type, ...] = (Lora, *METHODS)
ADAPTERS: dict[str, type] = {f"llava_moe.adapters.{one.__name__}": one for one in _ADAPTERS}
ARCHITECTURES: dict[str, type] = {f"llava_moe.model.{one.__name__}": one for one in get_args(Architecture)}


@dataclass(frozen=True)
class Recipe:
    """What it takes to build a model and read data for it.

    Attributes:
        architecture: where the base comes from.
        adapter: the adapter's configuration (``NoAdapter()`` for none).
        dtype: ``fp32``, ``bf16`` or ``fp16`` of the base weights.
        template: prompt format.
        image_mode: ``pad`` (LLaVA-1.5 instruct), ``crop`` (pretrain), or ``resize`` (as SigLIP's own processor does).
        max_length, over_length: longest example in tokens after image expansion, and what happens to longer ones.
        init_from: run whose weights are the start.
        reading: what becomes of images' orientation, transparency and deep values.
    """

    architecture: Architecture
    adapter: Any
    dtype: str
    template: Template
    image_mode: ImageMode
    max_length: int
    over_length: Literal["cut", "drop"]
    attn_implementation: str = "auto"
    init_from: str | None = None
    seed: int = 0
    reading: ImageReading = ImageReading()  # noqa: RUF009


@dataclass(frozen=True)
class Assembled:
    """A model with its adapter attached, and what encodes data for it.

    Attributes:
        weights: names the weights of the base alone, as they were before any training.
        start: fingerprints of what ``init_from`` gave it; empty without one.
        notes: what the user should know of the base, a line each.
    """

    base: BaseModel
    attached: Attached
    encoder: Encoder
    attention: AttentionChoice
    has_adapter: bool
    weights: BaseWeights
    start: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def model(self) -> LlavaForConditionalGeneration:
        return self.base.model

    def inputs_of(self, batch: Batch) -> dict[str, Any]:
        """Forward arguments of one packed row. No attention mask and no cache: either would join its examples."""
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "use_cache": False,
            **packing_arguments(batch.segment_lengths, batch.input_ids.device),
        }
        if batch.pixel_values.shape[0]:
            inputs["pixel_values"] = self.encoder.transform.normalise(batch.pixel_values).to(self.model.dtype)
        return inputs


def new_model(recipe: Recipe, device: torch.device) -> Assembled:
    """Build base and adapter, and load ``init_from``'s weights into them.

    Raises:
        UserError: a checkpoint is missing, or its adapter does not fit the one asked for.
    """
    base = build_base(recipe.architecture, _dtype(recipe.dtype), recipe.seed)
    weights = BaseWeights.of(base.model, recipe.architecture, _dtype(recipe.dtype))
    attention = _set_attention(base, recipe.attn_implementation, device, _dtype(recipe.dtype))
    start = None if recipe.init_from is None else newest_checkpoint(Path(recipe.init_from))
    notes: tuple[str, ...] = ()
    if start is not None:
        notes = refuse_strange_base(start.parent.parent, weights, is_start=True)
        load_lineage(base.model, start)
        refuse_other_adapter(start / "adapter", weights)
    given = {} if start is None else fingerprint_start(base.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        attached = _attach_from(base.model, recipe.adapter, start)
    return replace(_assembled(recipe, base, attached, attention, weights), start=given, notes=notes)


def new_start(checkpoint: Path, recipe: Recipe, device: torch.device) -> Assembled:
    """The model as it was before the first step of the run that a checkpoint is of; in eval mode, on ``device``.

    Args:
        recipe: of that run. Its ``init_from`` is found from any folder, and where both runs were moved.

    Raises:
        UserError: what it was started from is not there, or holds another projector or other base parts by now.
    """
    run, chain = checkpoint.parent.parent, lineage(checkpoint)
    refuse_other_embedded(run, recipe.architecture)
    assembled = new_model(replace(recipe, init_from=str(chain[1]) if len(chain) > 1 else None), device)
    notes = refuse_strange_base(run, assembled.weights)
    if len(chain) > 1:
        # No checkpoint of its own replaces any part.
        refuse_other_start(run / "checkpoints" / "start", chain[1], assembled.start)
    nn.Module.to(assembled.model, device).eval()
    return replace(assembled, notes=notes)


def new_model_without_weights(recipe: Recipe, device: torch.device, place: torch.device | str = "meta") -> Assembled:
    """What :func:`new_model` would build, adapter and all, of tensors that hold nothing: a 7B takes seconds.

    What ``init_from`` would give to the weights is not read, but for an adapter, which must fit the one asked for.

    Args:
        device: where it would train; it decides the attention kernel.
        place: where its tensors stand: ``meta``, or any device under a ``FakeTensorMode``.

    Raises:
        UserError: as :func:`new_model`, weights apart.
    """
    base = build_base_without_weights(recipe.architecture, _dtype(recipe.dtype), place)
    attention = _set_attention(base, recipe.attn_implementation, device, _dtype(recipe.dtype))
    start = None if recipe.init_from is None else newest_checkpoint(Path(recipe.init_from))
    if start is not None:
        refuse_other_embedded(start.parent.parent, recipe.architecture)
    with torch.random.fork_rng(devices=[]):
        attached = _attach_from(base.model, recipe.adapter, start)
    return _assembled(recipe, base, attached, attention, BaseWeights(recipe.architecture, _dtype(recipe.dtype)))


def encoder_of(recipe: Recipe) -> Encoder:
    """The encoder that :func:`new_model` would give, from configurations and tokenizer alone: no weight is read.

    Raises:
        UserError: configurations or the tokenizer are not there, or not of the kind that LLaVA is made of.
    """
    return _encoder(recipe, read_base(recipe.architecture))


def _dtype(name: str) -> torch.dtype:
    dtype = DTYPES.get(name)
    if dtype is None:
        raise UserError(f"train.dtype={name}: choose fp32, bf16 or fp16")
    return dtype


def _set_attention(base: BaseModel, wanted: str, device: torch.device, dtype: torch.dtype) -> AttentionChoice:
    attention = choose_attention(wanted, device, dtype)
    base.model.set_attn_implementation({"text_config": attention.name, "vision_config": "sdpa"})
    return attention


def _assembled(
    recipe: Recipe, base: BaseModel, attached: Attached, attention: AttentionChoice, weights: BaseWeights
) -> Assembled:
    has_adapter = not isinstance(recipe.adapter, NoAdapter)
    return Assembled(base, attached, _encoder(recipe, base), attention, has_adapter, weights)


def _attach_from(model: LlavaForConditionalGeneration, config: Any, start: Path | None) -> Attached:
    """Attach a fresh adapter, or one that starts from the adapter of a checkpoint."""
    if start is None or not (start / "adapter").is_dir():
        if start is not None and _trained_adapter(read_config(start.parent.parent)):
            raise UserError(f"init_from: {start / 'adapter'} is missing, which that run trained: copy the run again")
        return attach(model, config)
    if isinstance(config, NoAdapter):
        raise UserError(f"init_from: {start} has an adapter and adapter=none: keep its adapter, or merge it first")
    if isinstance(config, Mole) and read_settings(start / "adapter").get("method") != config.method:
        # Its experts are LoRAs from folders of their own: of what it starts from it takes the base parts.
        return attach(model, config)
    before = load_adapter(model, start / "adapter")
    tensors = {name: tensor.clone() for name, tensor in before.state_dict().items()}
    theirs = before.config
    before.detach()
    attached = attach(model, config)
    try:
        attached.load_state_dict(tensors)
    except UserError as error:
        raise UserError(
            f"init_from={start}: its adapter is another than the one asked for ({_difference(theirs, config)}): give "
            "the same adapter settings, or start from a run without an adapter"
        ) from error
    return attached


def _trained_adapter(config: Mapping[str, Any]) -> bool:
    """Whether a run with this configuration leaves an adapter in its checkpoints."""
    target = str((config.get("adapter") or {}).get("_target_"))
    return not target.endswith(".NoAdapter") and "adapter" in config["stage"]["learning_rates"]


def _difference(theirs: Any, ours: Any) -> str:
    """Two adapter configurations, where they differ, in words."""
    if type(theirs) is not type(ours):
        return f"{type(theirs).__name__} there, {type(ours).__name__} asked"
    pairs = [(field.name, getattr(theirs, field.name), getattr(ours, field.name)) for field in fields(ours)]
    return ", ".join(f"{name} {there!r} there, {asked!r} asked" for name, there, asked in pairs if there != asked)


def _encoder(recipe: Recipe, base: BaseFacts) -> Encoder:
    transform = ImageTransform(base.image_size, recipe.image_mode, base.image_mean, base.image_std)
    return _encoder_for(base, recipe.template, transform, recipe.max_length, recipe.over_length, recipe.reading)


def _encoder_for(
    base: BaseFacts,
    template: Template | ChatTemplate,
    transform: ImageTransform,
    max_length: int,
    over_length: Literal["cut", "drop"],
    reading: ImageReading,
) -> Encoder:
    try:
        return Encoder(
            tokenizer=base.tokenizer,
            template=template,
            transform=transform,
            image_token_id=base.image_token_id,
            num_image_tokens=base.num_image_tokens,
            max_length=max_length,
            over_length=over_length,
            reading=reading,
        )
    except ValueError as error:
        raise UserError(
            f"the model's tokenizer cannot write LLaVA-1.5's template ({error}): take a checkpoint of its kind, or "
            "give it that tokenizer"
        ) from error


def refuse_strange_base(run: Path, here: BaseWeights, *, is_start: bool = False) -> tuple[str, ...]:
    """Refuse to open a run on another base than the one that it was trained on.

    Args:
        is_start: it is what another is started from, or an expert: the base was named by the other.

    Returns:
        Lines to tell of what cannot be decided.

    Raises:
        UserError: naming both bases.
    """
    trained_in = DTYPES.get(read_config(run)["train"]["dtype"], here.dtype)
    note = refuse_other_base(run, trained_in, here, is_start=is_start)
    return (note,) if note else ()


def load_lineage(model: LlavaForConditionalGeneration, checkpoint: Path) -> None:
    """Load projector and base parts of a checkpoint into a bare model, those of the runs it started from first.

    Raises:
        UserError: a file does not fit, or a run that one was started from is not the one that lies there.
    """
    chain = lineage(checkpoint)
    for number, one in reversed([*enumerate(chain)]):
        if number + 1 < len(chain):
            refuse_other_start(one, chain[number + 1], fingerprint_start(model))
        load_base_parts(model, one)


def load_base_parts(model: LlavaForConditionalGeneration, checkpoint: Path) -> None:
    """Read ``projector.safetensors`` and ``model/base.safetensors`` of a checkpoint into the model, strictly."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for path in (checkpoint / "projector.safetensors", checkpoint / "model" / "base.safetensors"):
        if not path.is_file():
            continue
        for name, tensor in _read_tensors(path):
            if name not in parameters or parameters[name].shape != tensor.shape:
                found = tuple(parameters[name].shape) if name in parameters else "missing"
                raise UserError(f"{path}: tensor {name} {tuple(tensor.shape)} does not fit the model ({found})")
            refuse_nonfinite(path, {name: tensor})
            with torch.no_grad():
                parameters[name].copy_(tensor)


def _read_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    # One at a time: a language model in fp32 must not stand in memory once more on every rank.
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                yield name, file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error}): copy it again, or take another checkpoint of the run") from error


def weights_writer(assembled: Assembled) -> Callable[[Path, Mapping[str, torch.Tensor]], None]:
    """Return the function that writes a checkpoint's weights from the fp32 values that the engine gathered.

    Ask for it before an engine takes the model apart: what an adapter keeps frozen, no engine gathers again.
    """
    attached = assembled.attached
    own = attached.named_parameters()
    adapter_names = set(own)
    frozen = {n: p.detach().to("cpu", copy=True) for n, p in own.items() if not p.requires_grad}
    # A wrapped linear keeps its own weight under ".base": files carry Hugging Face's names.

    def write(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        if assembled.has_adapter:
            (folder / "adapter").mkdir()
            trained = {n: t for n, t in tensors.items() if n in adapter_names}
            attached.save(folder / "adapter", tensors=frozen | trained)
            record_of_adapter(folder / "adapter", assembled.weights)
        projector = {n: t for n, t in tensors.items() if PROJECTOR in n}
        if projector:
            save_file(projector, folder / "projector.safetensors")
        base = {
            n.replace(".base.", "."): t for n, t in tensors.items() if n not in adapter_names and PROJECTOR not in n
        }
        if base:
            (folder / "model").mkdir()
            save_file(base, folder / "model" / "base.safetensors")

    return write


_MAYBE_TEXT = (str, NoneType)
SETTINGS = {
    "model": {"architecture": dict, "system": _MAYBE_TEXT, "attn_implementation": _MAYBE_TEXT},
    "adapter": (dict, NoneType),
    "stage": {"template": str, "image_mode": str, "learning_rates": dict},
    "train": {"dtype": str, "max_length": int, "over_length": str, "tokens_per_micro_batch": int},
    "data": {"sources": {str: {"domain": str, "path": _MAYBE_TEXT}}},
    "init_from": _MAYBE_TEXT,
    "seed": int,
    "domains?": (list, NoneType),
}
"""What every reader of a run's ``config.yaml`` relies on."""


def read_config(run: Path) -> dict[str, Any]:
    """A run's resolved ``config.yaml`` as plain containers."""
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} is missing: {run} is not a run's folder")
    try:
        config = parse_yaml(read_regular(path))
    except (OSError, StructuredTextError) as error:
        raise UserError(f"{path} is damaged ({getattr(error, 'strerror', None) or error}): put it back") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} is damaged (it holds no settings): put it back")
    if told := misfit(config, SETTINGS):
        raise UserError(f"{path} has another shape than it was written in ({told[:150]}): put it back")
    try:
        _written_template(config)
        _reading_of(config["data"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} has another shape than it was written in ({str(error)[:150]}): put it back") from error
    return config


def recipe_of(config: Mapping[str, Any]) -> Recipe:
    """The recipe that a resolved configuration describes."""
    model, stage, train = config["model"], config["stage"], config["train"]
    return Recipe(
        architecture=from_target(model["architecture"], ARCHITECTURES),
        adapter=from_target(config["adapter"], ADAPTERS) if "adapter" in stage["learning_rates"] else NoAdapter(),
        dtype=train["dtype"],
        template=_written_template(config),
        image_mode=stage["image_mode"],
        max_length=train["max_length"],
        over_length=train["over_length"],
        attn_implementation=model["attn_implementation"],
        init_from=config["init_from"],
        seed=config["seed"],
        reading=_reading_of(config["data"]),
    )


def _written_template(config: Mapping[str, Any]) -> Template:
    kind, system = config["stage"]["template"], config["model"]["system"]
    return Template(kind) if system is None else Template(kind, system)


def _reading_of(data: Mapping[str, Any]) -> ImageReading:
    """How a run reads images. A range counts outside its source where no other source gives another."""
    ranges = {tuple(node["value_range"]) for node in data["sources"].values() if node.get("value_range")}
    value_range = ranges.pop() if len(ranges) == 1 else None
    # A run that an earlier release trained says nothing of these: it read images as LLaVA does.
    return ImageReading(data.get("exif", AS_LLAVA.exif), data.get("alpha", AS_LLAVA.alpha), value_range)


def from_target(node: Mapping[str, Any], registered: Mapping[str, type]) -> Any:
    """Build the object that a node's ``_target_`` names.

    Args:
        registered: the classes that may stand there: ``ADAPTERS`` or ``ARCHITECTURES``.

    Raises:
        UserError: another class, or fields that it does not have.
    """
    target = node.get("_target_")
    kind = registered.get(target) if isinstance(target, str) else None
    if kind is None:
        raise UserError(f"_target_={target} is none of {', '.join(registered)}: take a file of llava-moe ls")
    name = kind.__name__
    values = {key: value for key, value in node.items() if key != "_target_"}
    known = [field.name for field in fields(kind)]
    unknown = [key for key in values if key not in known]
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"unknown key {unknown[0]} of {name}{hint}: its keys are {', '.join(known)}")
    if misfit := first_misfit(kind, values):
        raise UserError(f"{name}: {misfit}; fix that setting")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}; fix that setting") from error


def restore(run: str | Path, device: torch.device | None = None, dtype: str | None = None) -> Assembled:
    """Build the model of a run and load its newest checkpoint; in eval mode, on ``device``.

    Args:
        run: a run's folder, an experiment's folder (last stage) or one checkpoint.
        dtype: overrides the precision that the run trained in.
    """
    checkpoint = newest_checkpoint(Path(run))
    owner = checkpoint.parent.parent
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipe_of(read_config(owner))
    bare = _own_base(owner, replace(recipe, init_from=None, dtype=dtype or recipe.dtype), device)
    load_lineage(bare.model, checkpoint)
    if not isinstance(recipe.adapter, NoAdapter):
        bare = with_adapter(bare, checkpoint / "adapter")
    # transformers' own wrapper of .to() is typed for a model class of its own.
    nn.Module.to(bare.model, device).eval()
    return bare


def with_adapter(bare: Assembled, folder: Path) -> Assembled:
    """A run's base with the adapter of one of its checkpoints on it.

    Raises:
        UserError: the adapter's folder is damaged, or was trained on another base.
    """
    refuse_other_adapter(folder, bare.weights)
    return replace(bare, attached=load_adapter(bare.model, folder), has_adapter=True)


def restore_base(run: str | Path, device: torch.device | None = None) -> Assembled:
    """The base of a run as it was before any training, asked as the run is; in eval mode, on ``device``.

    Its projector is one that has learned nothing.

    Raises:
        UserError: the base is not there, or is another than the run was trained on.
    """
    owner = newest_checkpoint(Path(run)).parent.parent
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bare = _own_base(owner, recipe_of(read_config(owner)), device)
    nn.Module.to(bare.model, device).eval()
    return bare


def _own_base(owner: Path, recipe: Recipe, device: torch.device) -> Assembled:
    """:func:`new_base`, refused where it is another than the run was trained on."""
    refuse_other_embedded(owner, recipe.architecture)
    bare = new_base(owner, recipe, device)
    return replace(bare, notes=refuse_strange_base(owner, bare.weights))


def new_base(run: Path, recipe: Recipe, device: torch.device) -> Assembled:
    """The base that a run's recipe names, as it was before any training.

    Raises:
        UserError: it is not there; with the command that tells the run where it lies by now.
    """
    try:
        return new_model(replace(recipe, adapter=NoAdapter(), init_from=None), device)
    except UserError as error:
        gone = _keys_of_what_is_gone(recipe.architecture)
        command = read_object(run / RECORD, "put it back").get("command") if (run / RECORD).is_file() else None
        if not gone or not isinstance(command, str):
            raise
        root = run.parent if run in stage_folders(run.parent) else run
        said = tuple(f"{key}=" for key in (*gone, "out"))
        words = [word for word in shlex.split(command) if not word.lstrip("+").startswith(said)]
        told = shell(*words, *(f"{key}=FOLDER" for key in gone), f"out={as_place(root)}")
        raise UserError(f"{error}; where it lies elsewhere by now, tell the run: {told}") from error


def _keys_of_what_is_gone(architecture: Architecture) -> list[str]:
    """The settings that name a base's folders, where no such folder is there."""
    keys = {"path": "model.path", "vision_tower": "model.architecture.vision_tower"}
    keys["language_model"] = "model.architecture.language_model"
    places = {key: getattr(architecture, name, None) for name, key in keys.items()}
    return [
        key
        for key, place in places.items()
        if place is not None and not place.startswith("embedded:") and not Path(place).expanduser().exists()
    ]


def open_checkpoint(
    path: str,
    dtype: str | None = None,
    device: torch.device | None = None,
    *,
    peft: str | None = None,
    template: str | None = None,
    image_mode: ImageMode | None = None,
    reading: ImageReading = ImageReading(),  # noqa: B008
) -> Assembled:
    """A Hugging Face LLaVA checkpoint, asked as its own files say: chat template, image processor; in eval mode.

    What lies beside a PEFT LoRA goes before what lies beside its base: it is nearer to how the model was trained. A
    checkpoint without a chat template is asked in LLaVA-1.5's ``v1``, one without an image processor pads to a square.

    Args:
        path: folder or hub id.
        dtype: ``fp32``, ``bf16`` or ``fp16``; None: bf16 on a GPU, fp32 elsewhere.
        device: None: the first GPU if there is one.
        peft: folder of a PEFT LoRA to put on it, ``modules_to_save`` included.
        template: ``chat`` insists on a chat template, ``v1`` takes LLaVA-1.5's format whatever the files say.
        image_mode: goes before what the image processor says.
        reading: what becomes of images' orientation, transparency and deep values.

    Raises:
        UserError: it is not there, is not of a kind that is read, or its files say what cannot be followed.
    """
    if peft is not None and not (Path(peft).expanduser() / "adapter_config.json").is_file():
        raise UserError(f"model.peft={peft} is not an adapter folder: it has no adapter_config.json")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bf16" if device.type == "cuda" else "fp32")
    base = build_base(FromCheckpoint(path), _dtype(dtype))
    weights = BaseWeights.of(base.model, FromCheckpoint(path), _dtype(dtype))
    attention = _set_attention(base, "auto", device, _dtype(dtype))
    places = [str(Path(place).expanduser()) for place in (peft,) if place is not None] + [resolve(path)]
    written = _template_of(base, places, template)
    nearest = read_image_processor(places[0]) if peft is not None else None
    transform = ImageTransform(base.image_size, image_mode or base.image_mode or "pad", base.image_mean, base.image_std)
    if nearest is not None:
        transform = replace(
            transform, mode=image_mode or nearest.mode(base.image_size), mean=nearest.mean, std=nearest.std
        )
    encoder = _encoder_for(base, written, transform, max_length=4096, over_length="cut", reading=reading)
    attached = attach(base.model, NoAdapter())
    if peft is not None:
        attached.detach()
        attached = load_adapter_with_modules(base.model, Path(peft).expanduser())
    nn.Module.to(base.model, device).eval()
    return Assembled(base, attached, encoder, attention, peft is not None, weights)


def _template_of(base: BaseFacts, places: Sequence[str], wanted: str | None) -> Template | ChatTemplate:
    """The first chat template of these places, or LLaVA-1.5's format."""
    for place in places if wanted != "v1" else ():
        if source := read_chat_template(place):
            written = ChatTemplate(base.tokenizer, source, place)
            written.check()
            return written
    if wanted == "chat":
        raise UserError(f"model.template=chat: {places[-1]} has no chat template; leave model.template= out")
    return Template("v1")


def lineage(checkpoint: Path) -> list[Path]:
    """The checkpoint and those that its run was started from, newest first."""
    chain = [checkpoint]
    while (start := _start_of(chain[-1].parent.parent)) is not None:
        chain.append(newest_checkpoint(start))
        if chain[-1] in chain[:-1]:
            raise UserError(f"{checkpoint}: init_from goes round in a circle through {chain[-1]}")
    return chain


def _start_of(run: Path) -> Path | None:
    """What a run was started from: the folder it names, or the one of that name beside it where both were moved."""
    named = read_config(run)["init_from"]
    if named is None:
        return None
    beside = run.absolute().parent / Path(named).name
    return beside if beside.is_dir() and not Path(named).exists() else Path(named)


def load_run(folder: str | Path) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """See :func:`llava_moe.load_run`."""
    assembled = restore(folder)
    for note in assembled.notes:
        warnings.warn(note, stacklevel=3)
    return assembled.model, processor_of(assembled)


def processor_of(assembled: Assembled) -> LlavaProcessor:
    """A Hugging Face processor that writes prompts and pixels as training did, padding to a square included.

    Raises:
        ValueError: the model is no run of ours: it has a processor of its own.
    """
    base, encoder = assembled.base, assembled.encoder
    if isinstance(encoder.template, ChatTemplate) or encoder.transform.mode == "resize":
        raise ValueError("a checkpoint that is asked as its own files say has a processor of its own")
    vision: Any = vision_config(base.model)
    pixels = LlavaImageProcessorPil(
        do_pad=encoder.transform.mode == "pad",
        size={"shortest_edge": base.image_size},
        crop_size={"height": base.image_size, "width": base.image_size},
        image_mean=list(base.image_mean),
        image_std=list(base.image_std),
    )
    return LlavaProcessor(
        image_processor=pixels,
        tokenizer=base.tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=base.model.config.vision_feature_select_strategy,
        num_additional_image_tokens=TOWERS[vision.model_type],
        chat_template=chat_template(encoder.template),
    )
