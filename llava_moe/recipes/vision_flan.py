"""Vision-Flan, 191 tasks: at most 1,000 records a task of academic data sets under expert-written instructions.

Source: Vision-Flan/vision-flan_191-task_1k on the hub: ``annotation_191-task_1k.json`` (110 MB) and
``image_191-task_1k.zip`` (36.3 GB). Xu et al. 2024, arXiv 2402.11690.
Licence: none stated for the whole; each task's data set under its own.

Mapping: LLaVA's records; ``task_name`` is the task. Multiple-choice prompts hold the word ``[Options]``, which stays as
it is for training (MixLoRA writes ``Options`` at evaluation).

Traps: the hub takes the repository for a folder of images; the JSON is read by itself. ``metadata.json`` repeats the
annotations for the viewer.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="vision_flan",
    title="Vision-Flan 191 tasks: about 186,000 records, at most 1,000 a task",
    source="Vision-Flan/vision-flan_191-task_1k",
    licence="none stated for the whole; each task's data set under its own",
    get=(
        "hf download Vision-Flan/vision-flan_191-task_1k --repo-type dataset --local-dir .",
        "unzip -q -j image_191-task_1k.zip -d images",
    ),
    domain="general",
    format="llava",
    parts=(Part(split="train", find="annotation_191-task_1k.json", expected=None),),
    images="images",
    notes=("No exact count is published: about 186K.",),
)
