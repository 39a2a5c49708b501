"""Searches: what they may try, and that no trial is lost, made twice or judged by anything but validation.

Most tests put a few lines in the place of training; the last two train, and kill workers.
"""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time

import pytest

from mlresearch import environment
from mlresearch.cli import main
from mlresearch.errors import UserError
from mlresearch.fit import Stopped
from mlresearch.launch import Inline
from mlresearch.search import Range, Search, between, choice, integers, log
from mlresearch.study import Study
from mlresearch.tables.results import read_study
from mlresearch.workdir import checkpoint_steps

optuna = pytest.importorskip("optuna")
trials = pytest.importorskip("mlresearch.trials")

BASE = """
from mlresearch.config import base_config

def get_config():
    config = base_config()
    config.data.name = "synthetic/features"
    config.data.synthetic.num_train = 256
    config.data.synthetic.num_validation = 128
    config.data.synthetic.num_test = 64
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 16
    config.encoder.mlp.num_layers = 1
    config.train.batch_size = 32
    config.train.num_epochs = 4.0
    config.evaluate.every_epochs = 1.0
    return config
"""

SPACE = '{"optim.learning_rate": log(1e-5, 1.0), "encoder.mlp.dropout": between(0, 0.9)}'


@pytest.fixture
def write(tmp_path, data_dir, monkeypatch):
    """Write a study with these arguments of Search, and load it."""
    monkeypatch.setenv("MLRESEARCH_DATA_DIR", str(data_dir))
    (tmp_path / "base.py").write_text(BASE)

    def make(trials=8, space=SPACE, metric="mode.micro_f1", more="", before=""):
        folder = tmp_path / "study"
        folder.mkdir(exist_ok=True)
        (folder / "sweep.py").write_text(
            f'"""Which is best?"""\nfrom mlresearch.search import Search, between, choice, integers, log\n{before}\n'
            f'CONFIG = "{tmp_path}/base.py"\n'
            f'SEARCH = Search(space={space}, metric="{metric}", trials={trials}, {more})\n'
        )
        return Study.load(folder)

    return make


class Training:
    """In the place of training: a run's validation by its config and epoch, and its test by whim.

    ends: which runs there were, each as often as it was begun; config: of the last.
    """

    def __init__(self, monkeypatch, value, test=0.5):
        self.begun, self.value, self.test = [], value, test
        monkeypatch.setattr(trials, "train_together", self)

    def __call__(self, configs, folders, stop, sources):
        (config,), (folder,) = configs, folders
        self.begun.append(folder.name)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("")
        for epoch in range(1, round(config.train.num_epochs) + 1):
            value = self.value(config, epoch)
            known = {} if value is None else {"mode.micro_f1": value, "loss.mean": value}
            with (folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": 8 * epoch - 4, "train_loss": 1.0}) + "\n")
                file.write(json.dumps({"step": 8 * epoch, "validation": known}) + "\n")
            if stop():
                raise Stopped
        metrics = {
            "validation": {"mode": {"micro_f1": value}, "loss": {"mean": value}},
            "test": {"mode": {"micro_f1": self.test}, "loss": {"mean": self.test}},
        }
        return [
            {
                "status": "finished",
                "name": "fake",
                "seed": config.seed,
                "code_hash": environment.code_hash(sources),
                "data": {"name": config.data.name, "fingerprint": "-", "notes": {}},
                "metrics": metrics,
            }
        ]


def near(config, epoch=4):
    """Best at a learning rate of 0.01 and without dropout, and better with each epoch."""
    apart = (math.log10(config.optim.learning_rate) + 2) ** 2 + config.encoder.mlp.dropout
    return epoch / 4 - apart / 20


def run(study, folder, stop=lambda: False):
    """Work on a search in this process."""
    return trials.search(study, folder, Inline(), 1, lambda standing: None, stop)


def journal(folder):
    """Return the trials as Optuna itself reads them."""
    file = optuna.storages.journal.JournalFileBackend(str(folder / "search.journal"))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(file)).trials


def suggestions(folder):
    return [trial.params for trial in journal(folder)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space": {}}, "give each setting"),
        ({"space": {"optim.learning_rate": [1, 2]}}, "'optim.learning_rate'"),
        ({"base": {"optim.learning_rate": 1.0}}, "both in the space and in the base"),
        ({"metric": "micro_f1"}, "begins with mode"),
        ({"metric": "global_threshold.micro_f1"}, "begins with mode"),
        ({"metric": "mode.micro_f2"}, "did you mean 'micro_f1'"),
        ({"metric": "mode.num_examples"}, "neither more nor less"),
        ({"trials": 0}, "there is a trial"),
        ({"prune_after": 0}, "before pruning"),
    ],
)
def test_mistakes_in_a_search_are_told(changed, message):
    right = {"space": {"optim.learning_rate": log(1e-4, 1e-1)}, "metric": "mode.micro_f1", "trials": 2}
    Search(**right)
    with pytest.raises(UserError, match=message):
        Search(**right | changed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: log(0, 1),
        lambda: between(1, 1),
        lambda: integers(2, 1),
        lambda: Range(1, 2.5, whole=True),
        lambda: choice([1]),
        lambda: choice([1, 1]),
        lambda: choice([(1,), (2,)]),
    ],
)
def test_mistakes_in_a_range_are_told(make):
    with pytest.raises(UserError):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": '{"optim.learning_rat": log(1e-4, 1.0)}'}, "did you mean 'learning_rate'"),
        ({"space": '{"encoder.mlp.dropout": between(0, 1)}'}, r"dropout = 1.0: .*it is a probability below 1"),
        ({"space": '{"encoder.bag.dim": integers(8, 16)}'}, "encoder.name is 'mlp'"),
        ({"space": '{"head.name": choice(["independent", "conditonal"])}'}, "did you mean 'conditional'"),
        ({"space": '{"seed": integers(0, 9)}'}, "leave 'seed' out"),
        ({"more": 'base={"row": "best"}'}, "leave 'row' out"),
        ({"more": 'base={"evaluate.every_epochs": 0.0}'}, "pruning needs validation while training"),
        ({"metric": "ranking.micro_average_precision"}, "set config.train.select"),
        ({"before": "runs = [{}]"}, "needs a generator"),
    ],
)
def test_mistakes_of_a_study_are_told_when_it_is_loaded(write, options, message):
    with pytest.raises(UserError, match=message):
        write(**options)


def test_without_pruning_a_search_needs_no_validation_while_training(write):
    every = '"evaluate.every_epochs": 0.0'
    assert write(more=f"base={{{every}}}, prune_after=None").search.base["evaluate.every_epochs"] == 0
    assert write(metric="half.micro_f1", more='base={"train.select": "half.micro_f1"}').search is not None


def test_a_study_loads_without_optuna_and_its_search_says_what_is_missing(write, monkeypatch, tmp_path, capsys):
    study = write()
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "mlresearch.trials")
    assert Study.load(study.folder).search == study.search
    assert main(["sweep", str(study.folder), f"--workdir={tmp_path / 'runs'}"]) == 2
    assert "pip install '.[search]'" in capsys.readouterr().err


def test_one_worker_makes_the_same_suggestions_again_wherever_it_was_stopped(write, monkeypatch, tmp_path):
    study = write(trials=14)
    training = Training(monkeypatch, near)
    run(study, tmp_path / "one")
    for path in study.records.glob("*"):
        path.unlink()  # so that all is trained again
    training.test = -1.0  # which nothing may depend on
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "two", stop=lambda: len(training.begun) == 14 + 12)  # in the middle of the twelfth
    assert any(trial.state.name == "RUNNING" for trial in journal(tmp_path / "two"))
    run(study, tmp_path / "two")
    assert suggestions(tmp_path / "one") == suggestions(tmp_path / "two")
    assert len({json.dumps(each) for each in suggestions(tmp_path / "one")}) == 14
    other = write(trials=14, more="seed=1")
    run(other, tmp_path / "three")
    assert not [each for each in suggestions(tmp_path / "three") if each in suggestions(tmp_path / "one")]


@pytest.mark.parametrize(("metric", "sign"), [("mode.micro_f1", 1), ("loss.mean", -1)])
def test_later_trials_are_better_and_the_best_is_told(write, monkeypatch, tmp_path, metric, sign):
    study = write(trials=30, metric=metric, more="prune_after=None")
    Training(monkeypatch, lambda config, epoch: sign * near(config, epoch))
    standing, gave_up = run(study, tmp_path / "runs")
    values = [sign * trial.value for trial in journal(tmp_path / "runs")]
    assert not gave_up
    assert (standing.finished, standing.pruned, standing.failed) == (30, 0, {})
    assert standing.best.number == values.index(max(values))
    assert sign * standing.value == max(values) == near(standing.best.run.config)
    assert statistics.mean(values[20:]) > statistics.mean(values[:10])  # of which these are at random
    assert standing.best.folder.is_dir()


def test_an_infinite_loss_is_the_worst(write, monkeypatch, tmp_path):
    study = write(trials=4, metric="loss.mean", space=SPACE)
    losses = iter([*[None] * 4, *[3.0] * 4, *[2.0] * 4, *[2.5] * 4])
    Training(monkeypatch, lambda config, epoch: next(losses))
    standing, _ = run(study, tmp_path / "runs")
    assert (standing.best.number, standing.value) == (2, 2.0)
    assert journal(tmp_path / "runs")[0].value == math.inf


def test_trials_below_the_median_are_pruned_and_no_others(write, monkeypatch, tmp_path):
    study = write(trials=25, more="prune_after=3")
    training = Training(monkeypatch, near)
    standing, _ = run(study, tmp_path / "runs")
    finished = []  # what each came to, by validation
    for trial in journal(tmp_path / "runs"):
        values = [trial.intermediate_values[step] for step in sorted(trial.intermediate_values)]
        hopeless = [
            max(values[:step]) < statistics.median(other[step - 1] for other in finished)
            for step in range(2, len(values) + 1)
            if len(finished) >= 3
        ]
        assert not any(hopeless[:-1])
        if trial.state.name == "PRUNED":
            assert hopeless[-1]
        else:
            assert not any(hopeless)
            finished.append(values)
    assert 0 < standing.pruned == 25 - len(finished)
    assert len(training.begun) == 25
    assert len(list(study.records.glob("*.json"))) == len(finished)  # a pruned trial has none


def test_a_trial_of_settings_that_were_tried_is_not_trained_again(write, monkeypatch, tmp_path):
    study = write(trials=7, space='{"optim.name": choice(["adamw", "sgd"])}', more="prune_after=None")
    training = Training(monkeypatch, lambda config, epoch: float(config.optim.name == "sgd"))
    standing, _ = run(study, tmp_path / "runs")
    assert len(training.begun) == len(set(training.begun)) == 2
    assert standing.finished == 7
    assert standing.best.run.config.optim.name == "sgd"
    assert len(Study.load(study.folder).runs) == 2


def test_a_worker_that_dies_leaves_its_trial_to_the_next_until_it_has_killed_three(write, monkeypatch, tmp_path):
    study = write(trials=4)
    deaths = []

    def value(config, epoch):
        if [*dict.fromkeys(training.begun)].index(training.begun[-1]) == 1:  # the second trial's
            deaths.append(training.begun[-1])
            raise SystemExit
        return near(config, epoch)

    training = Training(monkeypatch, value)
    for _ in range(3):
        with pytest.raises(SystemExit):
            run(study, tmp_path / "runs")
    standing, _ = run(study, tmp_path / "runs")
    assert len(set(deaths)) == 1
    assert [trial.number for trial in journal(tmp_path / "runs")] == [0, 1, 2, 3]
    assert standing.finished == 3
    assert list(standing.failed) == [1]
    assert "3 workers died" in standing.failed[1]


def test_a_trial_that_stops_politely_fails_never(write, monkeypatch, tmp_path):
    study = write(trials=1)
    training = Training(monkeypatch, near)
    for _ in range(5):
        asked = iter([False, False, False, True])
        with pytest.raises(KeyboardInterrupt):
            run(study, tmp_path / "runs", stop=lambda asked=asked: next(asked))
    standing, _ = run(study, tmp_path / "runs")
    assert (standing.finished, len(training.begun), len(set(training.begun))) == (1, 6, 1)


def test_a_failed_trial_is_told_and_the_search_goes_on(write, monkeypatch, tmp_path, capsys):
    study = write(trials=6)

    def value(config, epoch):
        if len(training.begun) in (2, 5):
            raise RuntimeError("out of memory")
        return near(config, epoch)

    training = Training(monkeypatch, value)
    assert main(["sweep", str(study.folder), f"--workdir={tmp_path / 'runs'}"]) == 0
    said = capsys.readouterr()
    assert "6 trials: 4 finished, 0 pruned, 2 failed" in said.out
    assert "FAILED trial 1: RuntimeError: out of memory" in said.err
    begun = len(training.begun)
    assert main(["sweep", str(study.folder), f"--workdir={tmp_path / 'runs'}"]) == 0  # nothing is left to do
    assert len(training.begun) == begun
    study = write(trials=8)  # more are
    assert main(["sweep", str(study.folder), f"--workdir={tmp_path / 'runs'}"]) == 0
    assert len(training.begun) == begun + 2


def test_where_all_trials_fail_the_search_gives_up(write, monkeypatch, tmp_path, capsys):
    study = write(trials=50)
    training = Training(monkeypatch, lambda config, epoch: 1 / 0)
    assert main(["sweep", str(study.folder), f"--workdir={tmp_path / 'runs'}"]) == 1
    assert len(training.begun) == 3
    assert "all of 3 trials have failed" in capsys.readouterr().err


def test_another_search_in_the_folder_is_refused(write, monkeypatch, tmp_path):
    Training(monkeypatch, near)
    run(write(trials=2), tmp_path / "runs")
    for changed in (
        {"metric": "loss.mean"},
        {"more": "seed=1"},
        {"more": 'base={"train.batch_size": 16}'},
        {"space": SPACE.replace("0.9", "0.8")},
    ):
        with pytest.raises(UserError, match="holds another search"):
            run(write(trials=2, **changed), tmp_path / "runs")
    run(write(trials=3, more="prune_after=None"), tmp_path / "runs")
    (tmp_path / "base.py").write_text(BASE.replace("mlp.dim = 16", "mlp.dim = 32"))
    with pytest.raises(UserError, match="mlp.dim: 16 -> 32".replace(".", r"\.")):
        run(write(trials=3), tmp_path / "runs")


def test_finished_trials_are_runs_of_the_study(write, monkeypatch, tmp_path):
    study = write(trials=4)
    training = Training(monkeypatch, near)
    standing, _ = run(study, tmp_path / "runs")
    study = Study.load(study.folder)
    assert [each.trial for each in study.runs] == [0, 1, 2, 3]
    results = read_study(study, tmp_path / "runs")
    assert [each.value("validation.mode.micro_f1") for each in results.runs] == [
        near(each.config) for each in study.runs
    ]
    assert {each.folder for each in results.runs} == {tmp_path / "runs" / name for name in training.begun}
    assert study.table.columns == ("validation.mode.micro_f1",)
    assert standing.best.run.row == study.runs[standing.best.number].row
    run(study, tmp_path / "elsewhere")  # the records say what came of them
    assert len(training.begun) == 4
    assert suggestions(tmp_path / "elsewhere") == suggestions(tmp_path / "runs")
    stale = next(study.records.glob("*.json"))
    made = json.loads(stale.read_text())
    stale.write_text(json.dumps(made | {"code_hash": "of other code"}))
    run(study, tmp_path / "again")
    assert training.begun[4:] == [made["run_id"]]
    assert json.loads(stale.read_text()) == made


def test_what_a_worker_died_while_writing_is_cut_off(write, monkeypatch, tmp_path):
    study = write(trials=2)
    training = Training(monkeypatch, near)
    run(study, tmp_path / "runs")
    with (tmp_path / "runs" / "search.journal").open("a") as file:
        file.write('{"op_code":4,"worker_id":"')
    run(write(trials=4), tmp_path / "runs")
    assert (len(journal(tmp_path / "runs")), len(training.begun)) == (4, 4)


def test_a_trial_that_was_not_suggested_to_the_end_does_not_count(write, monkeypatch, tmp_path):
    study = write(trials=3)
    Training(monkeypatch, near)
    note = trials.Trials._note

    def die(self, number, key, value):
        if (number, key) == (1, "run_id"):
            raise SystemExit
        note(self, number, key, value)

    monkeypatch.setattr(trials.Trials, "_note", die)
    with pytest.raises(SystemExit):
        run(study, tmp_path / "runs")
    standing, _ = run(study, tmp_path / "runs")
    assert (standing.finished, standing.failed) == (3, {})
    assert [trial.state.name for trial in journal(tmp_path / "runs")] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def command(study, folder, *flags):
    code = "import sys; from mlresearch.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "sweep", str(study.folder), f"--workdir={folder}", *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def working(folder):
    """Return the runs that are being worked on, each with the process that does and its latest checkpoint's step."""
    found = {}
    for run in folder.glob("*/run.json"):
        if json.loads(run.read_text())["status"] == "running":
            found[run.parent.name] = (
                int((run.parent / ".lock").read_text()),
                max(checkpoint_steps(run.parent), default=0),
            )
    return found


REAL = """base={
    "train.num_epochs": 120.0, "train.checkpoint_every_seconds": 0.2, "evaluate.every_epochs": 40.0,
}"""
RATES = '{"optim.learning_rate": log(1e-8, 0.1)}'


def test_a_killed_search_goes_on_with_its_trial_and_finds_a_better_rate_than_the_worst(write, tmp_path, capsys):
    study = write(trials=2, space=RATES, metric="loss.mean", more=f"{REAL}, prune_after=None")
    process = command(study, tmp_path / "runs")
    run_id = wait_for(lambda: [name for name, (_, step) in working(tmp_path / "runs").items() if step])[0]
    process.kill()
    process.communicate()
    assert main(["sweep", str(study.folder), f"--workdir={tmp_path / 'runs'}"]) == 0
    records = [json.loads(path.read_text()) for path in study.records.glob("*.json")]
    assert sorted(record["trial"] for record in records) == [0, 1]
    assert next(record["resumed_at"] for record in records if record["run_id"] == run_id) > 0
    losses = {record["run_id"]: record["metrics"]["validation"]["loss"]["mean"] for record in records}
    assert min(losses.values()) < 0.8 * max(losses.values())
    said = capsys.readouterr().out
    assert f"{min(losses.values()):.4f}, in {tmp_path / 'runs' / min(losses, key=losses.get)}" in said


def test_two_workers_share_a_search_and_one_takes_over_what_the_other_leaves(write, tmp_path):
    study = write(trials=3, space=RATES, metric="loss.mean", more=f"{REAL}, prune_after=1")
    process = command(study, tmp_path / "runs", "--launcher=local", "--workers=2")

    def two():
        runs = working(tmp_path / "runs")
        return len({worker for worker, _ in runs.values()}) == 2 and any(step for _, step in runs.values()) and runs

    killed, (worker, _) = max(wait_for(two).items(), key=lambda item: item[1][1])
    os.kill(worker, signal.SIGKILL)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    ended = journal(tmp_path / "runs")
    assert [trial.number for trial in ended] == [0, 1, 2]
    assert {trial.state.name for trial in ended} <= {"COMPLETE", "PRUNED"}
    starts = {trial.user_attrs["run_id"]: trial.user_attrs["starts"] for trial in ended}
    assert len(starts) == 3
    assert [name for name, steps in starts.items() if len(steps) > 1] == [killed]  # only one was begun twice,
    assert starts[killed][1] > 0  # at a checkpoint
    assert "3 trials:" in said
    assert "Warning" not in errors
    assert "[I " not in errors
