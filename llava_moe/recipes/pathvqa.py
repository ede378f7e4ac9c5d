"""PathVQA: questions about pathology figures of textbooks, half of them answered by yes or no.

Source: flaviagiammarino/path-vqa on the hub, Parquet with the images inside (785 MB): the upload of February 2023 of
He et al. 2020, arXiv 2003.10286, with exact duplicates inside a split dropped: 32,632 questions on 4,289 images.
Licence: the card says MIT; the figures remain their publishers'.

Mapping: ``image`` (``{"bytes", "path"}``) opens the one question, ``answer`` is its answer; ``task`` is ``closed``
where the answer is yes or no, else ``open`` (the set has no such column); the split comes from the file's name,
``validation`` as ``val``.

Traps: greyscale and CMYK scans are among the images. Questions are generated, all in lower case, sometimes
ungrammatical. LLaVA-Med's copy of the set is the one with duplicates, 19,755/6,279/6,761: say which one was scored.
The CSV files of the original distribution are broken and are not read.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="pathvqa",
    title="PathVQA: 19,654 training questions on pathology figures, open and closed",
    source="flaviagiammarino/path-vqa",
    licence="MIT by its card; the figures are their textbooks'",
    get=("hf download flaviagiammarino/path-vqa --repo-type dataset --local-dir .",),
    domain="medical",
    format="pathvqa",
    parts=(
        Part(split="train", find="data", expected=19_654),
        Part(split="val", find="data", expected=6_259),
        Part(split="test", find="data", expected=6_719),
    ),
    address="hf://datasets/flaviagiammarino/path-vqa",
    notes=(
        "The papers repeat it to 0.4 M records: repeats=20.35 in a mixture.",
        "The test split is a benchmark: train on split=train.",
    ),
)
