"""The command that draws a study or runs, and what it leaves out."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_runs import make_config
from small_study import write_study

from mlresearch.cli import main
from mlresearch.errors import UserError
from mlresearch.figures import drawing, of_runs
from mlresearch.inputs import load_dataset
from mlresearch.label_space import LabelSets
from mlresearch.predict import Run
from mlresearch.tables import Table
from mlresearch.tables.results import Results, read_runs
from mlresearch.train import train


@pytest.fixture(scope="module")
def study(tmp_path_factory, data_dir):
    """A study of two runs, trained, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("figures")
    made = write_study(folder, data_dir, 'cross([{"head.name": "independent", "row": "one"}], seeds(2))')
    assert main(["sweep", str(made), f"--workdir={folder / 'runs'}"]) == 0
    return made, folder / "runs"


def test_a_study_is_drawn_and_what_is_left_out_is_named(study, capsys):
    folder, runs = study
    capsys.readouterr()
    assert main(["figures", str(folder), f"--workdir={runs}"]) == 0
    said = capsys.readouterr()
    written = {Path(line) for line in said.out.splitlines()}
    kinds = ("metrics", "learning", "precision_recall", "calibration", "thresholds", "label_f1", "cooccurrence")
    assert written == {
        folder / "figures" / f"{kind}-synthetic_features.{form}" for kind in kinds for form in ("png", "pdf")
    }
    assert all(path.stat().st_size > 1000 for path in written)
    assert "left out: attention-synthetic_features: the data set has no text" in said.err
    assert "left out: critical_difference: it is for 5 data sets or more" in said.err


def test_records_alone_are_enough_for_some_figures(study, capsys, tmp_path):
    folder, _ = study
    capsys.readouterr()
    assert main(["figures", str(folder), f"--workdir={tmp_path / 'none'}", f"--output={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"metrics-synthetic_features.{form}" for form in ("png", "pdf")
    }
    names = ", ".join(f"{kind}-synthetic_features" for kind in of_runs.KINDS)
    assert f"left out: {names}: the folder of no run is at hand" in said.err


def test_runs_are_drawn_and_mistakes_are_told(study, capsys, tmp_path):
    folder, runs = study
    one = next(path.parent for path in sorted(runs.glob("*/run.json")))
    assert main(["figures", str(one), "--only=learning,calibration", f"--output={tmp_path}"]) == 0
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"learning", "calibration"}
    capsys.readouterr()
    for words, why in (
        ([], "name the folder of one study"),
        ([str(folder), str(one)], "name the folder of one study"),
        ([str(folder), "--only=learnin"], "did you mean 'learning'?"),
        ([str(folder), "--row=on"], "did you mean 'one'?"),
        ([str(tmp_path)], "holds no run"),
    ):
        assert main(["figures", *words]) == 2
        assert why in capsys.readouterr().err


def test_changed_data_are_not_drawn(study, monkeypatch):
    _, runs = study
    results = read_runs([path.parent for path in runs.glob("*/run.json")])

    def refuse(*_):
        raise UserError("changed")

    monkeypatch.setattr(of_runs.workdir, "refuse_changed", refuse)
    [made] = drawing.draw(results, Table(), ["calibration"])
    assert made.figure is None
    assert "changed" in made.remark


def test_a_row_of_other_data_of_the_same_name_is_not_drawn(study):
    _, runs = study
    [one, other] = read_runs([path.parent for path in runs.glob("*/run.json")]).runs
    changed = other.record | {"data": other.record["data"] | {"fingerprint": "other"}}
    both = (one, dataclasses.replace(other, row="other", record=changed))
    results = Results("runs", tuple((run.row, run.data, run.seed) for run in both), both)
    for made in drawing.draw(results, Table(), ["calibration", "precision_recall", "thresholds", "label_f1"]):
        [legend] = made.figure.legends
        assert [text.get_text().partition(",")[0] for text in legend.get_texts()] == [one.row]
        assert "without 'other'" in made.remark
        assert "not what it was" in made.remark


def test_empty_pictures_are_left_out(study, monkeypatch):
    _, runs = study
    results = read_runs([runs])
    load = of_runs._load

    def without_positives(run):
        dataset = load(run)
        splits = {
            name: dataclasses.replace(split, labels=LabelSets.from_rows([[]] * len(split.labels)))
            for name, split in dataset.splits.items()
        }
        return dataclasses.replace(dataset, splits=splits)

    monkeypatch.setattr(of_runs, "_load", without_positives)
    monkeypatch.setattr(of_runs, "read_log", lambda _: {"train_loss": {1.0: 2.0}})
    kinds = ["learning", "precision_recall", "thresholds", "label_f1", "cooccurrence"]
    made = list(drawing.draw(results, Table(), kinds))
    assert [each.figure for each in made] == [None] * len(kinds)
    why = ["two numbers of a kind", "on in the test split", "on in the validation split", "on in the test", "no two"]
    assert all(reason in each.remark for reason, each in zip(why, made, strict=True))


def test_the_attention_of_a_text_is_drawn(tmp_path, data_dir):
    config = make_config(data_dir)
    config.decoder.name, config.head.name, config.train.num_epochs = "label_attention", "independent", 0.2
    config.decoder.label_attention.update({"query_dim": 8, "num_heads": 2})
    train(config, tmp_path / "run")
    results = read_runs([tmp_path / "run"])
    made, missing = drawing.draw(results, Table(), ["attention", "calibration"])
    made, missing = (missing, made) if made.figure is None else (made, missing)
    assert "predictions_test.npz" in missing.remark  # of a run that keeps none
    assert made.name == "attention-tiny_paths"
    run, test = Run(tmp_path / "run"), load_dataset(config).splits["test"]
    [predicted] = run.predict([test.texts[0]], min_probability=0.0)
    best = sorted(predicted, key=lambda label: -label.probability)[: of_runs.MAX_ATTENDING]
    [read] = run.attention([test.texts[0]])
    assert [text.get_text() for text in made.figure.axes[0].texts if text.get_weight() == "bold"] == [
        label.name for label in best
    ]
    of_text = read.tokens[-1, read.queries.index((best[0].name,)), 1:]  # the first place is the whole input
    drawn = made.figure.axes[0].patches[: len(of_text)]
    np.testing.assert_allclose([1 - each.get_facecolor()[0] for each in drawn], of_text / of_text.max(), atol=1e-5)
