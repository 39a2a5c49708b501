"""A run's model card, ``MODEL_CARD.md``: what it is, what it was trained and measured on, and how to make it again.

Sections and their order are those of Mitchell et al., "Model Cards for Model Reporting", 2019; how the run is made
again and what it took follow. Every statement comes from the run record, the config or the data set; what they do not
say is said to be missing.
"""

import collections
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mlresearch import data
from mlresearch.calibration import Method
from mlresearch.config import CHOSEN, base_config, identity, part_class
from mlresearch.data.records import Dataset
from mlresearch.definitions import OTHERS, SPLITS, TITLES, calibrated, define, direction
from mlresearch.describe import FEW, describe_label_sets, describe_label_values, shortened
from mlresearch.files import write_bytes
from mlresearch.tables.typeset import ARROWS, aligned, enough_decimals, escape_markdown

FILE = "MODEL_CARD.md"
"""The card's name in a run's folder."""

LICENSE = "Apache-2.0"
"""The licence of the code."""

MADE_FOR = {
    "mode": "subset_accuracy",
    "half": "hamming_loss",
    "label_thresholds": "macro_f1",
    "closed_thresholds": "macro_f1",
    "expected_f1": "example_f1",
}
"""The metric that each decision is for; the global threshold's is ``config.evaluate.threshold_metric``."""

METRICS = (
    *("hamming_loss", "subset_accuracy", "micro_f1", "macro_f1", "macro_f1_present", "example_f1"),
    "violation_rate",
)
"""Metrics of predicted labels that a card has of every decision."""

SCORES = {
    "ranking": (
        *("micro_average_precision", "macro_average_precision", "label_ranking_average_precision"),
        *("precision_at_1", "precision_at_5"),
    ),
    "probabilities": ("calibration_error", "brier_score", "log_loss"),
    "loss": ("mean",),
}
"""Metrics that need no decision."""

MEDICAL = ("icd10cm/", "codiesp/")
"""How the names of data sets begin whose labels are codes of diagnoses."""

MISSING = "not recorded"
DECIMALS = 3
NUM_NAMES = 10  # of labels that are listed by name


def write_model_card(folder: Path, record: Mapping[str, Any], config: ConfigDict, dataset: Dataset) -> None:
    """Write the card of a run into its folder."""
    write_bytes(folder / FILE, model_card(record, config, dataset).encode())


def model_card(record: Mapping[str, Any], config: ConfigDict, dataset: Dataset) -> str:
    """Return the card of a finished run, in Markdown.

    record: of a model, a baseline or an ensemble. config: as the run's folder has it, resolved.
    """
    sections = {
        "Model details": _details(record, config),
        "Intended use": _intended_use(record),
        "Factors": _factors(record, config, dataset),
        "Metrics": _metrics(record, config),
        "Evaluation data": _evaluation_data(record, config, dataset),
        "Training data": _training_data(record, config, dataset),
        "Quantitative analyses": _analyses(record, dataset),
        "Ethical considerations": _ethics(record, config),
        "Caveats and recommendations": _caveats(record, config, dataset),
        "Reproduction": _reproduction(record, config),
        "Compute": _compute(record),
    }
    title = escape_markdown(f"{record['name']} on {record['data']['name']}, seed {record['seed']}")
    parts = [f"# Model card: {title}", "Written from the run record, the config and the data set; nothing else."]
    for heading, blocks in sections.items():
        parts += [f"## {heading}", *blocks]
    return "\n\n".join(parts) + "\n"


def _details(record: Mapping[str, Any], config: ConfigDict) -> Iterator[str]:
    facts = {"Kind": _kind(record, config)}
    facts |= {part.capitalize(): _part(config, part) for part in CHOSEN if part in config}
    if "loss" in config:
        facts["Loss"] += ", as far as the head is trained label by label"
    number = record.get("num_parameters")
    facts["Parameters"] = MISSING if number is None else f"{number:,} {OTHERS['num_parameters']}"
    facts["Training"] = _training(record)
    if calibration := record.get("calibration"):
        facts["Calibration"] = calibrated(calibration)
    elif "members" in record and Method.of(config).kind:
        facts["Calibration"] = "of each member's scores, as their cards say"
    if record.get("mode_is_exact") is not None:
        facts["Most probable label set"] = "exact" if record["mode_is_exact"] else "searched for, and may be missed"
    facts["Date"] = record["started"][:10] if "started" in record else MISSING
    facts["Code"] = _code(record)
    versions = {"Python": record.get("python", MISSING), **record.get("versions", {})}
    facts["Versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    facts["Licence"] = f"of the code {LICENSE}; of the data, see below; for the parameters none is stated"
    facts["Cite as"] = "CITATION.cff of the code says; cite the data set, too"
    yield _bullets(facts)


def _kind(record: Mapping[str, Any], config: ConfigDict) -> str:
    if "members" in record:
        return f"an ensemble, the mean of the distributions of {len(record['members'])} runs that differ in their seed"
    return "a baseline" if "baseline" in config else "a model: encoder, decoder and head, trained by gradient descent"


def _part(config: ConfigDict, kind: str) -> str:
    name = config[kind].name
    doc = sys.modules[part_class(kind, name).__module__].__doc__ or ""
    options = ", ".join(f"{option} = {value!r}" for option, value in config[kind][name].to_dict().items())
    return f"{name}. {doc.partition(chr(10))[0].rstrip('.')} ({options or 'no options'})"


def _training(record: Mapping[str, Any]) -> str:
    if "members" in record:
        return f"none of its own; members: {', '.join(record['members'])}, whose folders have cards of their own"
    if record.get("num_steps") is None:
        return "fitted to the training split, without steps of an optimizer"
    words = [f"{record['num_steps']:,} steps"]
    if selected := record.get("selected"):
        how = f"by validation {selected['by']}" if selected["by"] else "the last"
        words.append(f"parameters of step {selected['step']:,}, epoch {selected['epoch']:.4g}: {how}")
    if refit := record.get("refit"):
        words.append(f"then anew on train and validation, {refit['examples']:,} examples, {refit['steps']:,} steps")
    if record.get("resumed_at"):
        words.append(f"it was stopped, and went on from step {record['resumed_at']:,}")
    if record.get("replicas", 1) > 1:
        words.append(f"in one program with {record['replicas'] - 1} other run{'s' * (record['replicas'] > 2)}")
    return "; ".join(words)


def _code(record: Mapping[str, Any]) -> str:
    git = record.get("git")
    commit = "no commit recorded" if git is None else f"commit {git['commit']}"
    return f"hash {record['code_hash']}, {commit}" + (", from which the files differed" if git and git["dirty"] else "")


def _intended_use(record: Mapping[str, Any]) -> Iterator[str]:
    lines = [
        "For research: to compare ways of multi-label classification on this data set, by the metrics below.",
        "For inputs like those of the data set. How it does on others was not measured.",
        "Not for decisions about persons, nor where nobody looks at what is predicted.",
    ]
    if record["data"]["name"].startswith(MEDICAL):
        lines.append(
            "Its labels are codes of diagnoses. Not for clinical decisions: neither to diagnose or treat, nor to code "
            "records for care, billing or statistics."
        )
    yield _bullets(lines)


def _factors(record: Mapping[str, Any], config: ConfigDict, dataset: Dataset) -> Iterator[str]:
    inputs, shares = record["inputs"], record.get("truncated_token_share", {})
    kinds = []
    if dataset.train.texts is not None:
        kinds.append("texts" if "text" not in config else f"texts, cut to {config.text.max_length} tokens")
    kinds += [f"{len(dataset.feature_names)} numbers"] if dataset.feature_names else []
    kinds += [f"{len(dataset.category_names)} categories"] if dataset.category_names else []
    kinds += [f"{inputs['num_linear_scores']} linear scores"] if inputs.get("num_linear_scores") else []
    cut = ", ".join(f"{split} {share:.2%}" for split, share in shares.items() if share)
    counts = dataset.train.labels.counts(dataset.label_space.num_labels)
    yield _bullets(
        {
            "Groups": "the record tells no groups of people, instruments or surroundings apart, so it is not known "
            "whether predictions are worse for some",
            "Inputs": ", ".join(kinds) + (f"; share of tokens cut off: {cut}" if cut else ""),
            "Labels": f"{int((counts < FEW).sum()):,} of {len(counts):,} are on in fewer than {FEW} training examples, "
            f"{int((counts == 0).sum()):,} in none; averages over labels (macro) show rare ones, sums (micro) do not",
        }
    )


def _metrics(record: Mapping[str, Any], config: ConfigDict) -> Iterator[str]:
    places = [place for place, _ in _rows(record)]
    made_for = MADE_FOR | {"global_threshold": config.evaluate.threshold_metric}
    decisions = dict.fromkeys(group for group, _ in places if group not in SCORES)
    yield "A decision turns a distribution over label sets into predicted labels, each for a metric:"
    yield aligned([{"decision": name, "is for": made_for.get(name, MISSING)} for name in decisions])
    yield _bullets(define([f"{split}.{group}.{metric}" for split in _splits(record) for group, metric in places]))


def _rows(record: Mapping[str, Any]) -> list[tuple[tuple[str, str], list[float | None]]]:
    """Return (decision, metric) and the numbers of validation and of test, of all rows that have any."""
    splits = _splits(record)
    groups = dict.fromkeys(group for split in splits for group in record["metrics"][split])
    rows = []
    for group in groups:
        for metric in SCORES.get(group, METRICS):
            values = [record["metrics"][split].get(group, {}).get(metric) for split in splits]
            if any(value is not None for value in values):
                rows.append(((group, metric), values))
    return rows


def _splits(record: Mapping[str, Any]) -> list[str]:
    return [split for split in SPLITS if split in record["metrics"]]


def _evaluation_data(record: Mapping[str, Any], config: ConfigDict, dataset: Dataset) -> Iterator[str]:
    about, hierarchy = dataset.about, dataset.hierarchy
    values = describe_label_values(dataset)
    listed = [
        f"{share:.2%} {kind}"
        for kind, share in (("soft", values["soft_share"]), ("unknown", values["unknown_share"]))
        if share
    ]
    shape = "flat"
    if hierarchy is not None:
        roots = int((hierarchy.num_parents == 0).sum())
        kind = f"{'trees' if hierarchy.is_forest else 'a directed acyclic graph'} with {roots:,} roots"
        shape = f"{kind}, {len(hierarchy.children):,} edges, {int(hierarchy.levels.max(initial=-1)) + 1} levels"
    yield _bullets(
        {
            "Data set": f"{dataset.name}, version {about.get('version') or 'not stated'}",
            "Fingerprint": f"{dataset.fingerprint} (SHA-256 of examples, splits, labels and hierarchy)",
            "What it is": " ".join(about.get("description", "").split()) or "not stated",
            "Source": about.get("homepage") or "not stated",
            "Licence": " ".join(about.get("license", "").split()) or "not stated",
            "Splits": _counts(record["examples"]),
            "Label space": f"{record['label_space']['num_labels']:,} labels, {shape}; hash "
            f"{record['label_space']['hash']}" + (f"; of the labels listed {' and '.join(listed)}" if listed else ""),
            "Use": ("calibration and " if "calibration" in record else "")
            + "decisions were fitted on validation; test was scored once, with these",
            "Preparation": ", ".join(f"{key} = {config.data[key]!r}" for key in ("closure", "overlaps")),
        }
    )
    notes = [{"note": escape_markdown(name), "": _cell(shortened(note))} for name, note in dataset.notes.items()]
    if notes:
        yield "Notes on the data:"
        yield aligned(notes)
    if citation := about.get("citation", "").strip():
        yield _fenced(citation, "bibtex")


def _training_data(record: Mapping[str, Any], config: ConfigDict, dataset: Dataset) -> Iterator[str]:
    train = describe_label_sets(dataset.train.labels, None, dataset.label_space.num_labels)
    used = "train and validation" if record.get("refit") else "train"
    lines = [
        f"The split train of the same data set: {record['examples']['train']:,} examples, of "
        f"{train['label_cardinality']:.4g} labels on average, {train['max_labels']} at most; "
        f"{train['distinct_label_sets']:,} distinct label sets.",
        f"Parameters were learnt from {used}.",
    ]
    if "text" in config or dataset.feature_names or dataset.category_names:
        lines.append("What is learnt before the model (subwords, scales, vocabularies of columns): from train alone.")
    yield _bullets(lines)


def _analyses(record: Mapping[str, Any], dataset: Dataset) -> Iterator[str]:
    rows = []
    for (group, metric), values in _rows(record):
        places = enough_decimals([value for value in values if value is not None], DECIMALS)
        title = f"{TITLES.get(metric, metric)}{ARROWS[direction(f'test.{group}.{metric}')]}"
        cells = ["—" if value is None else f"{value:.{places}f}" for value in values]
        rows.append({"decision": group, "metric": title, **dict(zip(_splits(record), cells, strict=True))})
    yield aligned(rows)
    yield "One run, so no deviation over seeds. —: no number, or a loss that is infinite."

    names, num_labels, labels = dataset.label_space.names, dataset.label_space.num_labels, dataset.train.labels
    never = [name for name, count in zip(names, labels.counts(num_labels), strict=True) if not count]
    if never:
        listed = ", ".join(map(escape_markdown, never[:NUM_NAMES])) + (", …" if len(never) > NUM_NAMES else "")
        yield f"Labels never seen in training: {len(never):,} of {num_labels:,} ({listed})."
        rows = []
        for split in SPLITS:
            found = describe_label_sets(dataset.splits[split].labels, labels, num_labels)["not_in_train"]
            share = found["occurrences_share"]
            rows.append(
                {
                    "split": split,
                    "such labels that are on": f"{found['labels']:,}",
                    "how often": f"{found['occurrences']:,}",
                    "share of all that is on": "—" if share is None else f"{share:.2%}",
                }
            )
        yield aligned(rows)
    else:
        yield "Labels never seen in training: none."
    remarks = [escape_markdown(remark) for remark in record.get("remarks", [])]
    yield "Remarks of the record:" if remarks else "Remarks of the record: none."
    if remarks:
        yield _bullets(remarks)


def _ethics(record: Mapping[str, Any], config: ConfigDict) -> Iterator[str]:
    inputs = record["inputs"]
    kept = ["labels.txt and per_label.csv the names of labels, and how often each is on"]
    kept += ["tokenizer.model pieces of training texts"] if inputs.get("vocab_size") else []
    kept += ["columns.json names and values of columns"] if inputs.get("category_sizes") else []
    kept += ["linear_scores.npz words of training texts"] if inputs.get("num_linear_scores") else []
    kept += ["predictions_\\*.npz what is predicted of each example"] if config.evaluate.predictions else []
    yield _bullets(
        [
            "Whether the data are about persons, and what these agreed to, only the source of the data can tell. "
            "Nothing was removed or made anonymous here.",
            f"Before the folder is passed on: {'; '.join(kept)}.",
            "Neither harms nor fairness were examined. The model repeats what its training labels hold, errors and "
            "prejudice included.",
        ]
    )


def _caveats(record: Mapping[str, Any], config: ConfigDict, dataset: Dataset) -> Iterator[str]:
    fitted = "Decisions, calibration" if record.get("calibration") else "Decisions"
    lines = [
        "One seed says little: compare settings over several, by mlresearch table, which tests the differences.",
        "Numbers of validation flatter what was fitted to it: thresholds"
        + (", calibration" if record.get("calibration") else "")
        + (", and the parameters that it chose." if config.get("train", {}).get("select") else "."),
    ]
    if record.get("refit"):
        lines.append(f"{fitted} and numbers of validation are of the parameters before the refit, test of those after.")
    rates = {
        name: metrics["violation_rate"]
        for name, metrics in record["metrics"]["test"].items()
        if metrics.get("violation_rate")
    }
    if rates:
        lines.append(
            "Predictions break the hierarchy in some test examples: "
            + ", ".join(f"{name} in {rate:.2%}" for name, rate in rates.items())
            + "."
        )
    elif dataset.hierarchy is None:
        lines.append("Labels are flat: nothing keeps predicted labels from contradicting one another.")
    if (record.get("git") or {}).get("dirty", True):
        lines.append("No recorded commit holds the code of this run; its hash tells whether other code is the same.")
    yield _bullets(lines)


def _reproduction(record: Mapping[str, Any], config: ConfigDict) -> Iterator[str]:
    base = identity(base_config())
    settings = {key: value for key, value in identity(config).items() if key in base and value != base[key]}
    body = [f"    {key!r}: {value!r}," for key, value in settings.items()]
    yield (
        "The config file that the run was started from is not recorded, but all settings are (`config.json`). This "
        "file, `same.py`, gives them, those of devices and logging left out:"
    )
    yield _fenced(
        "\n".join(
            [
                "from mlresearch.config import base_config",
                "",
                "SETTINGS = {",
                *body,
                "}",
                "",
                "",
                "def get_config():",
                "    config = base_config()",
                "    config.update_from_flattened_dict(SETTINGS)",
                "    return config",
            ]
        ),
        "python",
    )
    commands = [
        "pip install --require-hashes -r requirements.lock && pip install --no-deps .",
        "mlresearch train --config=same.py --workdir=WORKDIR",
    ]
    git = record.get("git")
    if git is not None:
        commands.insert(0, f"git checkout {git['commit']}" + ("   # from which the files differed" * git["dirty"]))
    if "members" not in record and "baseline" not in config:
        commands.append("mlresearch evaluate --workdir=WORKDIR --split=test")
    yield "WORKDIR stands for a new folder. In a checkout of the code:"
    yield _fenced("\n".join(commands), "")
    source = record["data"]["name"].partition("/")[0]
    if "manual_dir" in data.shared_options(source):
        yield "The data set is read from upstream's files, in the folder that `MLRESEARCH_MANUAL_DIR` names."
    if "members" in record:
        yield (
            "That trains the first member; the others differ in their seed, which their cards tell. The ensemble is a "
            'run of a study, by the override `"ensemble"`: `mlresearch sweep STUDY` makes it.'
        )
    elif record.get("replicas", 1) > 1:
        yield "Alone, the run gives the same parameters as beside its replicas but for rounding."


def _compute(record: Mapping[str, Any]) -> Iterator[str]:
    devices = collections.Counter(record.get("devices", ()))
    seconds = record.get("seconds", {})
    cores = record.get("cpu_count")
    facts = {
        "Devices": ", ".join(f"{count} × {kind}" for kind, count in devices.items()) or MISSING,
        "Platform": record.get("platform", MISSING),
        "Cores of the machine": MISSING if cores is None else str(cores),
    }
    facts |= {f"Seconds, {name}": f"{value:.1f}" for name, value in seconds.items()}
    facts["Seconds in all"] = f"{sum(seconds.values()):.1f} of wall-clock time" if seconds else MISSING
    if "members" in record:
        facts["Training of the members"] = "in their cards"
    if record.get("replicas", 1) > 1:
        facts["Share"] = f"an equal part of what {record['replicas']} runs of one program took together"
    if record.get("resumed_at"):
        facts["Stops"] = "time after the last checkpoint before a stop is not counted"
    yield _bullets(facts | {"Memory, energy": MISSING})


def _counts(examples: Mapping[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in examples.items())


def _bullets(lines: Mapping[str, str] | Iterable[str]) -> str:
    if isinstance(lines, Mapping):
        lines = [f"**{name}**: {escape_markdown(text)}" for name, text in lines.items()]
    return "\n".join(f"- {line}" for line in lines)


def _cell(text: str) -> str:
    return escape_markdown(" ".join(text.split()))


def _fenced(text: str, language: str) -> str:
    """Return text as a block of code, whatever backticks it holds."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"
