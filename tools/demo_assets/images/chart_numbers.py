"""The real numbers behind charts and tables, cut into splits by country and by year (or by row)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from tools.demo_assets.images.item import SPLITS
from tools.demo_assets.images.packages import Shelf
from tools.demo_assets.images.splits import split_of_key

MEASURES = {
    "Life expectancy": "life_expectancy",
    "Children per woman": "fertility",
    "Population": "population",
}
FIRST_YEAR = 1964
YEARS = {"test": (1971, 1983, 1995, 2007), "val": (1977, 2001), "train": ()}


@dataclass(frozen=True)
class Numbers:
    """The tables. `gapminder` is indexed by (country, year)."""

    gapminder: pd.DataFrame
    cars: pd.DataFrame
    penguins: pd.DataFrame
    elements: pd.DataFrame
    unemployment: pd.DataFrame

    def value(self, country: str, year: int, column: str) -> float:
        """One number of gapminder."""
        return float(self.series(country, column)[year - FIRST_YEAR])

    def series(self, country: str, column: str) -> np.ndarray:
        """A country's numbers over all years from FIRST_YEAR on."""
        return self._series[country, column]

    @cached_property
    def _series(self) -> dict[tuple[str, str], np.ndarray]:
        return {
            (str(country), column): part[column].to_numpy(float)
            for country, part in self.gapminder.groupby(level="country")
            for column in MEASURES.values()
        }

    def countries(self, split: str) -> list[str]:
        """The countries of the split with a short name and all numbers of all years."""
        return self._countries[split]

    @cached_property
    def _countries(self) -> dict[str, list[str]]:
        complete = [
            name
            for name in self.gapminder.index.levels[0]
            if len(name) < 12 and all(np.isfinite(self.series(name, column)).all() for column in MEASURES.values())
        ]
        return {split: [name for name in complete if split_of_key("country", name) == split] for split in SPLITS}

    def years(self, split: str) -> list[int]:
        """The years of the split; train leaves out the held-out years and their neighbours."""
        if split != "train":
            return list(YEARS[split])
        held = YEARS["test"] + YEARS["val"]
        return [year for year in range(1965, 2014) if all(abs(year - other) > 1 for other in held)]


def read_numbers(shelf: Shelf) -> Numbers:
    """All tables with rows in a fixed order."""

    def bokeh(file: str) -> pd.DataFrame:
        return pd.read_csv(shelf.one("bokeh_sampledata", f"bokeh_sampledata/_data/{file}"))

    gapminder = bokeh("gapminder.csv.gz").set_index(["country", "year"]).sort_index()
    gapminder["population"] = gapminder["population"] / 1e6
    return Numbers(
        gapminder,
        bokeh("auto-mpg.csv"),
        bokeh("penguins.csv").dropna(),
        bokeh("elements.csv"),
        bokeh("unemployment1948.csv").set_index("Year"),
    )
