"""Tables of runs: what a study's table shows, from records to mean ± sd with paired tests, and how it is written."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from mlresearch.definitions import check_place, direction
from mlresearch.errors import UserError, suggest
from mlresearch.tables.significance import TESTS

COLUMNS = (
    "test.mode.hamming_loss",
    "test.mode.micro_f1",
    "test.mode.macro_f1",
    "test.mode.macro_f1_present",
    "test.mode.subset_accuracy",
    "test.ranking.macro_average_precision",
    "test.ranking.precision_at_1",
    "test.mode.violation_rate",
    "validation.mode.subset_accuracy",
)
"""Places of a table's columns unless it says otherwise; ``mode`` is the head's own decision."""


@dataclasses.dataclass(frozen=True)
class Table:
    """What the table of a study shows.

    columns: places of numbers (`mlresearch.definitions`); macro-F1 is always given over all labels and over those that
    are present. baseline: the row that the others are tested against. tested: places that rows are compared by, all of
    the test split if none is named; the fewer, the less Holm's correction takes. test: "wilcoxon" or "bootstrap". unit:
    "seeds", or "examples" of the test split (bootstrap only; it needs the runs' predictions). alpha: the chance of any
    false call in a table. by: "data", a table a data set; "metric", a table a column with the data sets side by side.
    published: numbers by data set, row and place, and under "source" where they stand; they enter no comparison.
    decimals: at least so many, more where a column's numbers are small. resamples, seed: of the bootstrap. tolerance:
    by how much a mean may differ when the study is made again, by place, instead of `TOLERANCES`. against: a numeric
    setting in which the study's data sets differ, by dotted key: figures draw the numbers against it.
    """

    columns: Sequence[str] = COLUMNS
    baseline: str | None = None
    tested: Sequence[str] = ()
    test: str = "wilcoxon"
    unit: str = "seeds"
    alpha: float = 0.05
    by: str = "data"
    published: Mapping[str, Mapping[str, Mapping[str, float | str]]] = dataclasses.field(default_factory=dict)
    decimals: int = 3
    resamples: int = 10_000
    seed: int = 0
    tolerance: Mapping[str, float] = dataclasses.field(default_factory=dict)
    against: str = ""

    def __post_init__(self) -> None:
        choices = {"test": TESTS, "unit": ("seeds", "examples"), "by": ("data", "metric")}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise UserError(f"Table({name}={value!r}){suggest(str(value), known)}")
        if self.unit == "examples" and self.test != "bootstrap":
            raise UserError("Table(unit='examples') goes with test='bootstrap'")
        if not 0 < self.alpha < 1 or self.decimals < 0 or self.resamples < 1:
            raise UserError("Table: alpha is between 0 and 1, decimals are not negative, and there is a resample")
        if isinstance(self.columns, str) or not self.columns:
            raise UserError("Table(columns=…) is a list of places such as 'test.mode.micro_f1'")
        for place in self.columns:
            check_place(place)
        for option, places in (("tested", self.tested), ("tolerance", self.tolerance)):
            for place in places:
                if place not in self.places:
                    raise UserError(f"Table({option}=…): there is no column {place!r}{suggest(place, self.places)}")
        for data, rows in self.published.items():
            for row, values in rows.items():
                where = f"Table(published=…), {data}, {row}"
                if not isinstance(values.get("source"), str):
                    raise UserError(f"{where}: say under 'source' where the numbers stand")
                for place, value in values.items():
                    if place != "source" and place not in self.places:
                        raise UserError(f"{where}: there is no column {place!r}{suggest(place, self.places)}")
                    if place != "source" and not isinstance(value, int | float):
                        raise UserError(f"{where}, {place}: {value!r} is not a number")

    @functools.cached_property
    def places(self) -> tuple[str, ...]:
        """The columns' places, each once, with the second form of macro-F1 beside the first."""
        places: dict[str, None] = {}
        for place in self.columns:
            stem = place.removesuffix("_present")
            pair = stem.endswith(".macro_f1")
            places |= dict.fromkeys((stem, f"{stem}_present") if pair else (place,))
        return tuple(places)

    @property
    def tested_places(self) -> tuple[str, ...]:
        """The places that rows are compared by."""
        return tuple(self.tested) or tuple(place for place in self.places if place.startswith("test."))


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table: the place of its numbers, their data set, and its heading."""

    place: str
    data: str
    title: str

    @property
    def direction(self) -> int:
        """1 where more is better, −1 where less is, 0 where neither is."""
        return direction(self.place)
