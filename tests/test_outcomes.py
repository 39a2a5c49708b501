"""Tables whose unit is the example: which rows the stored predictions of runs tell apart."""

import dataclasses
import json

import numpy as np
import pytest
from small_predictions import make_dataset, store, write
from small_scores import split_metrics
from small_tables import make_record, make_results, write_study

from mlresearch.cli import main
from mlresearch.config import base_config, resolve
from mlresearch.errors import UserError
from mlresearch.inputs import load_dataset
from mlresearch.predictions import read_predictions
from mlresearch.study import Study
from mlresearch.tables import Table
from mlresearch.tables.outcomes import OutcomeReader
from mlresearch.tables.results import Results, read_study
from mlresearch.tables.tabulate import tabulate


def test_predictions_of_another_split_are_refused(tmp_path):
    store(tmp_path, make_dataset("flat"))
    with pytest.raises(UserError, match="predictions of 40 examples, the split has 39"):
        read_predictions(tmp_path, "test", make_dataset("flat", num_examples=39))


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, 0.999])
def test_predictions_that_are_cut_off_are_refused_by_name(kept, tmp_path):
    dataset = make_dataset("flat")
    store(tmp_path, dataset)
    file = tmp_path / "predictions_test.npz"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"predictions_test\.npz is damaged"):
        read_predictions(tmp_path, "test", dataset)


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
        (target / "decisions.json").write_text(json.dumps({"mode": {"kind": "mode"}, "half": {"kind": "half"}}))
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
    for place in PLACES:
        assert cells["conditional", place]["best"]
        assert cells["conditional", place]["differs"]
    notes = " ".join(table["notes"])
    assert "the unit is the test example" in notes
    assert "500 resamples" in notes
    assert "Not tested" not in notes
    assert main(words) == 0  # and again, to the last digit
    assert json.loads(capsys.readouterr().out)["tables"] == [table]


def test_the_command_line_names_another_baseline(runs, monkeypatch, capsys):
    monkeypatch.setattr("mlresearch.environment.code_hash", lambda sources=(): "c0de" * 16)
    words = ["table", str(runs / "study"), f"--workdir={runs / 'runs'}", "--format=json"]
    found = {}
    for baseline, other in (("independent", "conditional"), ("conditional", "independent")):
        assert main([*words, f"--baseline={baseline}"]) == 0
        [table] = json.loads(capsys.readouterr().out)["tables"]
        cells = {cell["row"]: cell for cell in table["cells"] if cell["column"] == PLACES[0]}
        assert cells[baseline]["p_baseline"] is None
        found[baseline] = cells[other]["p_baseline"]
    assert found["independent"] == found["conditional"]  # two rows, and the test has no sides
    assert main([*words, "--baseline=conditionl"]) != 0
    assert "the baseline 'conditionl' names no row; did you mean 'conditional'?" in capsys.readouterr().err


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
