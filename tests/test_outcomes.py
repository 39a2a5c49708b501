"""Metrics of resampled examples against the metrics of the rows copied as often as they were drawn."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_scores import label_metrics, split_metrics
from small_tables import make_record, make_results, write_study

from mlresearch import predictions
from mlresearch.cli import main
from mlresearch.config import base_config, resolve
from mlresearch.data.records import Dataset, Records
from mlresearch.decisions import GlobalThreshold, Half
from mlresearch.definitions import HIGHER, LOWER, RANKING
from mlresearch.errors import UserError
from mlresearch.inputs import load_dataset
from mlresearch.label_space import LabelSets, LabelSpace
from mlresearch.predictions import Predictions
from mlresearch.scored import ScoredRows
from mlresearch.study import Study
from mlresearch.tables import Table
from mlresearch.tables.outcomes import OutcomeReader, read_outcomes
from mlresearch.tables.results import Results
from mlresearch.tables.significance import draw_weights
from mlresearch.tables.tabulate import tabulate

EDGES = np.array([[1, 0], [2, 0], [4, 3], [5, 3], [5, 4]], np.int32)
DECISIONS = {
    "half": Half(),
    "global_threshold": GlobalThreshold("micro_f1", 0.3, 0.5, (0.2, 0.3, 0.4), False, "print/validation"),
}
NO_SUMS = {f"{mean}_average_precision" for mean in ("micro", "macro", "weighted")}
MADE = split_metrics(*(np.eye(8, dtype=kind) for kind in (np.float32, bool, bool)), (EDGES[:, 0], EDGES[:, 1]))
METRICS = [name for name in MADE if name in HIGHER | LOWER and name not in NO_SUMS]


def make_dataset(kind, num_examples=40, num_labels=8):
    rng = np.random.default_rng(1)
    labels = rng.random((num_examples, num_labels)) < 0.35
    unknown = (rng.random(labels.shape) < 0.3) & (kind == "unknown")
    if kind == "unknown":
        unknown[3] = True  # an example of which nothing is known counts nowhere
    rows = [np.flatnonzero(on | odd).tolist() for on, odd in zip(labels, unknown, strict=True)]
    values = [np.where(unknown[at, ids], np.nan, 1.0).tolist() for at, ids in enumerate(rows)]
    sets = LabelSets.from_rows(rows, values if kind == "unknown" else None)
    names = tuple(f"label {at}" for at in range(num_labels))
    records = Records(sets, tuple(map(str, range(num_examples))))
    parents = None if kind == "flat" else EDGES
    return Dataset("made/up", {"test": records}, LabelSpace(names, names), parents, "print", {})


def write(folder, scores, mode, labels, known=None):
    """Write predictions as a run does, and return what it said."""
    rows = ScoredRows(np.arange(len(labels)), scores, {"mode": mode}, np.zeros(len(labels)), labels, known)
    kept = Predictions(*scores.shape)
    for part in np.array_split(np.random.default_rng(3).permutation(len(labels)), 4):  # in any order
        kept.add(jax.tree.map(lambda of, part=part: of[part], rows))
    kept.write(folder, "test")
    return rows


def store(folder, dataset):
    """Write random predictions as a run does, and return their scores."""
    rng = np.random.default_rng(2)
    labels, num_labels = dataset.splits["test"].labels, dataset.label_space.num_labels
    scores = np.log(rng.random((len(labels), num_labels)).round(1) + 0.01).astype(np.float32)  # with ties
    mode = rng.random(scores.shape) < 0.4
    folder.mkdir(exist_ok=True)
    made = write(folder, scores, mode, labels.multi_hot(num_labels), labels.known(num_labels))
    stored = {"mode": {"kind": "mode"}} | {name: decision.to_json() for name, decision in DECISIONS.items()}
    (folder / "decisions.json").write_text(json.dumps(stored))
    return made


def read(folder, dataset, places):
    with np.load(folder / "predictions_test.npz") as stored:
        return read_outcomes(dict(stored), dataset, folder, places)


@pytest.mark.parametrize("group", ["mode", "half", "global_threshold"])
@pytest.mark.parametrize("kind", ["flat", "hierarchy", "unknown"])
def test_a_resample_has_the_metrics_of_its_rows(kind, group, tmp_path):
    dataset = make_dataset(kind)
    scores = store(tmp_path, dataset)
    places = [f"test.{'ranking' if name in RANKING else group}.{name}" for name in METRICS]
    outcomes = read(tmp_path, dataset, places)
    [weights] = draw_weights(outcomes.num_examples, 30, seed=0)
    weights[0] = 1  # the split itself
    given = outcomes.metrics(places, weights)
    preds = scores.sets["mode"] if group == "mode" else DECISIONS[group].apply(scores)
    edges = None if kind == "flat" else (EDGES[:, 0], EDGES[:, 1])
    for at, times in enumerate(weights):
        drawn = np.repeat(np.arange(len(times)), times)
        known = None if scores.known is None else scores.known[drawn]
        wanted = split_metrics(scores.log_marginals[drawn], preds[drawn], scores.labels[drawn], edges, known)
        for place, numbers in given.items():
            assert numbers[at] == pytest.approx(wanted[place.rpartition(".")[2]]), (place, at)
    left_out = {"violation_rate"} if kind == "flat" else set()
    assert {place.rpartition(".")[2] for place in given} == set(METRICS) - left_out


def test_stored_top_scores_give_what_they_hold(tmp_path, monkeypatch):
    dataset = make_dataset("hierarchy")
    monkeypatch.setattr(predictions, "FULL_SCORES", 7)
    monkeypatch.setattr(predictions, "TOP_SCORES", 7)
    monkeypatch.setattr("mlresearch.tables.outcomes.BLOCK_CELLS", 24)
    scores = store(tmp_path, dataset)
    with np.load(tmp_path / "predictions_test.npz") as stored:
        assert stored["log_marginals"].shape == (40, 7)
    passing = DECISIONS["half"].apply(scores)
    assert passing.sum(axis=1).max() == 7  # all that pass are stored, and in some rows just so
    places = ["test.ranking.precision_at_3", "test.ranking.ranking_loss", "test.mode.micro_f1", "test.half.micro_f1"]
    given = read(tmp_path, dataset, places).metrics(places, np.ones((1, 40), np.int64))
    wanted = split_metrics(scores.log_marginals, passing, scores.labels, None)
    assert given["test.half.micro_f1"][0] == pytest.approx(wanted["micro_f1"])
    assert given["test.ranking.precision_at_3"][0] == pytest.approx(wanted["precision_at_3"])
    assert "test.ranking.ranking_loss" not in given  # which needs all scores
    of_mode = label_metrics(scores.sets["mode"], scores.labels, None)
    assert given["test.mode.micro_f1"][0] == pytest.approx(of_mode["micro_f1"])


def test_predictions_of_another_split_are_refused(tmp_path):
    store(tmp_path, make_dataset("flat"))
    with pytest.raises(UserError, match="predictions of 40 examples, the split has 39"):
        read(tmp_path, make_dataset("flat", num_examples=39), ["test.mode.micro_f1"])


# In a table

PLACES = [
    "test.mode.micro_f1",
    "test.mode.macro_f1",
    "test.mode.subset_accuracy",
    "test.ranking.macro_average_precision",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data_dir):
    """A study of two rows and two seeds with records and predictions, the second row far better than the first."""
    folder = tmp_path_factory.mktemp("examples")
    write_study(folder / "study", seeds=2)
    (folder / "config.py").write_text(
        (folder / "study/config.py").read_text().replace("return", f"config.data.dir = '{data_dir}'\n    return")
    )
    sweep = (folder / "study/sweep.py").read_text().replace(str(folder / "study/config.py"), str(folder / "config.py"))
    sweep = sweep.replace('columns=["test.mode.subset_accuracy"]', f"columns={PLACES}")
    (folder / "study/sweep.py").write_text(sweep.replace(", )", ", test='bootstrap', unit='examples', resamples=500)"))
    for file in (folder / "study/records").iterdir():
        file.unlink()
    study = Study.load(folder / "study")
    config = base_config()
    config.data.name, config.data.dir = "tiny/paths", str(data_dir)
    dataset = load_dataset(resolve(config))
    records, edges = dataset.splits["test"], (dataset.hierarchy.children, dataset.hierarchy.parents)
    labels = records.labels.multi_hot(dataset.label_space.num_labels)
    for number, run in enumerate(study.runs):
        rng = np.random.default_rng(number)
        wrong = rng.random(labels.shape) < (0.3 if run.row == "independent" else 0.02)
        scores = np.log(np.where(labels ^ wrong, 0.9, 0.1)).astype(np.float32)
        run_id = run.run_id(dataset.fingerprint)
        target = folder / "runs" / run_id
        target.mkdir(parents=True)
        write(target, scores, labels ^ wrong, labels)
        metrics = split_metrics(scores, labels ^ wrong, labels, edges)
        values = {place: metrics[place.rpartition(".")[2]] for place in PLACES}
        record = make_record(run.seed, fingerprint=dataset.fingerprint, **values)
        keys = {"run_id": run_id, "config_hash": run.config_hash, "overrides": run.overrides, "row": run.row}
        (folder / "study/records" / f"{run_id}.json").write_text(json.dumps(record | keys))
    return folder


def test_two_seeds_suffice_where_the_unit_is_the_example(runs, monkeypatch, capsys):
    monkeypatch.setattr("mlresearch.environment.code_hash", lambda sources=(): "c0de" * 16)
    words = ["table", str(runs / "study"), f"--workdir={runs / 'runs'}", "--format=json"]
    assert main(words) == 0
    [table] = json.loads(capsys.readouterr().out)["tables"]
    cells = {(cell["row"], cell["column"]): cell for cell in table["cells"]}
    for place in PLACES[:3]:
        assert cells["conditional", place]["best"]
        assert cells["conditional", place]["differs"]
    assert cells["conditional", PLACES[3]]["p_baseline"] is None
    notes = " ".join(table["notes"])
    assert "the unit is the test example" in notes
    assert "500 resamples" in notes
    assert "do not give it example by example: mAP" in notes
    assert main(words) == 0  # and again, to the last digit
    assert json.loads(capsys.readouterr().out)["tables"] == [table]


def test_without_predictions_the_unit_is_the_seed_and_the_table_says_so(runs, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("mlresearch.environment.code_hash", lambda sources=(): "c0de" * 16)
    assert main(["table", str(runs / "study"), f"--workdir={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "it is the seed, because there is no " in printed
    assert "with so few seeds; it takes" in printed
    assert "†" not in printed


def test_predictions_that_are_not_the_record_s_are_not_tested(runs):
    study = Study.load(runs / "study")
    reader = OutcomeReader()
    [table] = tabulate(
        results := changed(runs, study),
        dataclasses.replace(study.table, columns=PLACES[:2], resamples=200),
        outcomes=lambda run, places: reader.read(run.folder, run.config, run.record["data"]["fingerprint"], places),
    )
    assert len(results.runs) == 4
    cells = {row.name: row.cells for row in table.rows}
    assert cells["conditional"][0].p_baseline is None
    assert cells["conditional"][1].p_baseline is not None
    assert "do not give it example by example: micro_f1" in " ".join(table.notes)


def changed(runs, study):
    """The study's results, one record of which states another micro-F1 than its predictions have."""
    from mlresearch.tables.results import read_study

    results = read_study(study, runs / "runs")
    record = json.loads(json.dumps(results.runs[0].record))
    record["metrics"]["test"]["mode"]["micro_f1"] += 0.01
    return Results(
        results.name, results.expected, (dataclasses.replace(results.runs[0], record=record), *results.runs[1:])
    )


def test_other_data_than_the_record_s_are_not_resampled(runs):
    study = Study.load(runs / "study")
    [folder, *_] = (runs / "runs").iterdir()
    with pytest.raises(UserError, match="is not what it was when the run"):
        OutcomeReader().read(folder, study.runs[0].config, "another", PLACES)
    assert make_results({"a": [0.5]}).runs[0].folder is None


def test_a_table_of_examples_needs_somebody_to_read_them():
    table = Table(["test.mode.subset_accuracy"], test="bootstrap", unit="examples")
    [sheet] = tabulate(make_results({"a": [0.1] * 8, "b": [0.3] * 8}), table)
    assert "it is the seed, because" in " ".join(sheet.notes)
    assert sheet.num_comparisons == 1
