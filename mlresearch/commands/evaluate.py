"""The metrics of a trained run on a split, with intervals, and a report of its labels."""

import dataclasses
import json
from collections.abc import Sequence

import rich.box
import rich.console
import rich.markup
import rich.table
from absl import flags

from mlresearch.commands.arguments import define_workdir, parse, read_workdir, refuse_idle
from mlresearch.errors import UserError
from mlresearch.intervals import Intervals, run_intervals
from mlresearch.per_label import PREFIXES, Line, Report
from mlresearch.predict import Run

ROUNDING = 1e-9
"""What sums in another order may differ by."""


def run(argv: list[str]) -> int:
    """Print the metrics of a trained run on a split, or a report of its labels."""
    values = flags.FlagValues()
    define_workdir(values)
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Which examples.", flag_values=values)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_integer(
        "intervals",
        0,
        "Print the record's metrics with percentile intervals over so many resamples of the examples.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_float("level", 0.95, "Share of the resamples that an interval holds.", 0, 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Draws the resamples.", lower_bound=0, flag_values=values)
    flags.DEFINE_bool("per_label", False, "Print a report of the test split's labels.", flag_values=values)
    flags.DEFINE_enum("decision", "label_thresholds", list(PREFIXES), "Whose report.", flag_values=values)
    flags.DEFINE_string("sort", "support", "Column of the report, -COLUMN from its other end.", flag_values=values)
    flags.DEFINE_integer("top", 40, "How many labels to report, 0 for all.", lower_bound=0, flag_values=values)
    parse(values, argv)
    folder = read_workdir(values)
    if not values.intervals:
        refuse_idle(values, ["level", "seed"], "goes with --intervals")
    if values.per_label:
        if values.intervals or values.split != "test":
            raise UserError("--per_label tells of the test split, without --intervals")
        report = Report.read(folder, values.decision)
        labels = report.first(values.sort, values.top)
        if values.json:
            lines = {
                name: [dataclasses.asdict(line) for line in of]
                for name, of in (("labels", labels), ("means", report.means))
            }
            print(json.dumps({"split": "test", "decision": report.decision, **lines}, allow_nan=False))
        else:
            _report(report, labels)
        return 0

    refuse_idle(values, ["decision", "sort", "top"], "goes with --per_label")
    intervals = None
    if values.intervals:
        metrics, intervals = run_intervals(folder, values.split, values.intervals, values.level, values.seed)
    else:
        metrics = Run(folder).evaluate(values.split)
    if values.json:
        said = {"split": values.split, "metrics": metrics}
        print(json.dumps(said if intervals is None else said | {"intervals": intervals.to_json()}, allow_nan=False))
        return 0
    for group, numbers in metrics.items():
        print(f"{values.split}, {group}")
        for name, value in numbers.items():
            bounds = None if intervals is None else intervals.of(group, name)
            print(f"  {name:32} {_metric(name, value):10}{_reach(name, value, bounds)}".rstrip())
    if intervals is not None:
        _explain(intervals)
    return 0


def _metric(name: str, value: float | None) -> str:
    if value is None:
        return "none or infinite"
    return f"{value:.0f}" if name.startswith("num_") else f"{value:.4f}"


def _reach(name: str, value: float | None, bounds: tuple[float, float] | None) -> str:
    """Return an interval, with a mark where it does not hold the number; none of a count, which estimates nothing."""
    if value is None or bounds is None or name.startswith("num_"):
        return ""
    low, high = bounds
    held = low - ROUNDING <= value <= high + ROUNDING
    return f"{_metric(name, low)} to {_metric(name, high)}{'' if held else ' *'}"


def _explain(intervals: Intervals) -> None:
    """Print what the intervals are, and which metrics have none."""
    print(
        f"intervals: {100 * intervals.level:g} % of {intervals.resamples:,} resamples of the "
        f"{intervals.num_examples:,} examples, drawn with seed {intervals.seed} (percentile bootstrap)\n"
        "*: beside its interval, since resamples lack the examples of rare labels or have them several times"
    )
    for reason in dict.fromkeys(intervals.left_out.values()):
        places = [place for place, why in intervals.left_out.items() if why == reason]
        print(f"no interval of {', '.join(places)}: {reason}")


def _report(report: Report, labels: Sequence[Line]) -> None:
    """Print some labels and the means: as a table on a terminal, elsewhere as aligned text."""
    shown = ["precision", "recall", "f1", "support", "train", "average_precision"]
    shown += ["threshold"] if labels[0].threshold is not None else []
    described = any(line.description != line.name for line in labels)
    head = ["", *(name.replace("_", " ") for name in shown), *(["description"] if described else [])]

    def cells(line: Line) -> list[str]:
        numbers = (_cell(name, getattr(line, name)) for name in shown)
        return [line.name, *numbers, *([" ".join(line.description.split())] if described else [])]

    of_labels, of_means = ([cells(line) for line in lines] for lines in (labels, report.means))
    left = [name in ("", "description") for name in head]
    title = f"test, {report.decision}: {len(labels)} of {len(report.labels)} labels"
    console = rich.console.Console()
    if console.is_terminal:
        table = rich.table.Table(title=title, title_justify="left", box=rich.box.SIMPLE_HEAD)
        for name, at_left in zip(head, left, strict=True):
            table.add_column(name, justify="left" if at_left else "right", no_wrap=True)
        for lines in (of_labels, of_means):
            for line in lines:
                table.add_row(*map(rich.markup.escape, line))
            table.add_section()
        console.print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *of_labels, *of_means, strict=True)]
    print(title)
    for line in [head, *of_labels, [""] * len(head), *of_means]:
        aligned = (
            text.ljust(width) if at_left else text.rjust(width)
            for text, width, at_left in zip(line, widths, left, strict=True)
        )
        print("  ".join(aligned).rstrip())


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3g}" if name == "threshold" else f"{value:.4f}"
