"""ShareGPT4V-PT: 1,246,901 images with long captions by Share-Captioner, ShareGPT4V's stage 1.

Source: Lin-Chen/ShareGPT4V on the hub, ``share-captioner_coco_lcs_sam_1246k_1107.json`` (1.49 GB). Chen et al. 2023,
arXiv 2311.12793. 676,415 images of COCO and LLaVA-Pretrain (LCS), 570,486 of SAM.
Licence: CC-BY-NC-4.0.

Images lie under one root: ``coco/train2017``, ``sam/images``, and LLaVA-Pretrain's under
``llava/llava_pretrain/images`` (a longer prefix than LLaVA-Pretrain's own paths).

Mapping: LLaVA's records as they are, one question and one answer of 100 to 300 words.

Traps: SAM's tars 000000 to 000050 are needed, and people end with about half of SAM's images: set
``data.max_bad_share`` to what you accept, or take ``mit-han-lab``'s list without SAM. The hub's viewer shows several
configurations: name the file.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe, Repair

SAM = Repair(
    name="sam-tars",
    pattern="sam/images/*",
    reasons=("image_missing",),
    fault="SAM's images are missing: tars 000000 to 000050 are needed, and 14, 16, 17, 19 are often damaged",
    remedy="fetch those tars of segment-anything again and unpack them into sam/images; else leave these records out",
)

RECIPE = Recipe(
    name="sharegpt4v_pt",
    title="ShareGPT4V-PT: 1,246,901 images with long captions (ShareGPT4V stage 1)",
    source="Lin-Chen/ShareGPT4V",
    licence="CC-BY-NC-4.0",
    get=(
        "hf download Lin-Chen/ShareGPT4V share-captioner_coco_lcs_sam_1246k_1107.json --repo-type dataset "
        "--local-dir .",
        "wget http://images.cocodataset.org/zips/train2017.zip && unzip -q train2017.zip -d coco",
        "hf download liuhaotian/LLaVA-Pretrain images.zip --repo-type dataset --local-dir llava/llava_pretrain",
        "unzip -q llava/llava_pretrain/images.zip -d llava/llava_pretrain/images",
        "# SAM: tars 000000 to 000050 of https://ai.meta.com/datasets/segment-anything-downloads into sam/images",
    ),
    domain="captions",
    format="llava",
    parts=(Part(split="train", find="share-captioner_coco_lcs_sam_1246k_1107.json", expected=1_246_901),),
    images=".",
    repairs=(SAM,),
    notes=("570,486 of its records need SAM's images.",),
)
