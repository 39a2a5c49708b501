"""What is told of each label against scikit-learn, and against the record."""

import csv
import json
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, classification_report, f1_score, precision_recall_fscore_support
from small_scores import label_sets, ranking_metrics, scored_split

from mlresearch.commands import evaluate as command
from mlresearch.data.records import Dataset, Records
from mlresearch.decisions import Half, LabelThresholds, Mode
from mlresearch.errors import UserError
from mlresearch.evaluate import evaluate, write_evaluations
from mlresearch.label_space import LabelSpace
from mlresearch.per_label import FILE, Report

NAMES = ("plain", 'a "quoted", one', "[bold]x[/bold]", "é;ü", "rare", "none")
DESCRIPTIONS = ("plain", "with, commas; and\ta tab", 'a "quote"\nand a line', " outer ", "rare", "none")
EDGES = np.array([[1, 0], [2, 0], [2, 1]], np.int32)
DECISIONS = {
    "mode": Mode(),
    "half": Half(),
    "label_thresholds": LabelThresholds(
        np.log([0.3, 0.5, 1e-7, 0.9, 0.2, 1]).astype(np.float32), 2, 0.0, 0, 0, 0, "print"
    ),
}
SIZES = {"train": 50, "validation": 23, "test": 31}


def make_splits(*, unknown=False):
    """The truth of each split by name, and which of it is known; the last label is nowhere on."""
    rng = np.random.default_rng(0)
    truth = {name: rng.random((size, len(NAMES))) < [0.5, 0.3, 0.2, 0.4, 0.06, 0] for name, size in SIZES.items()}
    truth["test"][4] = False
    known = {name: (rng.random(of.shape) < 0.8) | (not unknown) for name, of in truth.items()}
    return truth, known


@pytest.fixture(scope="module", params=["flat", "hierarchy", "unknown"])
def run(request, tmp_path_factory):
    """A folder with what is written of a run's evaluations, the test split's truth and scores, and the metrics."""
    folder = tmp_path_factory.mktemp("labels")
    truth, known = make_splits(unknown=request.param == "unknown")
    splits = {name: Records(label_sets(truth[name], known[name]), ("",) * size) for name, size in SIZES.items()}
    parents = EDGES if request.param == "hierarchy" else None
    dataset = Dataset("made/up", splits, LabelSpace(NAMES, DESCRIPTIONS), parents, "print", {})
    rng = np.random.default_rng(1)
    scores = np.log((rng.random(truth["test"].shape) + truth["test"] / 2).round(1) / 1.6 + 1e-3).astype(np.float32)
    modes = rng.random(scores.shape) < 0.4
    modes[4] = False  # nothing is true there, and nothing predicted
    scored = scored_split(scores[None], modes[None], truth["test"], known["test"], split="test", batch=9)
    [found] = evaluate(scored, [DECISIONS], dataset.hierarchy)
    metrics = write_evaluations(folder, dataset, DECISIONS, {"test": found})
    record = {"status": "finished", "name": "made", "seconds": {}, "data": {}, "inputs": {}, "num_steps": 1}
    (folder / "run.json").write_text(json.dumps(record | {"metrics": metrics}))
    return folder, truth, known, scores, {"mode": modes, "label_thresholds": DECISIONS["label_thresholds"]}, metrics


def predictions(run):
    """Of both decisions, by name."""
    _, _, _, scores, decisions, _ = run
    return {"mode": decisions["mode"], "label_thresholds": scores > decisions["label_thresholds"].log_thresholds}


def read(folder):
    with (folder / FILE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_label_has_scikit_learns_numbers(run):
    folder, truth, known, scores, *_ = run
    rows = read(folder)
    for name, prefix in {"label_thresholds": "", "mode": "mode_"}.items():
        preds = predictions(run)[name]
        for label, row in enumerate(rows):
            at = known["test"][:, label]
            wanted = precision_recall_fscore_support(
                truth["test"][at, label], preds[at, label], average="binary", zero_division=0
            )
            for column, value in zip(("precision", "recall", "f1"), wanted, strict=False):
                assert float(row[prefix + column]) == pytest.approx(value, rel=1e-5)
    for label, row in enumerate(rows):
        at = known["test"][:, label]
        if truth["test"][at, label].any():
            wanted = average_precision_score(truth["test"][at, label], scores[at, label])
            assert float(row["average_precision"]) == pytest.approx(wanted, rel=1e-5)
        else:
            assert row["average_precision"] == ""
        for split in SIZES:
            assert int(row[split]) == (truth[split] & known[split])[:, label].sum()
        assert math.log(float(row["threshold"])) == pytest.approx(
            DECISIONS["label_thresholds"].log_thresholds[label], abs=1e-5
        )


def test_names_and_descriptions_come_back_as_they_were(run):
    rows = read(run[0])
    assert [row["name"] for row in rows] == list(NAMES)
    assert [row["description"] for row in rows] == list(DESCRIPTIONS)
    levels = [row.get("level") for row in rows]
    assert levels in ([None] * 6, ["0", "1", "2", "0", "0", "0"])


def test_means_of_the_columns_are_the_records(run):
    folder, *_, metrics = run
    rows = read(folder)
    for name, prefix in {"label_thresholds": "", "mode": "mode_"}.items():
        for column in ("precision", "recall", "f1"):
            mean = np.mean([float(row[prefix + column]) for row in rows])
            assert mean == pytest.approx(metrics["test"][name][f"macro_{column}"], abs=1e-6)
    mean = np.mean([float(row["average_precision"]) for row in rows if row["average_precision"]])
    assert mean == pytest.approx(metrics["test"]["ranking"]["macro_average_precision"], abs=1e-6)


@pytest.mark.parametrize("decision", ["label_thresholds", "mode"])
def test_a_report_is_scikit_learns(run, decision):
    folder, truth, known, *_ = run
    if not known["test"].all():
        pytest.skip("scikit-learn knows no unknown labels")
    preds = predictions(run)[decision]
    wanted = classification_report(truth["test"], preds, target_names=NAMES, output_dict=True, zero_division=0)
    report = Report.read(folder, decision)
    assert [line.name for line in report.means] == ["micro avg", "macro avg", "weighted avg", "samples avg"]
    lines = {line.name: line for line in (*report.labels, *report.means)}
    assert lines.keys() == wanted.keys()
    # To predict nothing where nothing is true is right.
    wanted["samples avg"]["f1-score"] = f1_score(truth["test"], preds, average="samples", zero_division=1)
    for name, numbers in wanted.items():
        line = lines[name]
        found = (line.precision, line.recall, line.f1, line.support)
        assert found == pytest.approx(
            [numbers[key] for key in ("precision", "recall", "f1-score", "support")], rel=1e-5
        )
    assert all((line.threshold is None) == (decision == "mode") for line in report.labels)


def test_lines_are_sorted_by_any_column(run):
    report = Report.read(run[0], "label_thresholds")

    def names(by, top=0):
        return [line.name for line in report.first(by, top)]

    assert names("name") == sorted(NAMES)
    assert names("-name") == sorted(NAMES, reverse=True)
    for column in ("f1", "support", "train", "threshold"):
        values = [getattr(line, column) for line in report.first(column, 0)]
        assert values == sorted(values, reverse=True)
        assert [getattr(line, column) for line in report.first(f"-{column}", 0)] == values[::-1]
    assert names("support", 2) == names("support")[:2]
    assert names("average_precision")[-1] == names("-average_precision")[-1] == "none"  # it has none
    with pytest.raises(UserError, match="no column 'f2' to sort by"):
        report.first("f2", 0)


def test_a_report_of_what_there_is_not(tmp_path, run):
    with pytest.raises(UserError, match="holds no finished run"):
        Report.read(tmp_path, "mode")
    (tmp_path / "run.json").write_text((run[0] / "run.json").read_text())
    with pytest.raises(UserError, match=r"no per_label\.csv in .*make it again"):
        Report.read(tmp_path, "mode")
    with pytest.raises(UserError, match="not told one by one of the decision 'half'"):
        Report.read(run[0], "half")
    whole = (run[0] / FILE).read_text()
    for damaged in (whole[: len(whole) * 2 // 3], whole.replace("mode_f1", "f2"), whole.replace("0.", "many")):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(UserError, match=r"per_label\.csv is damaged"):
            Report.read(tmp_path, "mode")


def test_blocks_and_their_order_do_not_matter(run, tmp_path, monkeypatch):
    folder, truth, known, scores, decisions, _ = run
    monkeypatch.setattr("mlresearch.scored.BLOCK_CELLS", 20)
    order = np.random.default_rng(2).permutation(SIZES["test"])
    scored = scored_split(
        scores[None], decisions["mode"][None], truth["test"], known["test"], split="test", order=order
    )
    splits = {name: Records(label_sets(truth[name], known[name]), ("",) * size) for name, size in SIZES.items()}
    parents = EDGES if (folder / FILE).read_text().startswith("name,description,level") else None
    dataset = Dataset("made/up", splits, LabelSpace(NAMES, DESCRIPTIONS), parents, "print", {})
    [found] = evaluate(scored, [DECISIONS], dataset.hierarchy)
    write_evaluations(tmp_path, dataset, DECISIONS, {"test": found})
    assert (tmp_path / FILE).read_bytes() == (folder / FILE).read_bytes()


def test_a_report_is_printed_aligned_and_whole(run, capsys):
    words = ["evaluate", f"--workdir={run[0]}", "--per_label", "--sort=-f1", "--top=0"]
    assert command.run(words) == 0
    title, head, *lines = capsys.readouterr().out.splitlines()
    assert title == "test, label_thresholds: 6 of 6 labels"
    assert " ".join(head.split()) == "precision recall f1 support train average precision threshold description"
    report = Report.read(run[0], "label_thresholds")
    ordered = report.first("-f1", 0)
    for printed, line in zip(lines, ordered, strict=False):
        assert printed.startswith(line.name)
        assert f"{line.f1:.4f}" in printed
        assert " ".join(line.description.split()) in printed
        assert printed[: head.index("support") + len("support")].endswith(f" {line.support}")
    assert [text.split()[0] for text in lines[7:11]] == ["micro", "macro", "weighted", "samples"]
    assert command.run([*words, "--json", "--top=2", "--decision=mode"]) == 0
    said = json.loads(capsys.readouterr().out)
    report = Report.read(run[0], "mode")
    assert [line["name"] for line in said["labels"]] == [line.name for line in report.first("-f1", 2)]
    assert said["means"][0]["f1"] == run[-1]["test"]["mode"]["micro_f1"]


def test_on_a_terminal_a_report_is_a_table(run, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    assert command.run(["evaluate", f"--workdir={run[0]}", "--per_label"]) == 0
    printed = capsys.readouterr().out
    assert "─" in printed
    assert "[bold]x[/bold]" in printed  # a name is no markup


def test_average_precision_by_label_is_what_the_record_averages(run):
    _, truth, known, scores, *_ = run
    wanted = ranking_metrics(scores, truth["test"] & known["test"], known["test"])
    assert Report.read(run[0], "mode").means[1].average_precision == wanted["macro_average_precision"]
