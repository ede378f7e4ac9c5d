"""ShareGPT4V's 102 K captions by GPT-4V, from which Share-Captioner was trained.

Source: Lin-Chen/ShareGPT4V on the hub, ``sharegpt4v_instruct_gpt4-vision_cap100k.json`` (134 MB). Chen et al. 2023,
arXiv 2311.12793.
Licence: CC-BY-NC-4.0 and OpenAI's terms.

Images lie under the root of ``sharegpt4v_pt``, and besides: SAM 19,982, wikiart 500, share_textvqa 500,
web-celebrity 498, web-landmark 500.

Mapping: LLaVA's records as they are, one question and one answer.

Traps: the 9K archive of SAM that the publisher offers covers the instruction mix alone; 11 K of this set's SAM images
come from SAM's own tars. ``web-celebrity/images/Choi_Min-sik.jpg`` is not in the archive.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe, Repair

RECIPE = Recipe(
    name="sharegpt4v_cap100k",
    title="ShareGPT4V cap100k: about 102,000 images with captions by GPT-4V",
    source="Lin-Chen/ShareGPT4V",
    licence="CC-BY-NC-4.0 and OpenAI's terms",
    get=(
        "hf download Lin-Chen/ShareGPT4V sharegpt4v_instruct_gpt4-vision_cap100k.json --repo-type dataset "
        "--local-dir .",
        "# images: as for sharegpt4v_pt, and share_textvqa, web-celebrity, web-landmark, wikiart from the archives",
        "# that https://github.com/ShareGPT4Omni/ShareGPT4V/blob/master/docs/Data.md names, each unpacked here",
    ),
    domain="captions",
    format="llava",
    parts=(Part(split="train", find="sharegpt4v_instruct_gpt4-vision_cap100k.json", expected=None),),
    images=".",
    repairs=(
        Repair(
            name="sam-9k",
            pattern="sam/images/*",
            reasons=("image_missing",),
            fault="the 9K archive of SAM lacks about 11,000 images of this set",
            remedy="unpack SAM's tars 000000 to 000050 into sam/images; else leave these records out",
            expected=11_000,
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
    notes=("No exact count is published: 102K.",),
)
