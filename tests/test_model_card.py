"""Model cards against the records, configs and data sets that they are written from, read by a parser of Markdown."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from markdown_it import MarkdownIt
from ml_collections import ConfigDict
from small_runs import make_config

from mlresearch import data, workdir
from mlresearch.baselines import train_baseline
from mlresearch.config import base_config, identity, resolve
from mlresearch.data import Dataset
from mlresearch.definitions import DECISIONS, TITLES
from mlresearch.fit import Stopped
from mlresearch.inputs import load_dataset
from mlresearch.label_space import LabelSets, LabelSpace
from mlresearch.model_card import FILE, MADE_FOR, MEDICAL, METRICS, SCORES, model_card
from mlresearch.train import train_replicas

SECTIONS = [
    *("Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data"),
    *("Quantitative analyses", "Ethical considerations", "Caveats and recommendations", "Reproduction", "Compute"),
]


@pytest.fixture(scope="module")
def config(data_dir):
    config = make_config(data_dir)
    config.data.name = "tiny/sets"
    config.train.chunk_steps = 4
    config.train.refit = True
    config.train.replicas = 2
    config.evaluate.expected_f1_labels = 3
    config.evaluate.label_threshold_closure = "up"
    return config


@pytest.fixture(scope="module")
def folders(config, tmp_path_factory):
    """Two replicas that were stopped once and went on; a refit on validation."""
    folder = tmp_path_factory.mktemp("cards")
    asked = itertools.chain([False, True], itertools.repeat(False))
    with pytest.raises(Stopped):
        train_replicas(config, folder, stop=lambda: next(asked))
    assert not list(folder.rglob(FILE))  # it is of finished runs
    train_replicas(config, folder)
    return [folder / f"seed_{seed}" for seed in (0, 1)]


@pytest.fixture(scope="module")
def run(folders):
    """Record, config and data set of the second replica."""
    config = workdir.read_config(folders[1])
    return workdir.read_record(folders[1]), config, load_dataset(config)


def parse(card):
    """Headings, tables as rows of cells, items of lists and blocks of code, as a reader sees them, each by section."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card)
    sections, rows, depth = {}, [], 0
    for token, after in itertools.pairwise([*tokens, tokens[-1]]):
        if token.type == "heading_open" and token.tag == "h2":
            here = sections.setdefault(after.content, {"rows": [], "items": [], "code": [], "text": []})
        elif token.type == "fence":
            here["code"].append((token.info, token.content))
        elif token.type == "tr_open":
            rows = []
        elif token.type in ("th_open", "td_open"):
            rows.append(read(after))
        elif token.type == "tr_close":
            here["rows"].append(rows)
        elif token.type in ("list_item_open", "list_item_close"):
            depth += 1 if token.nesting > 0 else -1
        elif token.type == "paragraph_open" and sections:
            here["items" if depth else "text"].append(read(after))
    return sections


def read(inline):
    """The text of an inline token; what escapes stand for, without marks of emphasis."""
    return "".join(child.content for child in inline.children)


def facts(items):
    return dict(item.split(": ", 1) for item in items)


def numbers(sections):
    """The table of results: (decision, heading of the metric) and the cells of validation and of test."""
    title, *rows = sections["Quantitative analyses"]["rows"]
    assert title == ["decision", "metric", "validation", "test"]
    return {(row[0], row[1].rstrip(" ↑↓")): row[2:] for row in rows if row[0] in {*DECISIONS, *SCORES}}


def test_each_replica_has_a_card_of_its_own(folders):
    for seed, folder in enumerate(folders):
        card = (folder / FILE).read_text()
        assert card.startswith(f"# Model card: bag+linear+conditional-any on tiny/sets, seed {seed}\n")
        assert card == model_card(
            workdir.read_record(folder),
            workdir.read_config(folder),
            load_dataset(workdir.read_config(folder)),
        )


def test_a_card_has_every_section(run):
    sections = parse(model_card(*run))
    assert list(sections) == SECTIONS
    for name, section in sections.items():
        assert any(section.values()), name


def test_its_numbers_are_the_record_s(run):
    record, _, _ = run
    found = numbers(parse(model_card(*run)))
    on_validation, on_test = record["metrics"]["validation"], record["metrics"]["test"]
    expected = {
        (group, TITLES.get(metric, metric)): [on_validation[group][metric], on_test[group][metric]]
        for group in on_test
        for metric in SCORES.get(group, METRICS)
    }
    assert set(found) == set(expected)
    assert {group for group, _ in found} == {*DECISIONS, *SCORES}
    for place, values in expected.items():
        digits = [len(cell.partition(".")[2]) for cell in found[place]]
        assert min(digits) >= 3
        assert len(set(digits)) == 1
        for cell, value in zip(found[place], values, strict=True):
            assert abs(float(cell) - value) <= 0.5000001 * 10.0 ** -digits[0]
        largest = max(map(abs, values))
        assert largest == 0 or abs(float(found[place][int(np.argmax(np.abs(values)))]) / largest - 1) < 0.06


def test_small_numbers_keep_two_digits(run):
    record, config, dataset = run
    record = json.loads(json.dumps(record))
    record["metrics"]["test"]["mode"]["hamming_loss"] = 0.0000456
    record["metrics"]["validation"]["mode"]["hamming_loss"] = 0.00001
    record["metrics"]["test"]["loss"]["mean"] = None
    found = numbers(parse(model_card(record, config, dataset)))
    assert found["mode", "hamming_loss"] == ["0.000010", "0.000046"]
    assert found["loss", "loss"][1] == "—"


def test_what_it_says_of_the_run_is_the_record_s(run):
    record, _, dataset = run
    sections = parse(model_card(*run))
    details = facts(sections["Model details"]["items"])
    assert record["resumed_at"] > 0
    assert f"stopped, and went on from step {record['resumed_at']}" in details["Training"]
    assert details["Training"].endswith("with 1 other run") or "with 1 other run;" in details["Training"]
    assert f"{record['refit']['examples']} examples, {record['refit']['steps']} steps" in details["Training"]
    assert record["code_hash"] in details["Code"]
    assert details["Date"] == record["started"][:10]
    assert details["Parameters"].startswith(f"{record['num_parameters']} ")
    for name, version in record["versions"].items():
        assert f"{name} {version}" in details["Versions"]
    evaluated = facts(sections["Evaluation data"]["items"])
    assert evaluated["Fingerprint"].startswith(dataset.fingerprint)
    # animal and plant are roots, owl, wren and oak of the third level
    assert "9 labels, trees with 2 roots, 7 edges, 3 levels; hash " in evaluated["Label space"]
    assert evaluated["Splits"] == "train 150, validation 37, test 29"
    for missing in ("What it is", "Source", "Licence"):
        assert evaluated[missing] == "not stated"
    compute = facts(sections["Compute"]["items"])
    for name, value in record["seconds"].items():
        assert abs(float(compute[f"Seconds, {name}"]) - value) <= 0.051
    assert float(compute["Seconds in all"].split()[0]) == pytest.approx(sum(record["seconds"].values()), abs=0.051)
    assert any("before the refit" in item for item in sections["Caveats and recommendations"]["items"])


def test_a_run_that_never_stopped_says_nothing_of_stops(run):
    record, config, dataset = run
    plain = {name: value for name, value in record.items() if name != "refit"}
    card = model_card(plain | {"resumed_at": None, "replicas": 1}, config, dataset)
    assert not any(word in card for word in ("stop", "other run", "replica", "before the refit"))
    assert "Parameters were learnt from train." in card


def test_what_an_old_record_lacks_is_said_to_be_missing(run):
    record, config, dataset = run
    needed = (
        *("name", "seed", "data", "metrics", "code_hash", "inputs", "examples", "label_space", "num_steps"),
        "num_parameters",
    )
    sections = parse(model_card({name: record[name] for name in needed}, config, dataset))
    details, compute = facts(sections["Model details"]["items"]), facts(sections["Compute"]["items"])
    assert (details["Date"], details["Versions"]) == ("not recorded", "Python not recorded")
    assert "no commit recorded" in details["Code"]
    assert {compute[name] for name in ("Devices", "Platform", "Cores of the machine", "Seconds in all")} == {
        "not recorded"
    }


def same(card, config, data_dir):
    """Assert that the file which a card gives has the settings of a run's config."""
    [(language, code)] = [block for block in parse(card)["Reproduction"]["code"] if block[0]]
    assert language == "python"
    names = {}
    exec(code, names)
    made = names["get_config"]()
    made.data.dir = str(data_dir)
    settings, wanted = identity(resolve(made)), identity(config)
    assert {key: settings[key] for key in wanted} == wanted
    return names["SETTINGS"]


def test_its_file_has_the_settings_of_the_run(run, data_dir):
    settings = same(model_card(*run), run[1], data_dir)
    default = identity(base_config())
    assert all(default[key] != value for key, value in settings.items())
    assert settings["seed"] == 1


def test_the_commands_that_it_gives(run):
    record, config, dataset = run
    for dirty in (False, True):
        card = model_card(record | {"git": {"commit": "c0ffee", "dirty": dirty}}, config, dataset)
        assert ("No recorded commit holds the code" in card) == dirty
        code = parse(card)
        [(_, commands)] = [block for block in code["Reproduction"]["code"] if not block[0]]
        checkout, _, train, evaluate = commands.splitlines()
        assert checkout.startswith("git checkout c0ffee")
        assert ("differed" in checkout) == dirty
        assert train == "mlresearch train --config=same.py --workdir=WORKDIR"
        assert evaluate == "mlresearch evaluate --workdir=WORKDIR --split=test"


def test_a_baseline_has_a_card(config, tmp_path, data_dir):
    config = ConfigDict(config.to_dict())
    config.train.replicas = 1
    config.baseline.name = "one_vs_rest"
    record = train_baseline(resolve(config), tmp_path)
    card, own = (tmp_path / FILE).read_text(), workdir.read_config(tmp_path)
    sections = parse(card)
    assert list(sections) == SECTIONS
    details = facts(sections["Model details"]["items"])
    assert details["Kind"] == "a baseline"
    assert details["Baseline"].startswith("one_vs_rest. One logistic regression a label")
    assert "Encoder" not in details
    found = numbers(sections)
    assert float(found["mode", "micro_f1"][1]) == pytest.approx(record["metrics"]["test"]["mode"]["micro_f1"], abs=6e-4)
    assert ("loss", "loss") not in found
    assert "mlresearch evaluate" not in card
    settings = same(card, own, data_dir)
    assert settings["baseline.name"] == "one_vs_rest"


ODD = (r"a|b\c", "`x`", "<b>&lt;", "*star* __under__", "[z](u) ~~no~~")


def test_odd_names_are_read_as_they_are(run):
    """Labels, some never seen in training, notes and remarks with all that means something in Markdown."""
    record, config, dataset = run
    names = (*dataset.label_space.names, *ODD)
    rng = np.random.default_rng(0)
    test = dataset.splits["test"]
    unseen = [[*test.labels.row(row).tolist(), len(names) - 1][: int(rng.integers(1, 9))] for row in range(len(test))]
    odd = dataclasses.replace(
        dataset,
        label_space=LabelSpace(names, names),
        splits=dataset.splits | {"test": dataclasses.replace(test, labels=LabelSets.from_rows(unseen))},
        notes={name: {"a | b": "`"} for name in ODD},
        about={"citation": "@misc{x,\n```\n  note = {````}\n}", "license": "a\nb | c", "description": "*d*"},
    )
    remarks = [f"about {name}" for name in ODD]
    sections = parse(model_card(record | {"remarks": remarks, "name": "m|x"}, config, odd))
    assert list(sections) == SECTIONS
    assert sections["Evaluation data"]["rows"][1:] == [[name, json.dumps({"a | b": "`"})] for name in ODD]
    assert sections["Evaluation data"]["code"] == [("bibtex", odd.about["citation"] + "\n")]
    assert facts(sections["Evaluation data"]["items"])["Licence"] == "a b | c"
    assert facts(sections["Evaluation data"]["items"])["What it is"] == "*d*"
    analyses = sections["Quantitative analyses"]
    assert analyses["items"] == remarks
    assert f"Labels never seen in training: 5 of {len(names)} ({', '.join(ODD)})." in analyses["text"]
    on = sum(len(names) - 1 in row for row in unseen)
    share = on / sum(map(len, unseen))
    assert analyses["rows"][-1] == ["test", "1", str(on), f"{share:.2%}"]
    assert analyses["rows"][-2] == ["validation", "0", "0", "0.00%"]


def test_many_labels_never_seen_are_not_all_listed(run):
    record, config, dataset = run
    names = (*dataset.label_space.names, *(f"new {number}" for number in range(30)))
    odd = dataclasses.replace(dataset, label_space=LabelSpace(names, names))
    [line] = [line for line in model_card(record, config, odd).splitlines() if line.startswith("Labels never")]
    assert "30 of 39 (new 0, " in line
    assert line.endswith("new 9, …).")


def test_of_medical_codes_it_says_what_they_are_not_for(run):
    record, config, dataset = run
    names = [name for source in data.sources() for name in data.subsets(source)]
    for beginning in MEDICAL:
        assert any(name.startswith(beginning) for name in names)
    for name, medical in (("icd10cm/terms", True), ("codiesp/spanish", True), ("tiny/sets", False)):
        card = model_card(record | {"data": record["data"] | {"name": name}}, config, dataset)
        assert ("Not for clinical decisions" in card) == medical
        assert ("MLRESEARCH_MANUAL_DIR" in card) == name.startswith("codiesp")


def test_every_decision_is_for_a_metric():
    assert {*MADE_FOR, "global_threshold"} == set(DECISIONS)
    assert {*MADE_FOR.values()} <= set(METRICS)


def test_broken_hierarchies_are_told(run):
    record, config, dataset = run
    record = json.loads(json.dumps(record))
    for metrics in record["metrics"]["test"].values():
        metrics.pop("violation_rate", None)
    record["metrics"]["test"]["half"]["violation_rate"] = 0.25
    told = parse(model_card(record, config, dataset))["Caveats and recommendations"]["items"]
    assert "Predictions break the hierarchy in some test examples: half in 25.00%." in told
    flat = dataclasses.replace(dataset, parents=None)
    record["metrics"]["test"]["half"].pop("violation_rate")
    told = parse(model_card(record, config, flat))["Caveats and recommendations"]["items"]
    assert any(item.startswith("Labels are flat") for item in told)


def test_a_data_set_without_anything_about_it(run):
    """As where a caller made it by hand."""
    record, config, dataset = run
    bare = Dataset(dataset.name, dataset.splits, dataset.label_space, dataset.parents, dataset.fingerprint, {})
    sections = parse(model_card(record, config, bare))
    assert facts(sections["Evaluation data"]["items"])["Data set"].endswith("version not stated")
    assert sections["Evaluation data"]["rows"] == []
    assert not math.isnan(float(numbers(sections)["mode", "micro_f1"][0]))
