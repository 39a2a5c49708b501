"""The page of a run: what its folder, its predictions and its data set say of it."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from mlresearch import workdir
from mlresearch.config import base_config, flatten, to_dict
from mlresearch.data.records import Dataset
from mlresearch.decisions import Decision
from mlresearch.definitions import DECISIONS, HIGHER, LOWER, NEITHER, SPLITS, TITLES, calibrated, direction, title
from mlresearch.errors import UserError
from mlresearch.inputs import load_dataset
from mlresearch.predictions import read_predictions
from mlresearch.report import examples, labels
from mlresearch.report.markup import Html, breakable, bullets, cell, facts, fold, join, table, tag
from mlresearch.report.page import Page, Section, figures_section
from mlresearch.scored import ScoredSplit
from mlresearch.tables import COLUMNS
from mlresearch.tables.typeset import ARROWS

Metrics: TypeAlias = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Numbers by split, decision (or one of `definitions.GROUPS`) and metric."""


@dataclasses.dataclass(frozen=True, eq=False)
class Material:
    """What is at hand of a run. missing: what is not, and why, a sentence each."""

    record: Mapping[str, Any]
    config: ConfigDict
    labels: labels.LabelReport | None
    examples: examples.Examples | None
    dataset: Dataset | None
    missing: tuple[str, ...]


def gather(folder: Path, split: str = "test") -> Material:
    """Return what is at hand of the run in a folder; a folder without a run is a `UserError`."""
    record, config = workdir.read_record(folder), workdir.read_config(folder)
    missing = []
    dataset: Dataset | None = None
    scored: ScoredSplit | None = None
    decisions: Mapping[str, Decision] = {}
    try:
        dataset = load_dataset(config)
        workdir.refuse_changed(folder, record, dataset)
    except (UserError, OSError) as error:
        dataset = None
        missing.append(f"The data set is not at hand, so there are no examples and no scores of labels: {error}")
    if record["status"] != "finished":
        missing.append(f"The run is {record['status']}: it has no metrics and no predictions.")
    else:
        decisions = workdir.read_decisions(folder)
    if dataset is not None and decisions:
        try:
            scored = read_predictions(folder, split, dataset)
        except UserError as error:
            missing.append(f"Predictions are not at hand, so there are no examples and no scores of labels: {error}")
    reported = None
    try:
        label_space, frequencies, hierarchy = workdir.read_labels(folder)
        reported = labels.report_labels(split, label_space, hierarchy, frequencies, decisions, dataset, scored)
    except UserError as error:
        missing.append(f"There is nothing to say of labels: {error}")
    chosen = None if scored is None else examples.choose_examples(scored, decisions[labels.DECISION])
    return Material(record, config, reported, chosen, dataset, tuple(missing))


def run_page(of: Material, figures: Sequence[tuple[str, str]] = ()) -> Page:
    """Return the page of a run; figures: pairs of a title and SVG."""
    record, metrics = of.record, of.record.get("metrics", {})
    sections = [Section("metrics", "Metrics", _metrics(record, metrics))] if metrics else []
    sections += figures_section(figures)
    if of.labels is not None:
        sections += labels.sections(of.labels)
    if of.examples is not None and of.labels is not None and of.dataset is not None:
        sections.append(examples.section(of.examples, of.dataset, of.labels.split))
    sections += [Section("config", "Config", _config(of.config)), Section("record", "Record", _record(record))]
    data = {} if of.labels is None else {"labels": of.labels.to_json()}
    return Page(f"{record['name']} on {record['data']['name']}", _lead(of), tuple(sections), data)


def _lead(of: Material) -> Html:
    record = of.record
    pairs = [("data set", record["data"]["name"]), ("status", record["status"]), ("seed", str(record.get("seed", "")))]
    if record.get("started"):
        pairs.append(("started", record["started"].replace("T", " ").replace("Z", " UTC")))
    if record.get("command"):
        pairs.append(("command", tag("code", record["command"])))
    tiles = []
    for place in COLUMNS:
        split, group, metric = place.split(".")
        value = _number(record, split, group, metric)
        if split == "test" and value is not None:
            beside = _number(record, "validation", group, metric)
            said = tag("small", "" if beside is None else f"validation {_text(metric, beside)}")
            heading = tag("span", breakable(f"{title(place)}{ARROWS[direction(place)]}"))
            tiles.append(tag("li", heading, tag("strong", _text(metric, value)), said))
    error = [str(record["error"])] if record.get("error") else []
    return join(
        [
            tag("p", "A run", attributes={"class": "kind"}),
            tag("h1", breakable(record["name"])),
            facts(pairs),
            tag("ul", *tiles, attributes={"class": "tiles"}) if tiles else "",
            bullets([*error, *of.missing, *record.get("remarks", [])], "remarks"),
        ]
    )


def _number(record: Mapping[str, Any], split: str, group: str, metric: str) -> float | None:
    return record.get("metrics", {}).get(split, {}).get(group, {}).get(metric)


def _text(metric: str, value: float) -> str:
    if metric.startswith("num_"):
        return f"{value:,.0f}"
    return f"{value:.2f}" if metric in NEITHER or metric in ("mean", "coverage_error") else f"{value:.4f}"


def _metrics(record: Mapping[str, Any], metrics: Metrics) -> Html:
    """Return the metrics of each decision and those of scores, validation beside test."""
    groups = dict.fromkeys(group for split in SPLITS for group in metrics.get(split, {}))
    decided = [group for group in groups if group in DECISIONS]
    spans = [tag("th", group, attributes={"scope": "colgroup", "colspan": str(len(SPLITS))}) for group in decided]
    rows = [[_defined(metric), *_values(metrics, decided, metric)] for metric in _ordered(metrics, decided)]
    scores = [
        [_defined(metric), *_values(metrics, [group], metric)]
        for group in groups
        if group not in decided
        for metric in _ordered(metrics, [group])
    ]
    definitions = [tag("div", tag("dt", group), tag("dd", f"{DECISIONS[group]}.")) for group in decided]
    notes = [
        "A metric's name opens its definition; ↑ more is better, ↓ less is.",
        "TP, FP, FN: true positives, false positives and false negatives among the known cells; a cell is a label of "
        "an example.",
        "Decisions are fitted on the validation split, and the test split is scored once.",
        *([f"Calibration: {calibrated(record['calibration'])}."] if "calibration" in record else []),
    ]
    return join(
        [
            table(
                "Metrics of label sets", ["metric", *[*SPLITS] * len(decided)], rows, above=tag("tr", tag("td"), *spans)
            ),
            tag("dl", *definitions, attributes={"class": "definitions"}),
            tag("div", table("Metrics of scores", ["metric", *SPLITS], scores), attributes={"class": "narrow"}),
            bullets(notes),
        ]
    )


def _ordered(metrics: Metrics, groups: Sequence[str]) -> list[str]:
    """Return the names of metrics, those of a table's usual columns first, counts last."""
    usual = [place.rpartition(".")[2] for place in COLUMNS]
    there = {name for split in SPLITS for group in groups for name in metrics.get(split, {}).get(group, {})}
    return [name for name in dict.fromkeys([*usual, *HIGHER, *LOWER, *NEITHER, *sorted(there)]) if name in there]


def _defined(metric: str) -> Html:
    """Return a metric's heading, which opens its definition."""
    known = HIGHER | LOWER | NEITHER
    heading = breakable(f"{TITLES.get(metric, metric)}{ARROWS[direction(f'test.mode.{metric}')]}")
    return fold(heading, tag("span", f"{known[metric]}."), kind="definition") if metric in known else heading


def _values(metrics: Metrics, groups: Sequence[str], metric: str) -> Iterator[Html]:
    for group, split in itertools.product(groups, SPLITS):
        value = metrics.get(split, {}).get(group, {}).get(metric)
        kind = "number" if split == "test" else "number aside"
        yield cell("–" if value is None else _text(metric, value), kind=kind)


def _config(config: ConfigDict) -> Html:
    """Return the settings that differ from the defaults, and all of them folded."""
    settings, defaults = flatten(to_dict(config)), flatten(to_dict(base_config()))
    shown = {key: _setting(value) for key, value in settings.items()}
    changed = [
        [tag("code", key), cell(text), cell(_setting(defaults[key]) if key in defaults else "–", kind="aside")]
        for key, text in shown.items()
        if key not in defaults or settings[key] != defaults[key]
    ]
    return join(
        [
            table("What differs from the defaults", ["setting", "value", "default"], changed),
            fold(
                f"All {len(shown)} settings",
                table(
                    "Settings", ["setting", "value"], [[tag("code", key), cell(text)] for key, text in shown.items()]
                ),
            ),
        ]
    )


def _setting(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _record(record: Mapping[str, Any]) -> Html:
    """Return what the run took, and what it was made with and of."""
    seconds = ", ".join(f"{name} {value:,.1f} s" for name, value in record["seconds"].items())
    devices = record.get("devices", [])
    selected = record.get("selected") or {}
    chosen = f"step {selected['step']:,}, epoch {selected['epoch']:g}" if selected else ""
    compute = [
        ("time", seconds),
        ("devices", ", ".join(f"{devices.count(kind)} × {kind}" for kind in dict.fromkeys(devices))),
        ("processor cores", str(record.get("cpu_count") or "")),
        ("parameters", _count(record.get("num_parameters"))),
        ("steps", _count(record.get("num_steps"))),
        ("parameters of", chosen + (f", chosen by {selected['by']}" if selected.get("by") else "")),
        ("examples", ", ".join(f"{count:,} {split}" for split, count in record.get("examples", {}).items())),
        ("labels", _count(record.get("label_space", {}).get("num_labels"))),
    ]
    git = record.get("git") or {}
    commit = f"{git['commit'][:12]}{', with changes' if git.get('dirty') else ''}" if git else ""
    made = [
        ("Python", record.get("python", "")),
        *record.get("versions", {}).items(),
        ("commit", commit),
        ("code", record.get("code_hash", "")[:16]),
        ("data", record["data"].get("fingerprint", "")[:16]),
        ("label space", record.get("label_space", {}).get("hash", "")[:16]),
    ]
    return join(
        [
            facts((name, value) for name, value in compute if value),
            fold("Versions and hashes", facts((name, value) for name, value in made if value)),
            fold("The whole record", tag("pre", json.dumps(record, indent=2, ensure_ascii=False)), kind="fold raw"),
        ]
    )


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
