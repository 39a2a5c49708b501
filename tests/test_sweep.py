"""Sweeps: what is run, once; what is packed; what fails, is killed or shared, and that the records are the same."""

import contextlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import jax
import pytest
import rich.console
import small_study
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.compilation_cache import compilation_cache
from small_study import write_study

import mlresearch.live
import mlresearch.sweep
import mlresearch.train
from mlresearch import environment, workdir
from mlresearch.cli import main
from mlresearch.config import check_together
from mlresearch.errors import UserError
from mlresearch.files import write_json
from mlresearch.fit import Stopped
from mlresearch.launch import Inline, Local, Task
from mlresearch.live import Live
from mlresearch.study import Study, cross, grid, make_run, seeds
from mlresearch.sweep import Failure, PlannedRun, done_runs, packs, plan

DIVERGES = '[{"head.name": "independent", "optim.learning_rate": 1e38, "row": "diverges"}]'


def run(folder, runs, launcher=Inline(), size=10, stop=lambda: False, show=lambda failures: None):  # noqa: B008
    """Sweep a study in this process; returns what failed."""
    study = Study.load(folder)
    return mlresearch.sweep.sweep(study, plan(study, runs), launcher, size, show, stop)


def records(folder):
    """The records of a study by row and seed."""
    found = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    return {(record["row"], record["seed"]): record for record in found}


def metrics(folder):
    """Their metrics, as one list each."""
    return {key: numbers(record["metrics"]) for key, record in records(folder).items()}


def numbers(tree):
    """Every number of a record's metrics, by its place."""
    if not isinstance(tree, dict):
        return {"": tree}
    return {f"{key}.{rest}": value for key in tree for rest, value in numbers(tree[key]).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_dir):
    """A study that was swept undisturbed, and the folder of its runs."""
    folder = tmp_path_factory.mktemp("whole")
    study = write_study(folder, data_dir)
    assert run(study, folder / "runs") == []
    return study, folder / "runs"


@pytest.fixture
def trained(monkeypatch):
    """The folders of runs that were trained, in the order in which their training began."""
    names, train = [], mlresearch.train._train

    def noting(configs, folders, *rest):
        names.extend(folder.name for folder in folders)
        return train(configs, folders, *rest)

    monkeypatch.setattr(mlresearch.train, "_train", noting)
    return names


def test_every_run_has_a_record_and_what_is_done_is_not_done_again(whole, tmp_path, trained, capsys):
    study, runs = whole
    planned = plan(Study.load(study), runs)
    made = records(study)
    assert {*made} == {*itertools.product(["independent", "conditional"], range(2))}
    assert {record["run_id"] for record in made.values()} == {each.run_id for each in planned}
    for each in planned:
        record = made[each.run.row, each.run.seed]
        assert record["run_id"] == each.run_id
        assert record["status"] == "finished"
        assert record["overrides"] == each.run.overrides
        assert record.items() >= workdir.read_record(each.folder).items()
        assert record["replicas"] == 2  # both seeds in one program
    before = {path: path.stat().st_mtime_ns for path in [*runs.rglob("*"), *study.rglob("*.json")] if path.is_file()}
    assert run(study, runs) == []
    assert main(["sweep", str(study), f"--workdir={runs}"]) == 0
    assert "4 of 4 runs done, 0 failed" in capsys.readouterr().err
    assert not trained
    after = {path: path.stat().st_mtime_ns for path in [*runs.rglob("*"), *study.rglob("*.json")] if path.is_file()}
    assert after == before


@pytest.mark.parametrize("told", [False, True])
def test_programs_are_kept_for_the_next_runs(told, tmp_path, data_dir):
    folder = tmp_path / "runs/programs"
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "elsewhere") if told else None)
        compilation_cache.reset_cache()
        jax.clear_caches()
        study = write_study(tmp_path, data_dir, '[{"head.name": "independent"}]')
        assert run(study, tmp_path / "runs") == []
        assert folder.exists() != told
        programs = sorted((tmp_path / "elsewhere" if told else folder).iterdir())
        jax.clear_caches()
        shutil.rmtree(study / "records")
        assert run(study, tmp_path / "again") == []
        assert sorted(programs[0].parent.iterdir()) == programs  # nothing was compiled that was not there
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
        compilation_cache.reset_cache()


def test_only_what_is_missing_is_run(whole, tmp_path, trained):
    study, runs = shutil.copytree(whole[0], tmp_path / "study"), shutil.copytree(whole[1], tmp_path / "runs")
    first, second, *_ = plan(Study.load(study), runs)
    text = first.record_file.read_text()
    first.record_file.unlink()
    assert run(study, runs) == []
    assert not trained  # its folder holds the finished run
    assert first.record_file.read_text() == text

    second.record_file.unlink()
    shutil.rmtree(second.folder)
    before = records(study)
    assert run(study, runs) == []
    assert trained == [second.run_id]
    same(metrics(study), metrics(whole[0]), rel=1e-4)
    assert before.items() <= records(study).items()


def same(made, expected, **tolerance):
    """Check that metrics are the same, within a tolerance."""
    assert made.keys() == expected.keys()
    for key in made:
        assert made[key] == pytest.approx(expected[key], nan_ok=False, **tolerance), key


def test_packed_or_alone_the_records_are_the_same(whole, tmp_path, data_dir):
    runs = (
        "cross([{'head.name': 'conditional'}], "
        "zipped({'optim.learning_rate': [1e-3, 1e-2], 'encoder.mlp.dropout': [0.1, 0.3]}), seeds(2))"
    )
    programs = {}
    for size in (1, 10):
        study = write_study(tmp_path / str(size), data_dir, runs)
        assert run(study, tmp_path / str(size) / "runs", size=size) == []
        programs[size] = [record["replicas"] for record in records(study).values()]
    assert programs == {1: [1] * 4, 10: [4] * 4}
    one, ten = (metrics(tmp_path / str(size) / "study") for size in (1, 10))
    assert len({str(values) for values in one.values()}) == 4
    same(ten, one, rel=1e-4, abs=1e-6)


@pytest.fixture(scope="module")
def pool(tmp_path_factory, data_dir):
    """Runs of all settings in which programs may and may not differ, with made-up ids."""
    folder = tmp_path_factory.mktemp("pool")
    write_study(folder, data_dir)
    choices = grid(
        {
            "optim.learning_rate": [1e-3, 1e-2],
            "optim.clip_norm": [0.0, 1.0, 2.0],
            "encoder.mlp.dropout": [0.0, 0.1, 0.2],
            "encoder.mlp.dim": [8, 16],
        }
    )
    chosen = [*cross(choices, seeds(2)), {"head.name": "conditional"}, {"train.batch_size": 32}]
    chosen += [{"baseline": "one_vs_rest"}, {"baseline": "one_vs_rest", "seed": 1}]
    return [
        PlannedRun(
            number, make_run(overrides, str(folder / "config.py")), f"{number:012d}", folder / f"{number}", folder
        )
        for number, overrides in enumerate(chosen)
    ]


def can_share(one, other):
    """Whether two runs can be trained in one program, by what training itself says."""
    if one.run.baseline or other.run.baseline:
        return False
    try:
        check_together(one.run.config, other.run.config)
    except UserError:
        return False
    return True


@settings(max_examples=25)
@given(st.data(), st.integers(1, 6), st.integers(1, 4))
def test_programs_are_as_few_as_can_be_and_of_runs_that_can_share_one(pool, data, size, places):
    runs = data.draw(st.lists(st.sampled_from(pool), unique_by=id, max_size=16))
    dealt = packs(runs, size, places)
    assert sorted(each.number for pack in dealt for each in pack) == sorted(each.number for each in runs)
    most = min(size, max(math.ceil(len(runs) / places), 1))
    classes: list[list[PlannedRun]] = []
    for each in runs:
        near = [group for group in classes if can_share(group[0], each)]
        near[0].append(each) if near else classes.append([each])
    for pack in dealt:
        assert 1 <= len(pack) <= most
        assert all(can_share(pack[0], other) for other in pack[1:])
    assert len(dealt) == sum(math.ceil(len(group) / most) for group in classes)


@given(st.lists(st.sets(st.integers(0, 5), max_size=2), max_size=8), st.data())
def test_runs_go_on_together_from_a_step_that_all_have(pool, steps, data):
    refits = data.draw(st.lists(st.booleans(), min_size=len(steps), max_size=len(steps)))
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            PlannedRun(number, pool[0].run, str(number), Path(folder, str(number)), Path(folder))
            for number in range(len(steps))
        ]
        for each, kept, refit in zip(runs, steps, refits, strict=True):
            for step in kept:
                (each.folder / f"{'refit_' * refit}checkpoints" / str(step)).mkdir(parents=True)
            if refit:  # which came after the end of the first phase
                (each.folder / "checkpoints" / "9").mkdir(parents=True)
        parts = [[runs[place] for place in part] for part in workdir.by_step([run.folder for run in runs])]
    assert sorted(each.number for part in parts for each in part) == list(range(len(steps)))
    stands = [
        {(refits[n] and bool(kept), step) for step in kept or ({9} if refits[n] else ())}
        for n, kept in enumerate(steps)
    ]
    for part in parts:
        assert set.intersection(*(stands[each.number] for each in part)) or not any(
            stands[each.number] for each in part
        )
    fresh = [part for part in parts if not stands[part[0].number]]
    assert len(fresh) <= 1


def test_a_sweep_goes_on_with_the_programs_that_it_began_with(tmp_path, data_dir):
    """In other programs, runs would differ from an undisturbed sweep's by rounding, and in the end by more."""
    study = write_study(tmp_path, data_dir, "seeds(6)")
    first, _, _, fourth, *_ = plan(Study.load(study), tmp_path / "runs")
    made = []

    class Made(Inline):
        """Notes the programs, and says that their runs are done."""

        def launch(self, call, work, logs, stop=None):
            for *_, runs in work.values():
                numbers = [*runs.values()]
                made.append(numbers)
                for number in numbers:
                    finish(plan(Study.load(study), tmp_path / "runs")[number], 0.5)
            yield [Task(name, "done") for name in work]

    finish(first, 0.5)
    finish(fourth, 0.5)
    assert run(study, tmp_path / "runs", Made(), size=3) == []
    assert made == [[1, 2], [4, 5]]


@pytest.mark.parametrize("launcher", [Inline(), Local(workers=2, patience_s=5)], ids=repr)
def test_a_run_that_diverges_leaves_the_others_of_its_program_alone(launcher, whole, tmp_path, data_dir, trained):
    study = write_study(tmp_path, data_dir, f"[*{small_study.RUNS}, *{DIVERGES}]")
    told = []
    failures = run(study, tmp_path / "runs", launcher, show=told.append)
    [failure] = failures
    assert told[-1] == failures
    assert failure.run.run.row == "diverges"
    assert "not finite at step" in failure.error
    assert "Traceback" in failure.log.read_text()
    assert "NonFiniteError" in failure.log.read_text()
    record = workdir.read_record(failure.run.folder)
    assert record["status"] == "failed"
    assert record["replicas"] == 3
    same(metrics(study), metrics(whole[0]), rel=1e-4, abs=1e-6)
    if launcher == Inline():
        assert len(trained) == len({*trained}) == 5  # and nobody was tried twice
        trained.clear()
        assert main(["sweep", str(study), f"--workdir={tmp_path / 'runs'}"]) == 1  # a relaunch tries it again
        assert trained == [failure.run.run_id]
        assert failure.log.exists()


def test_a_program_that_breaks_is_tried_run_by_run(whole, tmp_path, data_dir, monkeypatch, capsys):
    study = write_study(tmp_path, data_dir, "[*cross([{'head.name': 'independent'}], seeds(2)), {'seed': 7}]")
    train = mlresearch.sweep.train_together

    def breaking(configs, folders, *rest):
        if any(config.seed == 7 for config in configs):
            raise ArithmeticError("no room")
        return train(configs, folders, *rest)

    monkeypatch.setattr(mlresearch.sweep, "train_together", breaking)
    arguments = ["sweep", str(study), f"--workdir={tmp_path / 'runs'}"]
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert "FAILED synthetic/features independent seed 7: ArithmeticError: no room; see " in said
    assert "2 of 3 runs done, 1 failed" in said
    log = Path(said.partition("; see ")[2].split()[0])
    assert log.read_text().startswith("Traceback")
    assert log.read_text().endswith("ArithmeticError: no room\n")
    expected = {key: value for key, value in metrics(whole[0]).items() if key[0] == "independent"}
    same(metrics(study), expected, rel=1e-4, abs=1e-6)
    monkeypatch.undo()
    assert main(arguments) == 0
    assert {seed for _, seed in records(study)} == {0, 1, 7}


@pytest.mark.parametrize(
    ("changed", "number"), [("[{'train.num_epochs': 2.0}, {'seed': 1}]", 0), ("[{}]", 1)], ids=["other", "fewer"]
)
def test_runs_that_change_under_a_launch_fail(changed, number, tmp_path, data_dir):
    """Else they would be made under other names, again and again."""
    study = write_study(tmp_path, data_dir, "[{}, {'seed': 1}]")
    text = (study / "sweep.py").read_text()

    class Editing(Inline):
        """Has the study change before its processes read it."""

        def launch(self, *given):
            (study / "sweep.py").write_text(text.replace("[{}, {'seed': 1}]", changed))
            yield from super().launch(*given)

    [failure] = run(study, tmp_path / "runs", Editing())
    assert failure.run.number == number
    assert "launch again" in failure.error
    assert [seed for _, seed in records(study)] == [1 - number]


def test_what_cannot_work_is_told_before_anything_starts(tmp_path, data_dir, trained, capsys):
    transformer = '{"data.name": "synthetic/text", "encoder.name": "text_transformer", "text.vocab_size": 80}'
    combinations = {
        '{"head.name": "max_constraint", "data.synthetic.shape": "flat"}': "'max_constraint' needs a label hierarchy",
        f'{transformer[:-1]}, "encoder.text_transformer.num_heads": 7}}': "divi",
        '{"encoder.name": "text_transformer"}': "text",
        '{"baseline": "nearest_description"}': "reads texts, but the data set 'synthetic/features' has none",
    }
    for number, (overrides, message) in enumerate(combinations.items()):
        folder = tmp_path / str(number)
        study = write_study(folder, data_dir, f"[{{}}, {overrides}]")
        for more in (["--dry-run"], []):
            assert main(["sweep", str(study), f"--workdir={folder / 'runs'}", *more]) == 2
            said = capsys.readouterr()
            assert f"run 2, {eval(overrides)}: " in said.err
            assert message in said.err
            assert "Traceback" not in said.err
        assert not trained
        assert not (study / "records").exists()
        assert not (folder / "runs").exists() or {path.name for path in (folder / "runs").iterdir()} <= {"locks"}


def test_a_dry_run_prints_every_run_and_starts_none(tmp_path, data_dir, capsys):
    study = write_study(tmp_path, data_dir)
    assert main(["sweep", str(study), f"--workdir={tmp_path / 'runs'}", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    planned = plan(Study.load(study), tmp_path / "runs")
    assert [line.split()[:4] for line in lines if line[:12] in {each.run_id for each in planned}] == [
        [each.run_id, "synthetic/features", each.run.row, str(each.run.seed)] for each in planned
    ]
    assert sum("these 2 runs together" in line for line in lines) == 2
    assert any(line.startswith("4 runs, 0 done; ") for line in lines)
    assert not (tmp_path / "runs").exists()
    assert not (study / "records").exists()


def launch(tmp_path, study, dawdle_s=0.0, together=1, *arguments):
    """Start a launcher, a process that a test may kill; ``trained.log`` says which runs it trains."""
    words = [tmp_path / "trained.log", dawdle_s, together, study, f"--workdir={tmp_path / 'runs'}", *arguments]
    command = [sys.executable, small_study.__file__, *map(str, words)]
    with (tmp_path / "said").open("a") as said:
        return subprocess.Popen(command, start_new_session=True, stdout=said, stderr=said)


def entered(contexts):
    """Enter all contexts; they are left together."""
    stack = contextlib.ExitStack()
    for each in contexts:
        stack.enter_context(each)
    return stack


def wait_for(condition, process):
    """Wait until a condition holds, which it must while the process runs."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_launchers_share_the_runs(whole, tmp_path, data_dir):
    study = write_study(tmp_path, data_dir)
    launchers = [launch(tmp_path, study, 0.05, 2) for _ in range(2)]
    assert [launcher.wait(120) for launcher in launchers] == [0, 0], (tmp_path / "said").read_text()
    names = [line.split()[1] for line in (tmp_path / "trained.log").read_text().splitlines() if "train" in line]
    assert sorted(names) == sorted(record["run_id"] for record in records(study).values())
    assert {record["resumed_at"] for record in records(study).values()} == {None}
    same(metrics(study), metrics(whole[0]), rel=1e-4, abs=1e-6)


def test_a_launcher_waits_for_runs_of_another_one_and_takes_them_over(whole, tmp_path, data_dir, trained, monkeypatch):
    study = write_study(tmp_path, data_dir, f"cross([{{'head.name': 'independent'}} | {small_study.OFTEN}], seeds(2))")
    other = launch(tmp_path, study, 1.0)
    planned = plan(Study.load(study), tmp_path / "runs")
    wait_for(lambda: all(workdir.checkpoint_steps(each.folder) for each in planned), other)
    monkeypatch.setattr(mlresearch.sweep, "POLL_SECONDS", 0.05)
    looks = []

    def look(failures):
        looks.append([*trained])
        if len(looks) == 3:
            assert all(each.is_held for each in planned)
            other.kill()
            other.wait()

    assert run(study, tmp_path / "runs", show=look) == []
    assert looks[:3] == [[], [], []]
    assert sorted(trained) == sorted(each.run_id for each in planned)
    assert all(record["resumed_at"] > 0 for record in records(study).values())
    expected = {key: value for key, value in metrics(whole[0]).items() if key[0] == "independent"}
    same(metrics(study), expected)


def test_a_launcher_that_waits_can_be_stopped(whole, tmp_path):
    study, runs = shutil.copytree(whole[0], tmp_path / "study"), tmp_path / "runs"
    shutil.rmtree(study / "records")
    planned = plan(Study.load(study), runs)
    looks = iter([False, True])
    with entered(each.held() for each in planned), pytest.raises(Stopped):
        run(study, runs, stop=lambda: next(looks))
    assert not any(each.is_held for each in planned)


def test_a_look_does_not_take_a_run_away(tmp_path, pool, monkeypatch):
    """Whoever only looks has the lock for a moment: one who wants it waits that long."""
    each = pool[0]
    looker = each.held()
    assert looker.__enter__() is True
    monkeypatch.setattr(mlresearch.sweep.time, "sleep", lambda seconds: looker.__exit__(None, None, None))
    with each.held() as mine:
        assert mine
        monkeypatch.undo()
        assert each.is_held
        with each.held() as another:
            assert not another


def test_killed_launchers_end_in_the_same_records(whole, tmp_path, data_dir):
    study = write_study(tmp_path, data_dir, f"cross([{small_study.OFTEN}], {small_study.RUNS})")
    rng = random.Random(0)
    lost = []
    for _ in range(3):
        before = steps_in(tmp_path / "runs")
        ahead = rng.randint(1, 9)
        launcher = launch(tmp_path, study, 0.1)
        wait_for(lambda before=before, ahead=ahead: steps_in(tmp_path / "runs") >= before + ahead, launcher)
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        for each in plan(Study.load(study), tmp_path / "runs"):
            kept = max(workdir.checkpoint_steps(each.folder), default=0)
            lost.append(steps_of(each.folder / "metrics.jsonl") - kept)
    assert launch(tmp_path, study).wait(120) == 0, (tmp_path / "said").read_text()
    assert max(lost) <= 2 * 4  # a checkpoint is due after every chunk: one may be missing, one half written
    assert any(record["resumed_at"] for record in records(study).values())
    same(metrics(study), metrics(whole[0]), rel=1e-4, abs=1e-6)


def steps_of(path):
    """The last step that a run has logged, 0 where it has logged none."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max([json.loads(line)["step"] for line in lines if line.endswith("\n")], default=0)


def steps_in(runs):
    """The steps that all runs have logged."""
    return sum(steps_of(path) for path in runs.glob("*/metrics.jsonl"))


@pytest.fixture
def faked(whole, tmp_path):
    """Six planned runs: two done, one running, one that is held and has not begun, one failed, one to come."""
    study = Study.load(whole[0])
    made = [each.run for each in plan(study, tmp_path)] + [each.run for each in plan(study, tmp_path)][:2]
    (tmp_path / "records").mkdir()
    return [
        PlannedRun(number, each, f"{number:012d}", tmp_path / f"{number:012d}", tmp_path / "records")
        for number, each in enumerate(made)
    ]


def finish(run, value):
    """Write a record as if a run had ended."""
    record = {"metrics": {"validation": {"mode": {"micro_f1": value, "hamming_loss": value}}}}
    run.records.mkdir(exist_ok=True)
    write_json(run.record_file, {"run_id": run.run_id, **record})


def progress(run, step):
    """Write what a run of 100 steps has written at a step, the last line cut."""
    run.folder.mkdir(exist_ok=True)
    write_json(run.folder / "run.json", {"status": "running", "name": "", "seconds": {}, "num_steps": 100})
    lines = [json.dumps({"step": done, "epoch": 1.0, "train_loss": 0.5}) + "\n" for done in range(10, step + 1, 10)]
    (run.folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 9')


@pytest.mark.parametrize("drawn", [False, True])
def test_the_live_view_counts_what_is_there(drawn, faked, monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(mlresearch.live, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(
        mlresearch.live.rich.console,
        "Console",
        lambda stderr, made=rich.console.Console: made(
            file=sys.stderr, force_terminal=drawn, width=150, height=40, color_system=None
        ),
    )
    finish(faked[0], 0.25)
    progress(faked[2], 10)
    (faked[2].folder / "checkpoints" / "10").mkdir(parents=True)
    live = Live(faked, "validation.mode.micro_f1", draw=True)
    assert [each.number for each in done_runs(faked)] == [0]
    with entered(each.held() for each in faked[2:4]):
        live.show([])
        finish(faked[1], 0.75)
        progress(faked[2], 50)
        now[0] += 28
        live.show([Failure(faked[4], "", None)])
        live.close()
    said = capsys.readouterr().err
    # In 28 s a run was made and 0.4 of one. What is left: half of that, one that has not begun, one to come.
    assert "2 of 6 runs done, 2 running, 1 failed, about 50 s left; best validation micro_f1 0.7500: " in said
    assert f"0.7500: {faked[1].run.data} {faked[1].run.row}" in said
    if drawn:
        assert "━" * 10 + " " * 10 in said
        assert "50/100" in said
        assert "preparing" in said
        assert f"{faked[2].run.row}  seed {faked[2].run.seed}" in said
    else:
        assert len(said.splitlines()) == 1  # not one a poll


def test_the_best_of_a_loss_is_the_least(faked, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(mlresearch.live, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    live = Live(faked, "validation.mode.hamming_loss", draw=False)
    finish(faked[0], 0.5)
    finish(faked[1], 0.125)
    finish(faked[2], None)
    now[0] = 20.0
    live.show([])
    said = capsys.readouterr().err
    assert f"0.1250: {faked[1].run.data} {faked[1].run.row}" in said
    assert "3 of 6 runs done, 0 running, about 20 s left" in said


def test_a_baseline_is_a_row_like_any_other(tmp_path, data_dir):
    study = write_study(tmp_path, data_dir, "[{'baseline': 'nearest_description', 'row': 'nearest'}]")
    config = tmp_path / "config.py"
    config.write_text(
        "from mlresearch.config import base_config\n\ndef get_config():\n    config = base_config()\n"
        f"    config.data.name, config.data.dir = 'tiny/paths', {str(data_dir)!r}\n    return config\n"
    )
    assert run(study, tmp_path / "runs") == []
    [record] = records(study).values()
    assert (record["row"], record["name"], record["status"]) == ("nearest", "nearest_description", "finished")
    assert record["code_hash"] == environment.code_hash(Study.load(study).sources)
