"""The labels of texts and rows."""

import json
import sys
from pathlib import Path
from typing import Any

import rich.console
import rich.markup
import rich.tree
from absl import flags

from mlresearch.commands.arguments import define_workdir, parse, read_workdir
from mlresearch.data.reading import read_jsonl
from mlresearch.errors import UserError
from mlresearch.evidence import parse_known
from mlresearch.files import write_bytes
from mlresearch.predict import LabelPrediction, Run

CONDITIONING = {
    "exact": "exactly, by the head's distribution",
    "label states": "by the decoder's label states, as it was trained",
}


def run(argv: list[str]) -> int:
    """Print or write the labels of texts."""
    values = flags.FlagValues()
    define_workdir(values)
    flags.DEFINE_string("text", None, "A text.", flag_values=values)
    flags.DEFINE_string("input", None, 'JSON Lines, {"text": ...} each.', flag_values=values)
    flags.DEFINE_string("output", None, "Where to write JSON Lines.", flag_values=values)
    flags.DEFINE_string("decision", "mode", "One of those in decisions.json, such as half.", flag_values=values)
    flags.DEFINE_string("known", None, "Labels that are known: 'label=1,other=0'.", flag_values=values)
    flags.DEFINE_float(
        "min_probability",
        0.05,
        "List labels at least so probable.",
        lower_bound=0,
        upper_bound=1,
        flag_values=values,
    )
    parse(values, argv)
    if (values.text is None) == (values.input is None):
        raise UserError("give either --text or --input")
    if (values.input is None) != (values.output is None):
        raise UserError("--input and --output go together")
    if values.output is not None and (not Path(values.output).parent.is_dir() or Path(values.output).is_dir()):
        raise UserError(f"--output={values.output} is no file in a folder that there is")
    inputs = [{"text": values.text}] if values.input is None else _read_inputs(Path(values.input))

    known = None if values.known is None else parse_known(values.known)

    trained = Run(read_workdir(values))
    try:
        predictions = trained.predict(
            inputs, decision=values.decision, min_probability=values.min_probability, known=known
        )
    except UserError as error:
        raise UserError(f"{values.input or '--text'}: {error}") from None
    if known or any("known" in given for given in inputs):
        print(f"conditioned on known labels: {CONDITIONING[trained.conditioning]}", file=sys.stderr)
    if values.output is None:
        _print_labels(trained, predictions[0])
        return 0

    lines = [
        json.dumps(given | {"predicted": [vars(label) for label in labels]}, ensure_ascii=False) + "\n"
        for given, labels in zip(inputs, predictions, strict=True)
    ]
    write_bytes(values.output, "".join(lines).encode())
    print(f"{values.output}: labels of {len(inputs)} inputs")
    unread = sorted({name for given in inputs for name in given} - {"text", "features", "categories", "known"})
    if unread:
        print(f"copied but not read: {', '.join(unread)}", file=sys.stderr)
    return 0


def _read_inputs(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file, one a line: a blank line is a `UserError`, too."""
    inputs: list[dict[str, Any]] = []
    for line, row in read_jsonl(path):
        if line > len(inputs) + 1:
            raise UserError(f"{path}, line {len(inputs) + 1} is blank")
        inputs.append(row)
    return inputs


def _print_labels(run: Run, labels: list[LabelPrediction]) -> None:
    """Print labels, as a tree where there is a hierarchy; a label with several parents stands under each."""

    def text(label: LabelPrediction) -> str:
        name = rich.markup.escape(
            f"{label.name}  {label.description}" if label.description != label.name else label.name
        )
        return f"{label.probability:6.3f} {'●' if label.on else '○'} {f'[bold]{name}[/]' if label.on else name}"

    ids = {run.label_space.index[label.name]: label for label in labels}
    above: dict[int, list[int]] = {label: [] for label in ids}
    if run.hierarchy is not None:
        for child, parent in zip(run.hierarchy.children.tolist(), run.hierarchy.parents.tolist(), strict=True):
            if child in ids and parent in ids:
                above[child].append(parent)
    tree = rich.tree.Tree("probability, ● predicted", guide_style="dim")

    def grow(branch: Any, parent: int | None) -> None:
        for label in sorted(ids, key=lambda label: -ids[label].probability):
            if (parent is None and not above[label]) or parent in above[label]:
                grow(branch.add(text(ids[label])), label)

    grow(tree, None)
    rich.console.Console().print(tree)
