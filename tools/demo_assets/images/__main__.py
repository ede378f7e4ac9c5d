"""Make the demo's images: `python -m tools.demo_assets.images --work FOLDER --out llava_moe/demo/images`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from tools.demo_assets.images.balance import balance
from tools.demo_assets.images.bar_charts import draw_bar_charts
from tools.demo_assets.images.brain_volumes import read_brain_volumes
from tools.demo_assets.images.card import write_card
from tools.demo_assets.images.chart_numbers import read_numbers
from tools.demo_assets.images.clothing import read_clothing
from tools.demo_assets.images.computed_tomography import read_contrast_brain_slices, read_lung_slices
from tools.demo_assets.images.data_tables import draw_tables
from tools.demo_assets.images.dicom_files import read_dicom_files, read_proton_density_series
from tools.demo_assets.images.duplicates import NEAR, drop_duplicates
from tools.demo_assets.images.emoji import read_emoji
from tools.demo_assets.images.emoji_groups import read_emoji_groups
from tools.demo_assets.images.flags import read_flags
from tools.demo_assets.images.item import Item
from tools.demo_assets.images.licences import write_licences, write_sources
from tools.demo_assets.images.line_charts import draw_line_charts
from tools.demo_assets.images.manual_pages import read_manual_pages
from tools.demo_assets.images.microscopy import read_brown_stain, read_nuclei, read_retina, read_stained_slide
from tools.demo_assets.images.packages import Shelf, fetch_packages
from tools.demo_assets.images.photographs import read_photographs
from tools.demo_assets.images.pie_charts import draw_pie_charts
from tools.demo_assets.images.scatter_plots import draw_scatter_plots
from tools.demo_assets.images.write import encode_image, write_parquet

READERS = (
    read_emoji,
    read_emoji_groups,
    read_clothing,
    read_flags,
    read_photographs,
    read_manual_pages,
    read_brain_volumes,
    read_lung_slices,
    read_contrast_brain_slices,
    read_dicom_files,
    read_proton_density_series,
    read_stained_slide,
    read_brown_stain,
    read_nuclei,
    read_retina,
)
DRAWERS = (draw_bar_charts, draw_line_charts, draw_pie_charts, draw_scatter_plots, draw_tables)


def all_items(shelf: Shelf) -> Iterator[Item]:
    """Every item of every source, before balancing."""
    for read in READERS:
        yield from _counted(read.__name__, read(shelf))
    numbers = read_numbers(shelf)
    for draw in DRAWERS:
        yield from _counted(draw.__name__, draw(numbers))


def _counted(name: str, items: Iterator[Item]) -> Iterator[Item]:
    found = list(items)
    print(f"{len(found):5d}  {name}", flush=True)
    yield from found


def main() -> None:
    """Fetch, read, draw, balance and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for packages (about 0.3 GB packed, 1.5 GB unpacked)"
    )
    parser.add_argument("--out", type=Path, default=Path("llava_moe/demo/images"))
    arguments = parser.parse_args()
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    shelf = fetch_packages(arguments.work)
    items = list(all_items(shelf))
    encoded = [encode_image(item) for item in items]
    kept, identical, near = drop_duplicates(items, encoded)
    print(f"dropped {identical} identical pictures and {near} near-duplicates across splits")
    content = {items[index].id: encoded[index] for index in kept}
    balanced = balance([items[index] for index in kept])
    write_parquet(balanced, [content[item.id] for item in balanced], arguments.out)
    write_licences(shelf, arguments.out / "LICENSES")
    write_sources(balanced, arguments.out / "SOURCES.json")
    num_bytes = sum(path.stat().st_size for path in arguments.out.glob("*.parquet"))
    write_card(balanced, num_bytes, (identical, near), NEAR, arguments.out / "README.md")


if __name__ == "__main__":
    main()
