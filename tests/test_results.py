"""Records of studies and runs are found by what the runs compute, and printed by the commands."""

import dataclasses
import itertools
import json

import pytest
from small_tables import ACCURACY, cells_of, make_record, only_sheet, write_study

from mlresearch.cli import main
from mlresearch.commands.train import row
from mlresearch.errors import UserError
from mlresearch.tables.results import read_runs, read_study
from mlresearch.tables.typeset import aligned
from mlresearch.workdir import read_record


def test_a_study_is_read_by_what_its_runs_compute(tmp_path):
    study = write_study(tmp_path / "study")
    results = read_study(study, tmp_path / "runs")
    assert results.missing == []
    assert [run.row for run in results.runs] == ["independent"] * 8 + ["conditional"] * 8
    assert results.runs[3].folder == tmp_path / "runs" / study.runs[3].run_id("p")
    cells = cells_of(only_sheet(results, study.table))
    assert cells["conditional"].mean == pytest.approx(0.635)
    assert cells["conditional"].differs

    files = sorted((tmp_path / "study/records").iterdir())
    record = json.loads(files[0].read_text())
    (tmp_path / "study/records/stray.json").write_text(json.dumps(record | {"config_hash": "0" * 64}))
    files[1].unlink()
    files[2].write_text(json.dumps(json.loads(files[2].read_text()) | {"status": "failed"}))
    results = read_study(study)
    assert len(results.missing) == 2
    assert len(results.remarks) == 2
    assert any("1 records of runs that the study does not have" in remark for remark in results.remarks)

    (tmp_path / "study/records/again.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="are records of one run"):
        read_study(study)
    (tmp_path / "study/records/again.json").write_text("{")
    with pytest.raises(UserError, match=r"again.json is damaged"):
        read_study(study)
    (tmp_path / "study/records/again.json").write_text("{}")
    with pytest.raises(UserError, match="it lacks code_hash, config_hash"):
        read_study(study)


def test_records_made_before_a_setting_had_a_name_are_read_by_their_overrides(tmp_path):
    study = write_study(tmp_path / "study")
    for number, path in enumerate(sorted((tmp_path / "study/records").iterdir())):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"config_hash": f"{number:064}"}))
    results = read_study(study)
    assert results.missing == []
    assert results.remarks == ()
    assert all(run.row == run.record["row"] and run.seed == run.record["overrides"]["seed"] for run in results.runs)

    # A run made anew takes the place of its old record; other overrides are another run.
    old = json.loads(results.runs[0].file.read_text())
    new = tmp_path / "study/records/anew.json"
    new.write_text(json.dumps(old | {"config_hash": study.runs[0].config_hash}))
    results.runs[1].file.write_text(json.dumps(old | {"overrides": old["overrides"] | {"optim.b1": 0.5}}))
    again = read_study(study)
    assert again.runs[0].file == new
    assert [run.seed for run in again.runs[:2]] == [0, 2]
    assert "2 records of runs that the study does not have" in again.remarks[0]


def test_a_row_of_two_runs_with_one_seed_is_refused(tmp_path):
    study = write_study(tmp_path / "study")
    runs = tuple(dataclasses.replace(run, row="one") for run in study.runs)
    with pytest.raises(UserError, match="'one' has several runs on tiny/paths with seed 0"):
        read_study(dataclasses.replace(study, runs=runs))


def write_run(folder, seed=0, settings=None, **changes):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(make_record(seed, **changes)))
    (folder / "config.json").write_text(json.dumps({"data": {"dir": "x"}, "seed": seed, **(settings or {})}))
    return folder


def test_runs_that_differ_in_their_seed_alone_share_a_row(tmp_path):
    for seed in range(11):
        write_run(tmp_path / "replicas" / f"seed_{seed}", seed)
    write_run(tmp_path / "wide", 0, {"dim": 9})
    write_run(tmp_path / "again", 0)
    write_run(tmp_path / "other", 0, name="nearest")
    write_run(tmp_path / "stopped", 0, status="interrupted")
    names = ["replicas", "wide", "again", "other", "wide", "stopped"]
    results = read_runs([tmp_path / name for name in names])
    rows = {name: len(list(runs)) for name, runs in itertools.groupby(results.runs, lambda run: run.row)}
    model = "bag+linear+independent"
    assert rows == {
        f"{model} ({tmp_path / 'replicas/seed_0'})": 11,
        f"{model} ({tmp_path / 'wide'})": 1,
        f"{model} ({tmp_path / 'again'})": 1,
        "nearest": 1,
    }
    assert results.remarks == (f"{tmp_path / 'stopped'}: left out, the run is interrupted",)
    alone = read_runs([tmp_path / "replicas"])
    assert {run.row for run in alone.runs} == {model}
    assert [run.seed for run in alone.runs] == list(range(11))
    with pytest.raises(UserError, match="holds no run"):
        read_runs([tmp_path / "none"])


def test_a_folder_with_runs_in_it_is_these_runs(tmp_path):
    """As the folder of a study's runs."""
    for name, seed in (("0a1b", 0), ("ffff", 1)):
        write_run(tmp_path / "runs" / name, seed)
    (tmp_path / "runs" / "locks").mkdir()
    assert {run.folder for run in read_runs([tmp_path / "runs"]).runs} == {
        tmp_path / "runs" / "0a1b",
        tmp_path / "runs" / "ffff",
    }
    with pytest.raises(UserError, match=f"holds no run: .*; name a run in it, such as {tmp_path / 'runs' / '0a1b'}"):
        read_record(tmp_path / "runs")


# The command


def test_the_command_prints_a_study(tmp_path, monkeypatch, capsys):
    write_study(tmp_path / "study")
    monkeypatch.setattr("mlresearch.environment.code_hash", lambda sources=(): "c0de" * 16)
    assert main(["table", str(tmp_path / "study")]) == 0
    printed = capsys.readouterr()
    assert r"| conditional | **0.635 ± 0.024**\* | 8 |" in printed.out
    assert "Wilcoxon's signed-rank test" in printed.out
    assert "share of examples with every known label right" in printed.out
    assert printed.err == ""
    monkeypatch.setattr("mlresearch.environment.code_hash", lambda sources=(): "beef" * 16)
    assert main(["table", str(tmp_path / "study"), "--format=csv"]) == 0
    printed = capsys.readouterr()
    assert "all records are stale" in printed.err
    assert "Wilcoxon's signed-rank test" in printed.err  # a CSV file has no place for it
    assert len(printed.out.splitlines()) == 1 + 2


def test_the_command_refuses_and_allows(tmp_path, monkeypatch, capsys):
    write_study(tmp_path / "study")
    monkeypatch.setattr("mlresearch.environment.code_hash", lambda sources=(): "c0de" * 16)
    next((tmp_path / "study/records").iterdir()).unlink()
    assert main(["table", str(tmp_path / "study")]) == 2
    assert "1 of 16 runs have no record" in capsys.readouterr().err
    assert main(["table", str(tmp_path / "study"), "--allow=missing"]) == 0
    printed = capsys.readouterr().out
    assert "[m]" in printed
    assert "there is no record" in printed
    assert main(["table", str(tmp_path / "study"), "--format=pdf"]) == 2
    assert main(["table", str(tmp_path / "study"), "--allow=msising"]) == 2
    assert "did you mean 'missing'" in capsys.readouterr().err
    for path in (tmp_path / "study/records").iterdir():
        path.unlink()
    assert main(["table", str(tmp_path / "study"), "--allow=missing"]) == 2
    assert "has no record of a run: 'mlresearch sweep" in capsys.readouterr().err


def test_the_command_prints_runs(tmp_path, capsys):
    for seed in range(3):
        write_run(tmp_path / "replicas" / f"seed_{seed}", seed, **{ACCURACY: 0.4 + seed / 10})
    write_run(tmp_path / "other", 0, name="nearest", code="beef" * 16)
    assert main(["table", str(tmp_path / "replicas"), str(tmp_path / "other")]) == 0
    printed = capsys.readouterr().out
    assert "0.500 ± 0.100" in printed
    assert "[c]" in printed  # runs of other code are shown, and marked
    write_run(tmp_path / "stopped", 0, status="failed")
    assert main(["table", str(tmp_path / "stopped")]) == 2
    assert "none of these runs is finished" in capsys.readouterr().err


def test_one_row_is_printed_after_a_run():
    text = aligned([row(make_record(**{ACCURACY: 0.25, "validation.mode.subset_accuracy": 0.75}))])
    titles, _, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    printed = dict(zip(titles, cells, strict=True))
    assert printed["run"] == "bag+linear+independent"
    assert (printed["subset_accuracy"], printed["validation subset_accuracy"]) == ("0.2500", "0.7500")
    assert (printed["violation_rate"], printed["seconds"]) == ("", "3")
