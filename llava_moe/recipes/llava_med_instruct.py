"""LLaVA-Med's instruction set: conversations on biomedical figures, written by GPT-4 from captions and mentions.

Source: microsoft/LLaVA-Med, ``instruct/llava_med_instruct_60k_inline_mention.json``, the one its released model was
trained on; ``..._10k.json`` and ``..._60k.json`` are read as well (``path=`` the file). Li et al. 2023, arXiv
2306.00890.
Licence: research only (Microsoft Research) and OpenAI's terms; figures under their articles' licences.

Mapping: LLaVA's records, whose key is spelt ``conversatons`` in many; the flags of ``domain`` that are set become the
task. ``<image>`` stands before or behind the first question.

Traps: as for ``llava_med_alignment``, whose images these share.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe, load_recipe

RECIPE = Recipe(
    name="llava_med_instruct",
    title="LLaVA-Med instruct: 60,000 conversations on biomedical figures (medical stage 2)",
    source="microsoft/LLaVA-Med",
    licence="research only and OpenAI's terms; figures under their articles' licences",
    get=(
        "wget https://hanoverprod.z21.web.core.windows.net/med_llava/instruct/"
        "llava_med_instruct_60k_inline_mention.json",
        "# images: as for llava_med_alignment, into images/",
    ),
    domain="medical",
    format="llava",
    parts=(Part(split="train", find="llava_med_instruct_60k_inline_mention.json", expected=None),),
    images="images",
    repairs=load_recipe("llava_med_alignment").repairs,
    notes=("No exact count is published: 60K.",),
)
