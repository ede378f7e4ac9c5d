"""LLaVA-Pretrain 558k: images of LAION, CC and SBU with BLIP captions, LLaVA-1.5's stage 1.

Source: liuhaotian/LLaVA-Pretrain on the hub: ``blip_laion_cc_sbu_558k.json`` (181 MB) and ``images.zip``, whose folders
``00000/`` and on are what image paths start from. Liu et al. 2023, arXiv 2310.03744.
Licence: the page of the data leaves it to the licences of LAION, CC-3M and SBU.

Mapping: LLaVA's records as they are. ``<image>`` stands before or behind the instruction; the plain template of stage 1
throws the instruction away and learns the caption.

Traps: the repository's second JSON file (``..._meta.json``, columns id, url, image, blip_caption) has no conversations:
name the file, not the folder. Records are exactly one question and one answer.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe

RECIPE = Recipe(
    name="llava_pretrain",
    title="LLaVA-Pretrain: 558,128 images with BLIP captions (LLaVA-1.5 stage 1)",
    source="liuhaotian/LLaVA-Pretrain",
    licence="of LAION, CC-3M and SBU; none stated for the whole",
    get=(
        "hf download liuhaotian/LLaVA-Pretrain --repo-type dataset --local-dir .",
        "unzip -q images.zip -d images",
    ),
    domain="captions",
    format="llava",
    parts=(Part(split="train", find="blip_laion_cc_sbu_558k.json", expected=558_128),),
    images="images",
    notes=("558,128 agrees with ShareGPT4V's count: 676,415 captions of COCO and LCS less COCO's 118,287.",),
)
