"""The metrics of a trained run on a split."""

import json

from absl import flags

from mlresearch.commands.arguments import define_workdir, parse, read_workdir
from mlresearch.predict import Run


def run(argv: list[str]) -> int:
    """Print the metrics of a trained run on a split."""
    values = flags.FlagValues()
    define_workdir(values)
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Which examples.", flag_values=values)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    parse(values, argv)

    metrics = Run(read_workdir(values)).evaluate(values.split)
    if values.json:
        print(json.dumps({"split": values.split, "metrics": metrics}, allow_nan=False))
        return 0
    for group, numbers in metrics.items():
        print(f"{values.split}, {group}")
        for name, value in numbers.items():
            print(f"  {name:28} {_metric(name, value)}")
    return 0


def _metric(name: str, value: float | None) -> str:
    if value is None:
        return "infinite"
    return f"{value:.0f}" if name.startswith("num_") else f"{value:.4f}"
