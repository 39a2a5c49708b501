"""Does modelling the dependence between labels pay on real data, and for which metric?

Twelve data sets, every row with the setting of its best validation micro-F1 in the study `dependence_grid`.
"""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

from mlresearch.errors import UserError
from mlresearch.study import Overrides, cross, seeds
from mlresearch.tables import Table

GRID = Path(__file__).parents[1] / "dependence_grid"
NUM_SEEDS = {"linear": 10, "label_attention": 3, "causal": 3}
"""By decoder, as processors allow; a baseline has one, as its solvers find the one optimum."""


def runs() -> Iterator[Overrides]:
    """Yield every row of every data set, with as many seeds as its decoder has."""
    for row in chosen():
        yield from [row] if "baseline" in row else cross([row], seeds(NUM_SEEDS[str(row["row"]).partition("+")[0]]))


def chosen() -> list[Overrides]:
    """Return the best setting of every row on every data set, by what the grid's records say of validation."""
    records = [json.loads(path.read_text()) for path in (GRID / "records").glob("*.json")]
    by_overrides = {json.dumps(record["overrides"], sort_keys=True): record for record in records}
    best: dict[tuple[str, str], tuple[float, Overrides]] = {}
    for overrides in runpy.run_path(str(GRID / "sweep.py"))["runs"]():
        record = by_overrides.get(json.dumps(overrides, sort_keys=True))
        if record is None:
            raise UserError(
                f"{GRID / 'records'} lacks {overrides['row']!r} of {overrides['data']}, and settings are chosen by all "
                f"of them: first run mlresearch sweep {GRID}"
            )
        row = overrides | {"row": record["row"].partition(",")[0]}
        del row["evaluate.predictions"]  # by which rows are compared example by example
        place = row["data"], row["row"]
        score = record["metrics"]["validation"]["global_threshold"]["micro_f1"]
        if place not in best or score > best[place][0]:
            best[place] = score, row
    return [row for _, row in best.values()]


MICRO, MACRO = "test.global_threshold.micro_f1", "test.label_thresholds.macro_f1"
SUBSET = "test.mode.subset_accuracy"

METRICS = [
    *("test.half.hamming_loss", MICRO, MACRO, "test.expected_f1.example_f1", SUBSET),
    *("test.ranking.macro_average_precision", "test.ranking.r_precision"),
]
"""Each under the decision that is for it."""

MODE = [f"test.mode.{name}" for name in ("hamming_loss", "micro_f1", "macro_f1", "example_f1")]
"""The other metrics under one decision, the most probable label set."""

MEASURED = "measured on the same splits, one seed; thresholds fitted on validation"

OTHERS = {
    "torchTextClassifiers": ((0.801, 0.297, 0.733), (0.513, 0.352, 0.354)),
    "one-vs-rest logistic regression": ((0.864, 0.488, 0.805), (0.532, 0.446, 0.326)),
    "linear SVM": ((0.869, 0.530, 0.805), (0.549, 0.455, 0.380)),
    "LibMultiLabel 1vsrest": ((0.879, 0.512, 0.820), (0.533, 0.430, 0.369)),
}
"""Micro-F1, macro-F1 and subset accuracy on Reuters-21578 and GoEmotions, of the best threshold for each metric."""


def published() -> dict[str, dict[str, dict[str, float | str]]]:
    """Return other tools' numbers as a table wants them."""
    return {
        name: {
            row: {"source": MEASURED, **dict(zip((MICRO, MACRO, SUBSET), values[place], strict=True))}
            for row, values in OTHERS.items()
        }
        for place, name in enumerate(("reuters21578", "goemotions"))
    }


TABLE = Table(
    columns=[*METRICS, *MODE],
    baseline="linear+independent",
    tested=METRICS,
    test="bootstrap",
    unit="examples",
    resamples=4_000,
    by="metric",
    published=published(),
)
