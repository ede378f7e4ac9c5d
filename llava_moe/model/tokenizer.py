"""A language model's tokenizer with ``<image>`` and ``<pad>``, and the rows of the table of embeddings that they need.

Token numbers as in llava-hf checkpoints: both follow the language model's own vocabulary, the table is padded to a
multiple of 64 (32000, 32001 and 32064 for Vicuna).
"""

from __future__ import annotations

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from llava_moe.errors import UserError
from llava_moe.model.architecture import resolve
from llava_moe.model.checkpoint_files import refuse_irregular
from llava_moe.model.pretrained import told
from llava_moe.model.sentence_pieces import find_bare_model, load_bare

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
TABLE_MULTIPLE = 64


def load_tokenizer(reference: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer that puts ``<s>`` in front, with ``<image>`` and ``<pad>`` added.

    Raises:
        UserError: it is not there, is not of Llama's kind, or is a bare SentencePiece model that cannot be followed.
    """
    path = resolve(reference)
    refuse_irregular(path)
    if (bare := find_bare_model(path)) is not None:
        return extend_tokenizer(load_bare(bare, path, reference))
    with told("tokenizer", reference):
        tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=False)
        if tokenizer("a").input_ids[:1] != [tokenizer.bos_token_id]:
            # transformers 5 builds sentencepiece Llama tokenizers without <s> unless told.
            tokenizer = AutoTokenizer.from_pretrained(path, use_fast=True, add_bos_token=True, trust_remote_code=False)
        has_start = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    if not has_start or tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {reference} has no <s> or </s>: a Llama-style tokenizer is needed")
    return extend_tokenizer(tokenizer)


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


def num_table_rows(num_tokens: int) -> int:
    """Rows of the table of embeddings for so many tokens."""
    return -(-num_tokens // TABLE_MULTIPLE) * TABLE_MULTIPLE


def fit_to_table(tokenizer: PreTrainedTokenizerBase, num_rows: int, reference: str) -> None:
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


def refuse_other_tokenizer(reference: str, image_token_id: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that numbers ``<image>`` otherwise than the model's configuration does.

    Raises:
        UserError: naming the model.
    """
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) != image_token_id:
        raise UserError(
            f"model {reference}: its tokenizer has no {IMAGE_TOKEN} where the model looks for one (token "
            f"{image_token_id}): put the tokenizer files of the checkpoint itself there"
        )
