"""LLaVA-1.5's instruction mix: ``llava_v1_5_mix665k.json``, ten sources, 40,688 records of text alone among them.

Source: liuhaotian/LLaVA-Instruct-150K on the hub (1.03 GB of JSON). Images come from five places and lie under
one root: ``coco/train2017``, ``gqa/images``, ``ocr_vqa/images``, ``textvqa/train_images``, ``vg/VG_100K``,
``vg/VG_100K_2``.
Licence: CC-BY-4.0 and OpenAI's terms for the LLaVA part; the images are under their own.

Composition, as a maintainer recounted it: LLaVA 157,712; ShareGPT 40,688; VQAv2 82,783; GQA 72,140; OK-VQA 8,998;
OCR-VQA 80,000; A-OKVQA 66,160; TextCaps 21,953; RefCOCO 48,447; the rest is Visual Genome.

Mapping: LLaVA's records as they are. Records of text alone have no ``image`` key, may carry ``"model": ""`` and may
start with the assistant's turn, which is dropped as LLaVA does. Ids repeat across tasks and are kept as they are.

Traps: OCR-VQA is downloaded image by image; many come as GIF or PNG while every record says ``.jpg``. Their paths are
resolved by stem and images are opened by what they hold, so nothing has to be renamed.
"""

from llava_moe.datatools.prepare.recipe import Part, Recipe, Repair

OCR_VQA = (
    Repair(
        name="ocr-vqa-suffix",
        pattern="ocr_vqa/images/*",
        reasons=("image_extension", "image_by_stem"),
        fault="the file is a GIF or PNG where its name or the record says .jpg",
        remedy="nothing: files are found by stem and opened by content",
        expected=900,
    ),
    Repair(
        name="ocr-vqa-gone",
        pattern="ocr_vqa/images/*",
        reasons=("image_missing",),
        fault="355 of the 80,000 covers can no longer be downloaded",
        remedy="leave them out by the quarantine list; many more than 355 missing: run the download again",
        expected=355,
    ),
    Repair(
        name="ocr-vqa-corrupt",
        pattern="ocr_vqa/images/*",
        reasons=("image_unreadable", "image_empty", "image_not_image"),
        fault="some downloads are damaged, such as 1437717772.jpg",
        remedy="fetch these files again, else leave them out by the quarantine list",
    ),
)
VISUAL_GENOME = (
    Repair(
        name="vg-empty",
        pattern="vg/VG_100K*/*",
        reasons=("image_unreadable", "image_empty", "image_not_image"),
        fault="about 170 files of Visual Genome unpack empty",
        remedy="unpack images.zip and images2.zip again, each into its own folder; else leave them out",
        expected=170,
    ),
)

RECIPE = Recipe(
    name="llava_mix665k",
    title="LLaVA-1.5 mix665k: the instruction mix of stage 2, with 40,688 records of text alone",
    source="liuhaotian/LLaVA-Instruct-150K",
    licence="CC-BY-4.0 and OpenAI's terms (LLaVA part); images under their own",
    get=(
        "hf download liuhaotian/LLaVA-Instruct-150K llava_v1_5_mix665k.json --repo-type dataset --local-dir .",
        "wget http://images.cocodataset.org/zips/train2017.zip && unzip -q train2017.zip -d coco",
        "wget https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip -O gqa.zip && unzip -q gqa.zip -d gqa",
        "wget https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip && "
        "unzip -q train_val_images.zip -d textvqa",
        "wget https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip -O vg.zip && unzip -q vg.zip -d vg",
        "wget https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip -O vg2.zip && unzip -q vg2.zip -d vg",
        "# OCR-VQA: the download script of https://ocr-vqa.github.io, its images into ocr_vqa/images",
    ),
    domain="general",
    format="llava",
    parts=(Part(split="train", find="llava_v1_5_mix665k.json", expected=665_298),),
    images=".",
    repairs=(*OCR_VQA, *VISUAL_GENOME),
    notes=("The count 665,298 is as users report it; the publisher says 665K.",),
)
