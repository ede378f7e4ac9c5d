"""Vision-Flan as MixLoRA trained on it: 187 tasks, at most 1,000 records of each.

Source: Vision-Flan/vision-flan on the hub, the whole set: ``vision_flan.json`` (983 MB, 1,664,261 records of 187
tasks) and ``shard_01`` to ``shard_09`` with images. Xu et al. 2024, arXiv 2402.11690; the draw: Shen et al. 2024
(Conditional MixLoRA), arXiv 2402.15896.
Licence: none stated for the whole; each task's data set under its own.

Known: 187 tasks, up to 1,000 records of each, 182,167 in all. Not known: which records were drawn. Assumed here: a
draw without preference within each task, seed 0; tasks with fewer than 1,000 give all they have. The number drawn then
follows from the set alone, and ``data prepare`` compares it with 182,167.

Mapping: LLaVA's records; ``task_name`` is the task. ``[Options]`` in prompts stays as it is.

Traps: records without a ``task_name`` would count as one task of their own. The hub shows images only. Assumed: image
paths are bare names, as in the annotations of 191 tasks, so that all shards' images go into one folder.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe
from llava_moe.datatools.prepare.subsample import Draw

RECIPE = Recipe(
    name="vision_flan_187",
    title="Vision-Flan 187 tasks as MixLoRA drew them: at most 1,000 a task, 182,167 records",
    source="Vision-Flan/vision-flan",
    licence="none stated for the whole; each task's data set under its own",
    get=(
        "hf download Vision-Flan/vision-flan --repo-type dataset --local-dir .",
        "bash unzip.sh",
        "mkdir -p images && find shard_* -type f -path '*raw_dataset*' -exec mv -n -t images {} +",
    ),
    domain="general",
    format="llava",
    parts=(Part(split="train", find="vision_flan.json", expected=1_664_261),),
    images="images",
    draw=Draw(key="task_name", max_per_task=1_000, seed=0, expected=182_167),
    notes=("Which records MixLoRA drew is not known: a draw by seed 0 is an assumption.",),
)
