"""M3IT-80: seven of M3IT's sets translated into eighty languages.

Source: MMInstruction/M3IT-80 on the hub: ``data/<task>/<task>_<split>_<language>.jsonl`` for imagenet, vqa-v2, okvqa,
winoground, vist, msrvtt and msrvtt-qa. Li et al. 2023, arXiv 2306.04387.
Licence: "other": each set under its own.

Mapping: as M3IT. Images and whatever a translation does not say come from the original, ``<split>_500.jsonl``
(``_800``) of the same folder, joined by row number; the task is ``<task>-<language>``.

Traps: the published loader needs ``datasets`` below 4. The join has nothing but the row number: where one file of a
pair ends before the other, reading stops and says so. Languages are FLORES codes (``deu_Latn``).
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="m3it80",
    title="M3IT-80: seven sets in eighty languages, 500 records each",
    source="MMInstruction/M3IT-80",
    licence="other: each of the seven sets under its own",
    get=("hf download MMInstruction/M3IT-80 --repo-type dataset --local-dir . --include 'data/*'",),
    domain="general",
    format="m3it80",
    parts=(
        Part(split="train", find="data", expected=None),
        Part(split="val", find="data", expected=240_000),
        Part(split="test", find="data", expected=184_000),
    ),
    address="hf://datasets/MMInstruction/M3IT-80",
    notes=(
        "The counts are M3IT's card's, which knows no training records; M3IT-80's own speaks of 500 a language.",
        "One language alone: path='FOLDER/data/*/*_deu_Latn.jsonl' as a source of format m3it80.",
    ),
)
