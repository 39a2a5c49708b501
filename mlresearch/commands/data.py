"""Data sets: list, prepare, describe, draw or export them."""

import json
import sys

from absl import flags

from mlresearch import data
from mlresearch.commands.config_arguments import names_config, parse_config
from mlresearch.config import check_acting, resolve
from mlresearch.croissant import export
from mlresearch.describe import describe, print_description
from mlresearch.errors import UserError, suggest
from mlresearch.figures.dataset import plot
from mlresearch.inputs import load_dataset

ACTIONS = ("list", "prepare", "describe", "export")


def run(argv: list[str]) -> int:
    """List, prepare, describe, draw or export data sets."""
    values = flags.FlagValues()
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_string("plot", None, "The folder to draw pictures into.", flag_values=values)
    flags.DEFINE_string("output", None, "The folder to export to.", flag_values=values)
    config, given, words = parse_config(values, argv)
    action = words[0] if words else ""
    if action not in ACTIONS or len(words) > 2:
        hint = suggest(action, ACTIONS) if action not in ACTIONS else ""
        raise UserError(f"'mlresearch data' takes one of {', '.join(ACTIONS)}, and one name of a data set{hint}")
    if action == "list" and (len(words) > 1 or values.output is not None):
        raise UserError("'mlresearch data list' takes no name and no --output")
    if action != "describe" and (values.json or values.plot is not None):
        raise UserError("--json and --plot go with 'mlresearch data describe'")
    if action == "list":
        return _list_data()
    if len(words) == 2:
        config.data.name = words[1]
    elif not names_config(argv) and "data.name" not in given:
        raise UserError(f"'mlresearch data {action}' needs the name of a data set, or a --config that has one")
    if (values.output is not None) != (action == "export"):
        raise UserError("--output=DIR goes with 'mlresearch data export', and is needed there")

    check_acting(config, given)
    dataset = load_dataset(resolve(config))
    if action == "export":
        print(export(dataset, values.output, **dataset.about))
        return 0

    if action == "prepare":
        sizes = ", ".join(f"{len(records)} {split}" for split, records in dataset.splits.items())
        print(
            f"{dataset.name}: {sizes}, {dataset.label_space.num_labels} labels, fingerprint {dataset.fingerprint[:16]}"
        )
        for name, value in dataset.notes.items():
            print(f"  {name}: {json.dumps(value, ensure_ascii=False)}")
        return 0
    description = describe(dataset)
    if values.json:
        print(json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_description(description)
    if values.plot is not None:
        for path in plot(dataset, values.plot):
            print(path, file=sys.stderr if values.json else sys.stdout)
    return 0


def _list_data() -> int:
    """Print the names of all data sets, a source a line or more, with what each source is."""
    for source in data.sources():
        doc = sys.modules[data.source_class(source).__module__].__doc__ or ""
        print(f"{source}: {doc.partition(chr(10))[0]}")
        for name in data.subsets(source):
            own = name == source and len(data.subsets(source)) > 1
            print(f"  {name}{'  (files of your own: --config.data.arff_train=FILE)' if own else ''}")
    return 0
