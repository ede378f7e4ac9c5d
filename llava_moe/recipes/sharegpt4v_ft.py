"""ShareGPT4V's instruction mix: mix665k with 23 K of its detailed captions swapped for GPT-4V's.

Source: Lin-Chen/ShareGPT4V on the hub, ``sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json`` (1.23 GB). Chen
et al. 2023, arXiv 2311.12793. With M3IT it is the general domain of the papers' mixture.
Licence: CC-BY-NC-4.0 and OpenAI's terms.

Images lie under one root: mix665k's folders, ``llava/llava_pretrain/images``, ``sam/images`` (the 9K archive is
enough), ``share_textvqa/images``, ``web-celebrity/images``, ``web-landmark/images``, ``wikiart/images``.

Mapping: LLaVA's records as they are, the same 40 K records of text alone among them. Expected: 665,298, mix665k's
count, since it swaps captions and keeps the rest (an assumption).

Traps: all of mix665k's (OCR-VQA, Visual Genome), and ``Choi_Min-sik.jpg``.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe, Repair, load_recipe

RECIPE = Recipe(
    name="sharegpt4v_ft",
    title="ShareGPT4V-FT: mix665k with 23,000 captions by GPT-4V (ShareGPT4V stage 2)",
    source="Lin-Chen/ShareGPT4V",
    licence="CC-BY-NC-4.0 and OpenAI's terms",
    get=(
        "hf download Lin-Chen/ShareGPT4V sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json "
        "--repo-type dataset --local-dir .",
        "# images: as for llava_mix665k, LLaVA-Pretrain's images.zip into llava/llava_pretrain/images, and SAM 9K,",
        "# share_textvqa, web-celebrity, web-landmark, wikiart from the archives that",
        "# https://github.com/ShareGPT4Omni/ShareGPT4V/blob/master/docs/Data.md names, each unpacked here",
    ),
    domain="general",
    format="llava",
    parts=(Part(split="train", find="sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json", expected=665_298),),
    images=".",
    repairs=(
        *load_recipe("llava_mix665k").repairs,
        Repair(
            name="sam-9k",
            pattern="sam/images/*",
            reasons=("image_missing",),
            fault="SAM's images of this mix come in an archive of their own (sam_images_share-sft.zip, 9K)",
            remedy="fetch it and unpack it into sam/images; else leave these records out",
        ),
        Repair(
            name="choi-min-sik",
            pattern="web-celebrity/images/Choi_Min-sik.jpg",
            reasons=("image_missing",),
            fault="the archive of web-celebrity lacks this one image",
            remedy="leave its record out by the quarantine list",
            expected=1,
        ),
    ),
    notes=(
        "The count 665,298 is mix665k's, whose records this mix keeps but for other captions: no count of its own is "
        "published, so a small difference is no fault.",
    ),
)
