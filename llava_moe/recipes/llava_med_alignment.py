"""LLaVA-Med's alignment set: about 500 K figures of PubMed Central with an instruction and their captions.

Source: microsoft/LLaVA-Med, ``alignment/llava_med_alignment_500k.json`` (358 MB); images are cut from PMC articles by
the repository's ``download_images.py``. Li et al. 2023, arXiv 2306.00890.
Licence: research only (Microsoft Research); figures under their articles' licences.

Mapping: LLaVA's records, whose key is spelt ``conversatons`` in many; the flags of ``domain`` that are set become the
task (``chest_xray``, ``mri``, ``ct_scan``, ``histology``, ``gross``).

Traps: addresses of articles that no longer answer are to be expected: leave these records out. The JSON in the
repository is a pointer (LFS): fetch it from the address below.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe, Repair

RECIPE = Recipe(
    name="llava_med_alignment",
    title="LLaVA-Med alignment: about 500,000 biomedical figures with captions (medical stage 1)",
    source="microsoft/LLaVA-Med",
    licence="research only; figures under their articles' licences",
    get=(
        "wget https://hanoverprod.z21.web.core.windows.net/med_llava/alignment/llava_med_alignment_500k.json",
        "wget https://hanoverprod.z21.web.core.windows.net/med_llava/llava_med_image_urls.jsonl",
        "git clone https://github.com/microsoft/LLaVA-Med && mkdir -p pmc_articles images",
        "git -C LLaVA-Med checkout d406e3f && python LLaVA-Med/llava/data/download_images.py "
        "--input_path llava_med_image_urls.jsonl --pmc_output_path pmc_articles/ --images_output_path images/",
    ),
    domain="medical",
    format="llava",
    parts=(Part(split="train", find="llava_med_alignment_500k.json", expected=None),),
    images="images",
    repairs=(
        Repair(
            name="pmc-gone",
            pattern="*",
            reasons=("image_missing",),
            fault="articles of PubMed Central that no longer answer, so that their figures are not there",
            remedy="run download_images.py again for a second try; then leave the records out by the quarantine list",
        ),
    ),
    notes=("No exact count is published: 500K.",),
)
