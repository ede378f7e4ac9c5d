"""Labels equal LLaVA-1.5's own rules, written out here once more over a slow SentencePiece tokenizer.

The rules (llava/train/train.py, ``preprocess_multimodal``, ``preprocess_v1``, ``preprocess_plain``; llava/mm_utils.py,
``tokenizer_image_token``): the text is cut at ``<image>`` and each piece tokenised as a text of its own; a round stands
before ``</s>``; of a round, as many tokens are masked as its text up to and including ``ASSISTANT: `` has when
tokenised alone, less two; counted tokens that disagree with the real ones mask the whole sample.

Hugging Face's fast tokenization of the whole text is our reference; ``DEPARTURES`` lists where its tokens are not those
of the slow one. What is supervised reads the same everywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from transformers import PreTrainedTokenizerBase

from llava_moe.data.conversation import Conversation, Turn
from llava_moe.data.encode import Encoder
from llava_moe.data.template import VICUNA_V1_SYSTEM

IGNORED = -100
IMAGE = -200
BOS, EOS = 1, 2


@dataclass(frozen=True)
class Slow:
    """The slow Llama tokenizer of transformers 4: ``legacy`` gives every piece between special tokens a prefix."""

    with_prefix: sentencepiece.SentencePieceProcessor
    without_prefix: sentencepiece.SentencePieceProcessor
    legacy: bool

    def __call__(self, text: str) -> list[int]:
        ids = [BOS]
        for number, piece in enumerate(text.split("</s>")):
            if number:
                ids.append(EOS)
            if piece:
                prefixed = self.legacy or number == 0
                ids += (self.with_prefix if prefixed else self.without_prefix).encode(piece)
        return ids

    def around_images(self, text: str) -> list[int]:
        first, *others = (self(piece) for piece in text.split("<image>"))
        return first + [token for piece in others for token in (IMAGE, *piece[1:])]


def llava_v1(turns: list[tuple[str, str]], has_image: bool, slow: Slow) -> tuple[list[int], list[int]]:
    if turns[0][0] == "gpt":
        turns = turns[1:]
    text = VICUNA_V1_SYSTEM + " "
    for speaker, message in turns:
        if has_image and "<image>" in message:
            message = ("<image>\n" + message.replace("<image>", "").strip()).strip()
        text += f"USER: {message} " if speaker == "human" else f"ASSISTANT: {message}</s>"
    tokenize = slow.around_images if has_image else slow
    ids = tokenize(text)
    labels = list(ids)
    labels[0] = IGNORED
    at = 1
    for number, one_round in enumerate(text.split("</s>")):
        halves = one_round.split(" ASSISTANT: ")
        if len(halves) != 2:
            break
        length = len(tokenize(one_round))
        masked = len(tokenize(halves[0] + " ASSISTANT: ")) - 2
        if number and not slow.legacy:
            length, masked = length - 1, masked - 1
        labels[at : at + masked] = [IGNORED] * masked
        at += length
    labels[at:] = [IGNORED] * (len(labels) - at)
    return ids, labels if at == len(ids) else [IGNORED] * len(ids)


def llava_plain(caption: str, slow: Slow) -> tuple[list[int], list[int]]:
    ids = slow.around_images(f"<image>{caption}\n")
    masked = len(slow.around_images("<image>"))
    return ids, [IGNORED] * masked + ids[masked:]


def chat(*messages: str, start: str = "human") -> list[tuple[str, str]]:
    speakers = ("human", "gpt") if start == "human" else ("gpt", "human")
    return [(speakers[number % 2], message) for number, message in enumerate(messages)]


CONVERSATIONS: dict[str, list[tuple[str, str]]] = {
    "image first": chat("<image>\nwhat is this ?", "a red cat"),
    "image last": chat("what is this ?\n<image>", "a red cat"),
    "image in the middle": chat("what is <image> in this picture ?", "a house"),
    "image alone": chat("<image>", "a blue house with a tree"),
    "image in the second question": chat("hello", "yes", "<image>\nhow many ?", "two"),
    "three rounds with an image": chat("<image>\nwhat ?", "a cat", "what colour ?", "red", "how many cats ?", "10"),
    "text alone": chat("what is the total ?", "the total is 3"),
    "text in four rounds": chat("a", "b", "what is the value ?", "no", "is it in the table ?", "yes", "the", "end"),
    "first turn by gpt": chat("what can i do ?", "is this a brain scan ?", "yes", start="gpt"),
    "first turn by gpt, then two rounds with an image": chat("hi", "<image>\nwhat", "a cat", "and", "dog", start="gpt"),
    "newlines": chat("<image>\nline one\nline two\n\nline four", "first\nsecond\n\nfourth"),
    "double spaces": chat("<image>\nwhat  is   this", "a  red    cat", "and  now", "the  dog"),
    "blanks around the answer": chat("<image>\nwhat ?", "  yes  ", "and ?", " no "),
    "answer that begins with a newline": chat("what ?", "\nyes\n", "why ?", "\n\nno"),
    "blanks around a question without image": chat("  what ?  ", "yes", "\n why ? \n", "no"),
    "accents, Greek, Chinese, emoji": chat("<image>\nqué es ésto, τι, 这是什么 🙂?", "un café ☕, ένα, 咖啡 👩‍🔬"),
    "answer of one emoji": chat("<image>\nwhat ?", "🙂", "again ?", "é"),
    "a list and code": chat("how ?", "1. a\n2. b\n\n```python\nfor i in x:\n    print(i)\n\treturn\n```\n- c"),
    "role words in the text": chat("USER: what is an assistant: ?", "USER: is a word, Assistant: too, ASSISTANT:x"),
    "tabs and hard blanks": chat("<image>\na\tb\u00a0c\u3000d e", "x\t\ty\u00a0z\u3000 w"),
    "punctuation and numbers": chat("<image>\n$12.50?!", "12.50%, (3/4) -- \"yes\"; 'no' <b>1</b> & #5"),
}

CAPTIONS = {
    "words": "a red cat in a house",
    "leading blank": " a red cat",
    "leading newline": "\na red cat",
    "two lines": "a red cat\na  blue dog",
    "emoji first": "🙂 é",
    "ends with a newline": "a cat\n",
}

# What the fast tokenizer of transformers 5 leaves out, and where: the slow one tokenises what stands behind an image as
# a text of its own and gives it a dummy prefix.
WITHOUT_PREFIX = ("▁ behind an image",)
WITH_IMAGE = {name for name, turns in CONVERSATIONS.items() if any("<image>" in message for _, message in turns)}
DEPARTURES: dict[str, dict[str, tuple[str, ...]]] = {
    "transformers 5": {name: WITHOUT_PREFIX for name in WITH_IMAGE},
    "llama 2 era": {},
}


@pytest.fixture(scope="module")
def slow_tokenizers(sentence_pieces: sentencepiece.SentencePieceProcessor) -> dict[str, Slow]:
    model = ModelProto.FromString(sentence_pieces.serialized_model_proto())
    model.normalizer_spec.add_dummy_prefix = False
    bare = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return {
        "transformers 5": Slow(sentence_pieces, bare, legacy=False),
        "llama 2 era": Slow(sentence_pieces, bare, legacy=True),
    }


@pytest.fixture
def encoders(
    make_encoder: Callable[..., Encoder], tokenizer: PreTrainedTokenizerBase, legacy_tokenizer: PreTrainedTokenizerBase
) -> Callable[[str, str], Encoder]:
    fast = {"transformers 5": tokenizer, "llama 2 era": legacy_tokenizer}
    return lambda era, kind: make_encoder(kind, num_image_tokens=1, tokenizer=fast[era])


def ours(turns: list[tuple[str, str]], encoder: Encoder) -> tuple[list[int], list[int]]:
    roles = {"human": "user", "gpt": "assistant"}
    images = tuple(f"{n}.jpg" for n in range(sum(message.count("<image>") for _, message in turns)))
    settled = tuple(Turn(roles[speaker], message) for speaker, message in turns)
    text = encoder.encode_text(Conversation("1", images, settled, "s", "d"))
    ids = np.where(text.input_ids == encoder.image_token_id, IMAGE, text.input_ids)
    return ids.tolist(), text.labels.tolist()


def spans_of(labels: list[int]) -> list[list[int]]:
    """Runs of supervised tokens; an end token ends a run."""
    runs: list[list[int]] = [[]]
    for label in labels:
        if label == IGNORED:
            runs.append([])
        else:
            runs[-1].append(label)
            if label == EOS:
                runs.append([])
    return [run for run in runs if run]


def departures(fast: list[int], slow: list[int], pieces: sentencepiece.SentencePieceProcessor) -> tuple[str, ...]:
    found = set()
    for kind, i, j, k, m in difflib.SequenceMatcher(a=slow, b=fast, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        name = {IMAGE: "<image>", EOS: "</s>"}
        gone = " ".join(name.get(token) or pieces.id_to_piece(token) for token in slow[i:j])
        new = " ".join(name.get(token) or pieces.id_to_piece(token) for token in fast[k:m])
        if kind == "delete" and gone == "▁" and IMAGE in slow[i - 2 : i]:
            found.add("▁ behind an image")
        else:
            found.add(f"{gone!r} became {new!r}")
    return tuple(sorted(found))


@pytest.mark.parametrize("era", DEPARTURES)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_v1_labels_equal_llavas(
    name: str,
    era: str,
    encoders: Callable[[str, str], Encoder],
    slow_tokenizers: dict[str, Slow],
    sentence_pieces: sentencepiece.SentencePieceProcessor,
) -> None:
    turns = CONVERSATIONS[name]
    slow_ids, slow_labels = llava_v1(turns, name in WITH_IMAGE, slow_tokenizers[era])
    fast_ids, fast_labels = ours(turns, encoders(era, "v1"))
    answers = [message for speaker, message in turns[turns[0][0] == "gpt" :] if speaker == "gpt"]
    assert [sentence_pieces.decode(span) for span in spans_of(slow_labels)] == answers, "the reference supervises all"
    assert spans_of(fast_labels) == spans_of(slow_labels), "token for token, end tokens among them"
    assert departures(fast_ids, slow_ids, sentence_pieces) == DEPARTURES[era].get(name, ())


@pytest.mark.parametrize("era", DEPARTURES)
@pytest.mark.parametrize("name", CAPTIONS)
def test_plain_labels_equal_llavas(
    name: str,
    era: str,
    encoders: Callable[[str, str], Encoder],
    slow_tokenizers: dict[str, Slow],
    sentence_pieces: sentencepiece.SentencePieceProcessor,
) -> None:
    slow_ids, slow_labels = llava_plain(CAPTIONS[name], slow_tokenizers[era])
    fast_ids, fast_labels = ours(chat("describe it\n<image>", CAPTIONS[name]), encoders(era, "plain"))
    assert fast_ids[:2] == slow_ids[:2] == [BOS, IMAGE]
    assert fast_labels == [IGNORED, IGNORED, *fast_ids[2:]]
    assert slow_labels == [IGNORED, IGNORED, *slow_ids[2:]]
    texts = {sentence_pieces.decode(labels[2:]) for labels in (fast_labels, slow_labels)}
    if era == "llama 2 era":
        assert fast_ids == slow_ids
    else:
        # No dummy prefix behind the image: a caption's first word keeps its letters and loses its "▁".
        assert {text.removeprefix(" ") for text in texts} == {f"{CAPTIONS[name]}\n".removeprefix(" ")}
    assert f"{CAPTIONS[name]}\n" in texts


def test_llava_masks_a_whole_sample_whose_answer_holds_the_assistant_mark_and_we_do_not(
    encoders: Callable[[str, str], Encoder],
    slow_tokenizers: dict[str, Slow],
    sentence_pieces: sentencepiece.SentencePieceProcessor,
) -> None:
    turns = chat("what ?", "he said ASSISTANT: no", "why ?", "yes")
    _, slow_labels = llava_v1(turns, False, slow_tokenizers["llama 2 era"])
    _, fast_labels = ours(turns, encoders("llama 2 era", "v1"))
    assert set(slow_labels) == {IGNORED}
    assert [sentence_pieces.decode(span) for span in spans_of(fast_labels)] == ["he said ASSISTANT: no", "yes"]
