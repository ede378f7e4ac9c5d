"""UReader: ten document sets as instructions: charts, forms, tables, infographics, pages and text in scenes.

Source: Mizukiluke/ureader-instruction-1.0 on the hub: ``ureader_json.zip`` (43 MB) and a tar of images a set (ChartQA,
DeepForm, DocVQA, InfographicsVQA, KleisterCharity, TabFact, TextCaps, TextVQA, VisualMRC, WikiTableQuestions; 78 GB
together). Ye et al. 2023, arXiv 2310.05126.
Licence: none stated; each set under its own (DocVQA and InfographicsVQA ask for registration).

Mapping: ``image`` is a list of paths under ``ureader_images``; the turn that is ``<image>`` alone and the question
behind it are merged into one; the task is ``task_type`` without the processor's name (``qa_sft``: qa).
``train.jsonl`` and ``val.jsonl`` are both training data, as the released configuration lists them: 654,840 records.

Traps: ``scan.tif.2`` is page 2 of the multi-page ``scan.tif``, counted from 0. The answer ``None`` means that a form
lacks the field and is trained on. TabFact answers true or false. Infographics are very tall, and PNGs may carry alpha.
No mixing ratio is shipped: the oversampling of sets stands in the row counts.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="ureader",
    title="UReader: ten document sets as instructions, 654,840 records",
    source="Mizukiluke/ureader-instruction-1.0",
    licence="none stated; each of the ten sets under its own",
    get=(
        "hf download Mizukiluke/ureader-instruction-1.0 --repo-type dataset --local-dir .",
        "unzip -q ureader_json.zip",
        "mkdir -p ureader_images && for tar in *.tar*; do tar -xf $tar -C ureader_images; done",
        "# the images must lie as ureader_images/DUE_Benchmark/DocVQA/pngs/...: move the folders if the tars differ",
    ),
    domain="documents",
    format="ureader",
    parts=(
        Part(split="train", find="ureader_json", expected=654_840),
        Part(split="test", find="ureader_json", expected=None),
    ),
    images="ureader_images",
    # Its ratios are made so.
    repeats_on_purpose=True,
    notes=(
        "The papers' 1.1 M document records are taken for 1.68 passes over these: an assumption.",
        "654,840 is the released configuration's comment, and agrees with its number of iterations.",
    ),
)
