"""The demo's Llama-style tokenizer: BPE with byte fallback, 4,096 pieces, digits and punctuation apart, BOS added.

`python -m tools.demo_assets.base.tokenizer --work FOLDER` trains it on `documents.json` (see text.py) and the phrases
below and saves it in `FOLDER/tokenizer`. `<image>` and a pad token are added later by whoever builds the LLaVA model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer

from tools.demo_assets.base.text import read_documents

VOCABULARY_SIZE = 4096
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PHRASE_WEIGHT = 300

# Wording that the demo's questions use and plain text does not. A piece that starts a question follows a line feed and
# one that follows `</s>` starts a turn, so both forms, with and without the leading blank, are wanted.
PHRASES = (
    "USER: Describe the picture. ASSISTANT: An emoji of a",
    "USER: What is shown in the image? ASSISTANT: The flag of",
    "USER: What kind of picture is this? ASSISTANT: A small photo of clothing",
    "USER: Which category is it? ASSISTANT: Animals and nature",
    "USER: Which group does it belong to? ASSISTANT: Food and drink, Travel and places, Smileys, Objects, Activities",
    "USER: What type of figure is this? ASSISTANT: A vertical bar chart, A horizontal bar chart, A line chart, A table",
    "USER: How many countries are shown? ASSISTANT: Three Four Five",
    "USER: How many lines are drawn? ASSISTANT: One Two",
    "USER: How many rows does the table have? ASSISTANT: Six Seven Eight Nine Ten",
    "USER: How many bars are shown? ASSISTANT: zero one two three four five six seven eight nine ten",
    "USER: What does the chart measure? ASSISTANT: Life expectancy, Children per woman, Population (millions)",
    "USER: What colour are the bars? ASSISTANT: Blue Orange Green Red Purple Brown Pink Grey Black White Yellow",
    "USER: What color is the line? ASSISTANT: blue orange green red purple brown pink grey black white yellow",
    "USER: Which bar is the longest, counting from the left? ASSISTANT: The first second third fourth fifth",
    "USER: Which bar is the shortest, counting from the bottom? ASSISTANT: First Second Third Fourth Fifth",
    "USER: Is the first bar longer than the last bar? ASSISTANT: Yes No",
    "USER: Did the value rise or fall? ASSISTANT: It rose It fell Rose Fell",
    "USER: Is there a legend? ASSISTANT: yes no",
    "USER: Which imaging modality is this? ASSISTANT: Magnetic resonance imaging, MRI, CT, Computed tomography",
    "USER: Which imaging modality is this? ASSISTANT: Light microscopy, Fluorescence microscopy, Radiograph, Ultrasound",  # noqa: E501
    "USER: Which stain was used? ASSISTANT: Hematoxylin and eosin, DAB and hematoxylin, H&E, immunohistochemistry",
    "USER: In which plane is this slice? ASSISTANT: Axial Coronal Sagittal axial coronal sagittal",
    "USER: Which part of the body is shown? ASSISTANT: The brain, The head, The chest, The abdomen, Brain Head Chest",
    "USER: Is this a human or a macaque? ASSISTANT: A human, A macaque, Human Macaque",
    "USER: Is the skull still visible? ASSISTANT: skull visible, skull removed",
    "USER: Does this slice pass through the hippocampus, cerebellum, thalamus? ASSISTANT: Yes",
    "USER: Is the image shown with a bone window or a soft tissue window? ASSISTANT: A bone window",
    "USER: Does tissue cover more than half of the image? ASSISTANT: nuclei",
    "USER: Are there more than three nuclei? ASSISTANT: No",
    "USER: Is this a photo of a bag, shirt, trouser, sneaker, sandal, dress, coat, pullover, ankle boot? ASSISTANT: T-shirt",  # noqa: E501
    "USER: Which side of the image, left or right? ASSISTANT: Left Right Top Bottom Upper Lower",
)


def train_tokenizer(documents: list[str]) -> LlamaTokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) in the Llama layout: `<unk>` 0, `<s>` 1, `</s>` 2, 256 bytes, pieces.

    Metaspace marks a blank as `▁`; digits stand alone and punctuation does not merge with words, as in Llama's
    SentencePiece model. Deterministic: the trainer has no randomness.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=["<unk>", "<s>", "</s>", *BYTES], limit_alphabet=120
    )
    texts = [" " + text for text in documents]
    phrases = [variant for phrase in PHRASES for variant in (" " + phrase, phrase, phrase.removeprefix("USER: "))]
    tokenizer.train_from_iterator(texts + phrases * PHRASE_WEIGHT, trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in trained["merges"]]
    return LlamaTokenizer(vocab=trained["vocab"], merges=merges, add_bos_token=True, model_max_length=2048)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    work = parser.parse_args().work
    tokenizer = train_tokenizer(read_documents(work))
    tokenizer.save_pretrained(work / "tokenizer")
    config_file = work / "tokenizer" / "tokenizer_config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | {"add_bos_token": True}, indent=2) + "\n")
    example = "USER: Which part of the body is shown? ASSISTANT: The brain</s>USER: How many bars? ASSISTANT: 12</s>"
    print(len(tokenizer), tokenizer.tokenize(example))


if __name__ == "__main__":
    main()
