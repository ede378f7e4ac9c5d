"""M3IT: forty data sets of captioning, classification, VQA, reasoning and generation, in English and Chinese.

Source: MMInstruction/M3IT on the hub, 384 GB: ``data/<group>/<name>/{train,val,test}.jsonl`` with images in the
records, ``instructions.json`` beside. Li et al. 2023, arXiv 2306.04387. A Parquet conversion with one image a record,
HuggingFaceM4/M3IT (1,238,638 training rows, 76 GB), is read too: ``path=`` its folder.
Licence: "other": each set under its own.

Training records by group: captioning 679,087; classification 238,303; VQA 177,633; knowledge VQA 39,981; reasoning
99,372; generation 145,000; Chinese 192,076; video 20,868.

Mapping: the question is the instruction, and behind a newline the inputs where there are any; placeholders of all
images stand in front; ``outputs`` (or ``answer`` of rephrased rows) is the answer; the set's name is the task. Older
rows have no instruction: one is drawn from ``instructions.json`` with seed 1234 in record order, as the loader does
(that every file starts the draw again is an assumption).

Traps: dated copies (``refcoco/train_2023-10-08.jsonl``) are rephrased versions of the same records: the original is
read, a dated file only where there is no original, the latest. Odd names (``mmchat/validation.jsonl``,
``esnlive_train.jsonl``, ``train.large.jsonl``) count as what they are. The published loader needs ``datasets`` below 4.
Videos are lists of frames: eight images of 576 tokens do not fit 2,048 and such records are dropped as too long unless
``train.max_length`` is raised. Some of nlvr's images are broken. Test files hold records without answers.
Overlaps with benchmarks (docvqa, text-vqa, vqa-v2, snli-ve, science-qa, imagenet, coco): ``data check against=`` finds
them.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="m3it",
    title="M3IT: forty sets under 400 instructions, 1,592,320 training records, images inside",
    source="MMInstruction/M3IT",
    licence="other: each of the forty sets under its own",
    get=("hf download MMInstruction/M3IT --repo-type dataset --local-dir . --include 'data/*'",),
    domain="general",
    format="m3it",
    parts=(
        Part(split="train", find="data", expected=1_592_320),
        Part(split="val", find="data", expected=307_190),
        Part(split="test", find="data", expected=105_754),
    ),
    address="hf://datasets/MMInstruction/M3IT",
    notes=(
        "Some of nlvr's images are broken as published: their records are left out and counted.",
        "The counts are the card's sums over eight groups.",
        "One group or set alone: path=FOLDER/data/captioning as a source of format m3it.",
        "To leave sets out that benchmarks hold: a page of one's own with draw=Draw('task', leave_out=('docvqa',)).",
        "The papers' general domain is this and sharegpt4v_ft, 2.26 M records.",
    ),
)
