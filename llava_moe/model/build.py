"""CLIP + projector + Vicuna -> an unmodified Hugging Face ``LlavaForConditionalGeneration``, and its tokenizer.

LLaVA-1.5's recipe (haotian-liu/LLaVA ``llava/model/multimodal_encoder``): hidden state -2, patch tokens only, a
two-layer GELU projector with biases. Token numbers as in llava-hf checkpoints: ``<image>`` and ``<pad>`` follow the
language model's own vocabulary, the table is padded to a multiple of 64 (32000, 32001 and 32064 for Vicuna).
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from tokenizers import AddedToken
from torch import nn
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from llava_moe.embedded_base import EMBEDDED, base_folder
from llava_moe.errors import StoppedBySignalError, UserError
from llava_moe.model.checkpoint_files import check_generation_config, refuse_irregular
from llava_moe.model.image_processor import ImageMode, ImageProcessor, read_image_processor
from llava_moe.model.kinds import check_llava, feature_width, num_image_tokens, refuse_other_kind
from llava_moe.model.sentence_pieces import find_bare_model, load_bare
from llava_moe.model.sizes import refuse_beyond_memory, refuse_more_than_on_file, refuse_sizes_without_end
from llava_moe.packed_rows import keep_examples_apart

ConfigKind = TypeVar("ConfigKind", LlamaConfig, CLIPVisionConfig)
IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
TABLE_MULTIPLE = 64


@dataclass(frozen=True)
class FromParts:
    """A CLIP vision tower and a language model joined by a fresh projector.

    Attributes:
        vision_tower: hub id or folder of a CLIP model; ``embedded:vision_tower`` is the demo's.
        language_model: hub id or folder of a Llama model with its tokenizer; ``embedded:language_model`` is the demo's.
        projector_output_std: when set, the projector's second layer starts normal with the standard deviation that
            makes its outputs about this many times as wide as the text embeddings, with zero bias. None keeps
            ``nn.Linear``'s start, as LLaVA-1.5 has it.
        vision_feature_layer: hidden state of the tower that is read.
    """

    vision_tower: str
    language_model: str
    projector_output_std: float | None = None
    vision_feature_layer: int = -2


@dataclass(frozen=True)
class FromCheckpoint:
    """An existing ``llava-hf/llava-1.5-7b-hf``-style checkpoint: hub id or folder. See ``kinds.py`` for its parts."""

    path: str


@dataclass(frozen=True)
class FromShape:
    """Random weights of a given shape, for tests, benches and plans.

    Attributes:
        vision, text: fields of ``CLIPVisionConfig`` and ``LlamaConfig``.
        tokenizer: hub id or folder of the tokenizer; ``embedded:language_model`` is the demo's.
    """

    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = EMBEDDED + "language_model"
    vision_feature_layer: int = -2
    seed: int = 0


Architecture = FromParts | FromCheckpoint | FromShape


@dataclass(frozen=True)
class BaseFacts:
    """What the data path must know of a base model: its tokenizer, and how its tower sees images.

    Attributes:
        image_mode: how its own image processor makes a square of an image; None where it has no processor.
        feature_width: numbers of each of an image's vectors that the projector reads.
    """

    tokenizer: PreTrainedTokenizerBase
    image_size: int
    num_image_tokens: int
    image_token_id: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    image_mode: ImageMode | None
    feature_width: int


@dataclass(frozen=True)
class BaseModel(BaseFacts):
    """What :func:`build_base` returns: the model, and what the data path must know of it."""

    model: LlavaForConditionalGeneration


KINDS: dict[Any, tuple[str, ...]] = {CLIPVisionModel: ("clip", "clip_vision_model"), LlamaForCausalLM: ("llama",)}
"""Values of ``model_type`` that a class is loaded from; LLaVA's own is ``llava``."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resolve(reference: str) -> str:
    """Turn ``embedded:NAME`` into a folder; hub ids and folders stay as they are.

    Raises:
        UserError: what is plainly a folder does not exist.
    """
    if reference.startswith(EMBEDDED):
        return str(base_folder() / reference.removeprefix(EMBEDDED))
    path = Path(reference).expanduser()
    if not path.exists() and reference.startswith(("/", ".", "~")):
        raise UserError(f"model {reference} cannot be loaded: no such folder; give one that is there, or a hub id")
    return str(path) if path.exists() else reference


def build_base(architecture: Architecture, dtype: torch.dtype, seed: int = 0) -> BaseModel:
    """Build the model with its tokenizer; fresh parts start from ``seed``.

    Raises:
        UserError: a checkpoint or tokenizer is not there or is not of the kind that LLaVA is made of.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(architecture, FromParts):
            model, tokenizer = _from_parts(architecture, dtype)
        elif isinstance(architecture, FromCheckpoint):
            model, tokenizer = _from_checkpoint(architecture, dtype)
        else:
            model, tokenizer = _from_shape(architecture, dtype)
    return _described(model, tokenizer, architecture)


def _described(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, architecture: Architecture
) -> BaseModel:
    # Trap: the text tower reads its own use_cache; left on, packed rows leak into each other (masking_utils.py).
    model.config.get_text_config().use_cache = False
    # Asked for a cache or given a mask all the same, a call of packed rows keeps them apart or is refused.
    keep_examples_apart(model.model.language_model)
    return BaseModel(model=model, **vars(_facts_of(model.config, tokenizer, architecture)))


def read_base(architecture: Architecture) -> BaseFacts:
    """What the data path must know of a base model, from its configurations and tokenizer alone: no weight is read.

    Raises:
        UserError: as :func:`build_base`, weights apart.
    """
    return _facts_of(*_config_of(architecture), architecture)


def build_base_without_weights(
    architecture: Architecture, dtype: torch.dtype, place: torch.device | str = "meta"
) -> BaseModel:
    """The model that :func:`build_base` would build, with tensors that hold nothing: a 7B takes seconds and no memory.

    Args:
        place: ``meta``, or any device under a ``FakeTensorMode``.

    Raises:
        UserError: as :func:`build_base`, weights apart.
    """
    config, tokenizer = _config_of(architecture)
    # Trap: SigLIP's initialization asks its numbers for their values, and here they have none.
    with torch.device(place), no_init_weights():
        model = _made(config, dtype, architecture)
    # The initialization that was left out would have tied what is tied.
    model.tie_weights()
    return _described(model, tokenizer, architecture)


def _facts_of(config: LlavaConfig, tokenizer: PreTrainedTokenizerBase, architecture: Architecture) -> BaseFacts:
    check_llava(config, _name_of(architecture))
    size = vision_size(config)
    processor = _image_processor(config, architecture)
    is_whole = isinstance(architecture, FromCheckpoint)
    return BaseFacts(
        tokenizer=tokenizer,
        image_size=size,
        num_image_tokens=num_image_tokens(config),
        image_token_id=config.image_token_id,
        image_mean=CLIP_MEAN if processor is None else processor.mean,
        image_std=CLIP_STD if processor is None else processor.std,
        # What becomes of a tower's own images says nothing of a LLaVA that is still to be trained.
        image_mode=processor.mode(size) if processor is not None and is_whole else None,
        feature_width=feature_width(config),
    )


def _image_processor(config: LlavaConfig, architecture: Architecture) -> ImageProcessor | None:
    if isinstance(architecture, FromShape):
        return None
    where = architecture.path if isinstance(architecture, FromCheckpoint) else architecture.vision_tower
    processor = read_image_processor(resolve(where))
    tower = getattr(config.vision_config, "model_type", None)
    if processor is None and tower != "clip_vision_model":
        raise UserError(
            f"model {where} has no image processor (preprocessor_config.json), and its tower is a {tower}, whose "
            "pixels are not CLIP's: put the file of the checkpoint there"
        )
    return processor


def _name_of(architecture: Architecture) -> str:
    if isinstance(architecture, FromCheckpoint):
        return architecture.path
    if isinstance(architecture, FromShape):
        return "of model.architecture"
    return f"of {architecture.vision_tower} and {architecture.language_model}"


def _config_of(architecture: Architecture) -> tuple[LlavaConfig, PreTrainedTokenizerBase]:
    if isinstance(architecture, FromShape):
        return _shape_config(architecture)
    if isinstance(architecture, FromCheckpoint):
        config = _read_config(LlavaForConditionalGeneration, architecture.path)
        check_llava(config, architecture.path)
        check_generation_config(resolve(architecture.path))
        tokenizer = load_tokenizer(architecture.path)
        _refuse_other_tokenizer(architecture.path, config, tokenizer)
        _fit_to_table(tokenizer, config.get_text_config().vocab_size, architecture.path)
        return config, tokenizer
    tokenizer = load_tokenizer(architecture.language_model)
    vision = _read_config(CLIPVisionModel, architecture.vision_tower)
    text = _read_config(LlamaForCausalLM, architecture.language_model)
    text.vocab_size = _table_rows(len(tokenizer))
    return llava_config(vision, text, tokenizer, architecture.vision_feature_layer), tokenizer


def _read_config(kind: Any, reference: str) -> Any:
    path = resolve(reference)
    refuse_irregular(path)
    with _told("model", reference):
        refuse_other_kind(path, reference, KINDS.get(kind, ("llava",)))
        return kind.config_class.from_pretrained(path)


@contextmanager
def _told(what: str, reference: str, failed: str = "loaded") -> Iterator[None]:
    """Say of what transformers trips over which checkpoint it is.

    Raises:
        UserError: in the place of whatever it raised.
    """
    try:
        yield
    except (UserError, StoppedBySignalError):
        raise
    except pickle.UnpicklingError as error:  # torch would advise to open it all the same
        raise UserError(
            f"{what} {reference} holds more than tensors in a .bin file, and nothing else is unpickled here: take its "
            "safetensors form"
        ) from error
    except Exception as error:
        # Trap: on damaged files transformers and tokenizers raise what they happen to meet, assertions of torch and
        # the bare Exception among it.
        raise UserError(f"{what} {reference} cannot be {failed}: {_first_line(error)}") from error


def _table_rows(num_tokens: int) -> int:
    return -(-num_tokens // TABLE_MULTIPLE) * TABLE_MULTIPLE


def vision_config(model: LlavaForConditionalGeneration) -> PreTrainedConfig:
    """The tower's configuration."""
    config = model.config.vision_config
    assert isinstance(config, PreTrainedConfig)
    return config


def vision_size(config: LlavaConfig) -> int:
    """Side of the square image that the tower sees, in pixels."""
    vision: Any = config.vision_config
    return int(vision.image_size)


def extend_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Add ``<image>`` and ``<pad>`` behind the vocabulary, as llava-hf does; a tokenizer that has them is kept."""
    if isinstance(legacy := getattr(tokenizer, "legacy", None), bool):
        # It decides the blank behind a special token, and transformers 5 does not write it down.
        tokenizer.init_kwargs["legacy"] = legacy
    known = tokenizer.get_vocab()
    new = [token for token in (IMAGE_TOKEN, PAD_TOKEN) if token not in known]
    if new:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in new], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = PAD_TOKEN
    return tokenizer


def llava_config(
    vision: CLIPVisionConfig, text: LlamaConfig, tokenizer: PreTrainedTokenizerBase, layer: int
) -> LlavaConfig:
    """LLaVA-1.5's configuration over two given towers."""
    sides = (vision.image_size, vision.patch_size)
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise UserError(
            f"the vision tower has image_size={sides[0]}, patch_size={sides[1]}: give whole numbers above 0"
        )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=int(tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)),  # type: ignore[arg-type]
        image_seq_length=(int(sides[0]) // int(sides[1])) ** 2,  # type: ignore[arg-type]
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=layer,
        tie_word_embeddings=text.tie_word_embeddings,
    )


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that puts ``<s>`` in front, with ``<image>`` and ``<pad>`` added.

    Raises:
        UserError: it is not there, is not of Llama's kind, or is a bare SentencePiece model that cannot be followed.
    """
    path = resolve(reference)
    refuse_irregular(path)
    if (bare := find_bare_model(path)) is not None:
        return extend_tokenizer(load_bare(bare, path, reference))
    with _told("tokenizer", reference):
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
        if tokenizer("a").input_ids[:1] != [tokenizer.bos_token_id]:
            # transformers 5 builds sentencepiece Llama tokenizers without <s> unless told.
            tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, add_bos_token=True, trust_remote_code=False)
        has_start = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    if not has_start or tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {reference} has no <s> or </s>: a Llama-style tokenizer is needed")
    return extend_tokenizer(tokenizer)


def _from_parts(parts: FromParts, dtype: torch.dtype) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    check_generation_config(resolve(parts.language_model))
    tokenizer = load_tokenizer(parts.language_model)
    tower = _pretrained(CLIPVisionModel, parts.vision_tower, dtype)
    language = _pretrained(LlamaForCausalLM, parts.language_model, dtype)
    _grow_table(language, len(tokenizer))
    config = llava_config(tower.config, language.config, tokenizer, parts.vision_feature_layer)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = tower
    model.model.language_model = language.model
    model.lm_head = language.lm_head
    model.model.multi_modal_projector = _fresh_projector(model, language, parts.projector_output_std).to(dtype)
    model.generation_config = language.generation_config
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _grow_table(language: LlamaForCausalLM, num_tokens: int) -> None:
    """Make room for the new tokens; their rows start as the mean of the others (nothing reads or predicts them)."""
    num_known = language.config.vocab_size
    language.resize_token_embeddings(num_tokens, pad_to_multiple_of=TABLE_MULTIPLE, mean_resizing=False)
    with torch.no_grad():
        for table in (language.get_input_embeddings(), language.get_output_embeddings()):
            assert isinstance(table, nn.Embedding | nn.Linear)
            table.weight[num_known:] = table.weight[:num_known].float().mean(0).to(table.weight.dtype)


def _fresh_projector(
    model: LlavaForConditionalGeneration, language: LlamaForCausalLM, output_std: float | None
) -> nn.Module:
    projector = nn.Module.to_empty(model.model.multi_modal_projector, device="cpu").float()
    for layer in projector.children():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    if output_std is not None:
        embeddings = language.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        width = embeddings.weight.detach().float().std() * output_std
        # A GELU of unit-variance inputs has a root mean square near 0.65; nn.Linear's start keeps inputs near 0.58.
        second = projector.linear_2
        assert isinstance(second, nn.Linear)
        nn.init.normal_(second.weight, std=float(width) / (0.4 * second.in_features**0.5))
        nn.init.zeros_(second.bias)
    return projector


def _from_checkpoint(
    checkpoint: FromCheckpoint, dtype: torch.dtype
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    _, tokenizer = _config_of(checkpoint)
    return _pretrained(LlavaForConditionalGeneration, checkpoint.path, dtype), tokenizer


def _refuse_other_tokenizer(reference: str, config: LlavaConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    found = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if found != config.image_token_id:
        raise UserError(
            f"model {reference}: its tokenizer has no {IMAGE_TOKEN} where the model looks for one (token "
            f"{config.image_token_id}): put the tokenizer files of the checkpoint itself there"
        )


def _fit_to_table(tokenizer: PreTrainedTokenizerBase, num_rows: int, reference: str) -> None:
    """Hold a tokenizer against the rows of the embedding table that it numbers.

    Where the table has no row for a padding token of its own, another one serves: padding is read by nothing.

    Raises:
        UserError: it has other tokens without a row.
    """
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= num_rows}
    if beyond.pop(PAD_TOKEN, None) is not None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if beyond:
        token = min(beyond, key=lambda one: beyond[one])
        raise UserError(
            f"model {reference}: its table has {num_rows} rows, and its tokenizer numbers {token!r} {beyond[token]}: "
            "put the tokenizer files of the checkpoint itself there"
        )


def _shape_config(shape: FromShape) -> tuple[LlavaConfig, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(shape.tokenizer)
    text = dict(shape.text)
    text.setdefault("vocab_size", _table_rows(len(tokenizer)))
    for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
        text.setdefault(token, getattr(tokenizer, token))
    text_config, vision = _shaped(LlamaConfig, text, "text"), _shaped(CLIPVisionConfig, shape.vision, "vision")
    _fit_to_table(tokenizer, text_config.vocab_size, "of model.architecture")
    return llava_config(vision, text_config, tokenizer, shape.vision_feature_layer), tokenizer


def _from_shape(shape: FromShape, dtype: torch.dtype) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    config, tokenizer = _shape_config(shape)
    refuse_beyond_memory((config.vision_config, config.text_config), _name_of(shape), dtype)
    torch.manual_seed(shape.seed)
    model = _made(config, dtype, shape)
    for layer in model.model.multi_modal_projector.children():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return model, tokenizer


def _made(config: LlavaConfig, dtype: torch.dtype, architecture: Architecture) -> LlavaForConditionalGeneration:
    check_llava(config, _name_of(architecture))
    # Trap: numbers that do not fit each other are told by whatever of torch or transformers meets them first.
    with _told("model", _name_of(architecture), "built"):
        model: LlavaForConditionalGeneration = LlavaForConditionalGeneration._from_config(config, dtype=dtype)
    return model


def _shaped(kind: type[ConfigKind], given: Mapping[str, Any], part: str) -> ConfigKind:
    where, known = f"model.architecture.{part}", kind().to_dict()
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UserError(f"unknown key {where}.{unknown[0]}: take the fields of transformers' {kind.__name__}")
    try:
        return kind(**given)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"{where}: {str(error).strip().splitlines()[-1].strip()}; fix these numbers") from error


def _pretrained(kind: Any, reference: str, dtype: torch.dtype) -> Any:
    path = resolve(reference)
    refuse_irregular(path)
    with _told("model", reference):
        refuse_other_kind(path, reference, KINDS.get(kind, ("llava",)))
        config = kind.config_class.from_pretrained(path)
        if kind is not LlavaForConditionalGeneration:
            refuse_sizes_without_end({"config.json": config}, reference)
        refuse_more_than_on_file(path, reference, config)
        model, told = kind.from_pretrained(path, dtype=dtype, output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"model {reference} lacks the weights {missing[0]}{more}, which would be left at random: copy its files "
            "again, or take the checkpoint that is whole"
        )
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
