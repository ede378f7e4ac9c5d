"""A folder with ``tokenizer.model`` and no ``tokenizer.json``: the fast tokenizer gives SentencePiece's own tokens.

transformers 5 makes the merges of such a tokenizer from the order of its pieces and does not read their scores. Llama's
runs of blanks come early in that order and have the score -1e9, so they must merge last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from tokenizers.models import BPE
from transformers import LlamaTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from llava_moe.errors import UserError
from llava_moe.model.checkpoint_files import read_json

_BPE = 2
_NORMAL, _USER_DEFINED = 1, 4
# Trap: Hugging Face writes no dummy prefix before a text that begins with a blank; all others are held to be equal.
_PROBES = (
    *("a", "a  b   c    d     e      f       g", f"x{' ' * 40}y", "end  ", "\n \n  \n\n   z", "\ta\t\t b"),
    *("1234567890 12.50 (3/4)", "café ☕, ένα, 这是什么, 👩 🙂", "\u3000 \u200b", "a▁▁b", "</s", "<0x0A>"),
    "def f(x):\n    return x\n\n\n",
)


def find_bare_model(path: str) -> Path | None:
    """``tokenizer.model`` of a folder or hub id that has no ``tokenizer.json``."""
    if (folder := Path(path)).is_dir():
        file = folder / "tokenizer.model"
        return file if file.is_file() and not (folder / "tokenizer.json").is_file() else None
    if _on_hub(path, "tokenizer.json") is not None:
        return None
    found = _on_hub(path, "tokenizer.model")
    return None if found is None else Path(found)


def _on_hub(reference: str, name: str) -> str | None:
    try:
        found: str | None = cached_file(
            reference,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
    except OSError:
        return None
    return found


def load_bare(file: Path, path: str, reference: str) -> PreTrainedTokenizerBase:
    """The fast Llama tokenizer of a SentencePiece model, ``<s>`` in front.

    Args:
        file: ``tokenizer.model``.
        path: the folder or hub id that it is from, whose ``tokenizer_config.json`` counts.
        reference: what the user calls it.

    Raises:
        UserError: see :func:`read_pieces`; or its tokens are not SentencePiece's.
    """
    proto = read_pieces(file, reference)
    settings: dict[str, Any] = _ends_of(proto, file, path, reference)
    if not proto.normalizer_spec.add_dummy_prefix:
        settings["add_prefix_space"] = False
    try:
        tokenizer: PreTrainedTokenizerBase = LlamaTokenizer.from_pretrained(path, add_bos_token=True, **settings)
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {reference} cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    follow_pieces(tokenizer, proto, file, reference)
    # Named already; transformers 4 reads no list under this key.
    named = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    own = [token for token in tokenizer.init_kwargs.pop("extra_special_tokens", None) or [] if str(token) not in named]
    tokenizer._extra_special_tokens = own
    return tokenizer


def _ends_of(proto: ModelProto, file: Path, path: str, reference: str) -> dict[str, str]:
    """The begin, end and unknown tokens of a model whose folder names none; a Llama's would be new ones to it.

    Raises:
        UserError: the model has no such token either.
    """
    named = {**read_json(path, "special_tokens_map.json"), **read_json(path, "tokenizer_config.json")}
    ends = {}
    for kind in ("bos", "eos", "unk"):
        if named.get(f"{kind}_token"):
            continue
        number = getattr(proto.trainer_spec, f"{kind}_id")
        if not 0 <= number < len(proto.pieces):
            raise _refusal(file, reference, f"has no {kind} token")
        ends[f"{kind}_token"] = proto.pieces[number].piece
    return ends


def read_pieces(file: Path, reference: str) -> ModelProto:
    """A SentencePiece model that a Llama tokenizer can stand for.

    Raises:
        UserError: it is damaged, or of a kind whose tokens a Llama tokenizer does not give.
    """
    proto = ModelProto()
    try:
        if not proto.ParseFromString(file.read_bytes()):
            raise RuntimeError("the file is empty")
        SentencePieceProcessor(model_proto=proto.SerializeToString())
    except (OSError, DecodeError, RuntimeError) as error:
        raise UserError(
            f"tokenizer {reference}: {file} is no SentencePiece model ({str(error).splitlines()[0]}): copy it again"
        ) from error
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    faults = (
        (trainer.model_type != _BPE, "is not of the BPE kind"),
        (not trainer.byte_fallback, "has no byte pieces for unknown characters"),
        (bool(normalizer.precompiled_charsmap), f"rewrites characters ({normalizer.name})"),
        (normalizer.remove_extra_whitespaces, "drops blanks"),
        (trainer.treat_whitespace_as_suffix, "writes blanks behind words"),
    )
    if told := [what for is_so, what in faults if is_so]:
        raise _refusal(file, reference, " and ".join(told))
    return proto


def follow_pieces(tokenizer: PreTrainedTokenizerBase, proto: ModelProto, file: Path, reference: str) -> None:
    """Give a tokenizer that was made from this model its merges, by score as SentencePiece merges; prove it.

    Raises:
        UserError: some text still has other tokens than SentencePiece gives.
    """
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    backend = tokenizer.backend_tokenizer
    backend.model = BPE(vocab=vocabulary, merges=merges_by_score(proto), fuse_unk=True, byte_fallback=True)
    theirs = SentencePieceProcessor(model_proto=proto.SerializeToString())
    own = [f"a{piece.piece}b  {piece.piece}" for piece in proto.pieces if piece.type == _USER_DEFINED]
    for text in (*_PROBES, *own):
        if backend.encode(text, add_special_tokens=False).ids != theirs.encode(text):
            raise _refusal(file, reference, f"splits {text!r} as a Llama tokenizer cannot")


def merges_by_score(proto: ModelProto) -> list[tuple[str, str]]:
    """Pairs of pieces in the order in which SentencePiece joins them: the best score of the whole first.

    Source: transformers 4, ``convert_slow_tokenizer.py`` (``generate_merges``). Control tokens, bytes and the unknown
    token are never made of letters.
    """
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type in (_NORMAL, _USER_DEFINED)}
    pairs = [
        (score, left, right)
        for whole, score in scores.items()
        for left, right in ((whole[:at], whole[at:]) for at in range(1, len(whole)))
        if left in scores and right in scores
    ]
    pairs.sort(key=lambda pair: (pair[0], len(pair[1]), len(pair[2])), reverse=True)
    return [(left, right) for _, left, right in pairs]


def _refusal(file: Path, reference: str, what: str) -> UserError:
    return UserError(f"tokenizer {reference}: {file} {what}: put the tokenizer.json of the checkpoint beside it")
