"""Validation while training: which parameters it keeps, when it ends a run, and the refit that may follow."""

import contextlib
import json

import jax
import pytest
from small_runs import (
    Killed,
    assert_near,
    assert_same,
    by_hand,
    in_float64,
    inputs_of,
    lines,
    make_config,
    on_points,
    parameters,
)

import mlresearch
from mlresearch import workdir
from mlresearch.checkpoint import Checkpoints
from mlresearch.config import replicas, resolve
from mlresearch.data.pipeline import Feed
from mlresearch.errors import UserError
from mlresearch.fit import Stopped
from mlresearch.model import create_model
from mlresearch.step import init_state
from mlresearch.train import NonFiniteError, train, train_replicas

EVERY = 5  # steps between validations
LAST = 30
STEPS = range(EVERY, LAST + 1, EVERY)
PLACES = ("loss.mean", "mode.micro_f1")


def selecting(data_dir):
    """Two replicas, of which one learns too fast to become better each time, validated twice an epoch."""
    config = make_config(data_dir)
    config.optim.schedule, config.optim.warmup_share, config.optim.clip_norm = "constant", 0.0, 0.0
    config.train.replicas = 2
    config.train.replica_overrides = ("seed=0,optim.learning_rate=7", "seed=1")
    config.train.num_epochs = LAST / 10
    config.evaluate.every_epochs = EVERY / 10
    return config


NAMES = ("seed_0+seed=0+optim.learning_rate=7", "seed_1+seed=1")


@pytest.fixture
def config(data_dir):
    return selecting(data_dir)


@pytest.fixture(scope="module")
def replay(data_dir, tmp_path_factory):
    """Runs without validation that end where it would look: their folders, and what it would see, by step and run."""
    folder = tmp_path_factory.mktemp("replay")
    seen = {}
    for step in STEPS:
        config = selecting(data_dir)
        config.train.num_epochs, config.evaluate.every_epochs = step / 10, 0.0
        records = train_replicas(config, folder / f"{step}")
        seen[step] = [record["metrics"]["validation"] for record in records]
    return folder, seen


def at(metrics, place):
    group, metric = place.split(".")
    return metrics[group][metric]


def expected(seen, run, place, patience=0):
    """By hand: the steps at which a run's parameters are the best so far, and at which it ends."""
    sign = -1 if place == "loss.mean" else 1
    best = STEPS[0]
    for step in STEPS[1:]:
        if sign * at(seen[step][run], place) > sign * at(seen[best][run], place):
            best = step
        if patience and step - best >= patience * EVERY:
            return best, step
    return best, LAST


@pytest.mark.parametrize("place", PLACES)
def test_the_parameters_of_the_best_validation_are_kept(config, tmp_path, replay, place):
    folder, seen = replay
    config.train.select = place
    records = train_replicas(config, tmp_path)
    chosen = [expected(seen, run, place)[0] for run in (0, 1)]
    assert min(chosen) < LAST, "nothing was to choose"
    for run, (record, name) in enumerate(zip(records, NAMES, strict=True)):
        assert record["selected"] == {"step": chosen[run], "epoch": chosen[run] / 10, "by": place}
        best = folder / f"{chosen[run]}" / name
        assert_same(parameters(tmp_path / name), parameters(best), 1e-6)
        got, wanted = record["metrics"]["validation"], seen[chosen[run]][run]
        assert at(got, place) == pytest.approx(at(wanted, place), rel=1e-5)
        assert_near(mlresearch.load(str(tmp_path / name)).evaluate("test"), record["metrics"]["test"])
        validated = {line["step"]: line["validation"] for line in lines(tmp_path / name) if "validation" in line}
        assert list(validated) == list(STEPS)
        for step, found in validated.items():
            assert found[place] == pytest.approx(at(seen[step][run], place), rel=1e-4)
            assert "loss.mean" in found
        assert [line["step"] for line in lines(tmp_path / name) if "train_loss" in line][-1] == LAST


def last_state(config, folder):
    """The state of the run's last checkpoint."""
    own = dict(replicas(resolve(config)))[folder.name]
    dataset, preprocessing, _ = inputs_of(own)
    _, params, rates, _ = create_model(own, preprocessing.spec, 9, dataset.hierarchy)
    template = init_state(own, params, rates, LAST, select=True)
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(template, workdir.identity(dataset, preprocessing.identity))[1]


@pytest.mark.parametrize("patience", [1, 2])
def test_a_run_ends_after_so_many_validations_without_a_better_one(config, tmp_path, replay, patience):
    """While the other goes on, it does not move."""
    folder, seen = replay
    config.train.select, config.train.patience = "loss.mean", patience
    records = train_replicas(config, tmp_path)
    ends = [expected(seen, run, "loss.mean", patience) for run in (0, 1)]
    assert ends[0][1] < ends[1][1], "nothing was to stop"
    for run, (record, name) in enumerate(zip(records, NAMES, strict=True)):
        best, end = ends[run]
        assert record["selected"]["step"] == best
        assert_same(parameters(tmp_path / name), parameters(folder / f"{best}" / name), 1e-6)
        assert lines(tmp_path / name)[-1]["step"] == end
        state = last_state(config, tmp_path / name)
        assert int(state.step) == end
        assert_same(jax.tree.leaves(state.params), parameters(folder / f"{end}" / name), 1e-6)


def test_a_run_that_was_stopped_keeps_the_best_so_far(config, tmp_path):
    """And how long it has waited; what it leaves is what it would have left."""
    config.train.select, config.train.patience = "loss.mean", 2
    whole = train_replicas(config, tmp_path / "whole")
    stop = sorted(record["selected"]["step"] for record in whole)[0] + 1
    chunk = Feed.chunk
    reached = []

    def watched(self, first, number, size):
        reached.append(first)
        return chunk(self, first, number, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "chunk", watched)
        with pytest.raises(Stopped):
            train_replicas(config, tmp_path / "stopped", stop=lambda: reached[-1] >= stop)
    records = train_replicas(config, tmp_path / "stopped")
    assert all(record["resumed_at"] >= stop - 1 for record in records)
    for name, got, wanted in zip(NAMES, records, whole, strict=True):
        folders = [tmp_path / which / name for which in ("stopped", "whole")]
        assert got["selected"] == wanted["selected"]
        assert got["metrics"] == wanted["metrics"]
        assert_same(*(parameters(folder) for folder in folders))
        found = [[line for line in lines(folder) if "validation" in line] for folder in folders]
        assert found[0] == found[1]


def test_a_replica_whose_probabilities_are_not_numbers_is_never_chosen(config, tmp_path):
    """The other is what it is beside a sound one."""
    config.train.select = "loss.mean"
    sound = train_replicas(config, tmp_path / "sound")
    config.train.replica_overrides = ("seed=0,optim.learning_rate=1e38", "seed=1")
    with pytest.raises(NonFiniteError, match=r"seed_0\+seed=0\+optim.learning_rate=1e38"):
        train_replicas(config, tmp_path / "broken")
    assert workdir.read_record(tmp_path / "broken" / NAMES[1])["metrics"] == sound[1]["metrics"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train.select": "mode.micro_f"}, "config.train.select: .* no metric 'micro_f'; did you mean 'micro_f1'"),
        ({"train.select": "modes.micro_f1"}, "begins with mode, half, ranking, probabilities, loss, and a dot"),
        ({"train.select": "micro_f1"}, "begins with mode, half, ranking, probabilities, loss, and a dot"),
        ({"train.select": "mode"}, "config.train.select: .* no place of a number"),
        ({"train.select": "mode.label_cardinality"}, "of which more or less is better"),
        ({"train.select": "loss.mean", "evaluate.every_epochs": 0.0}, "set config.evaluate.every_epochs"),
        ({"train.patience": 2}, "config.train.patience needs a metric to wait for: set config.train.select"),
        ({"train.select": "loss.mean", "train.patience": -1}, "config.train.patience is -1; it must not be negative"),
    ],
)
def test_settings_that_cannot_choose_are_refused(config, settings, message):
    config.update_from_flattened_dict(settings)
    with pytest.raises(UserError, match=message):
        resolve(config)


def test_metrics_that_these_data_do_not_have_are_refused(config, tmp_path):
    """There is no hierarchy to violate."""
    config = on_points(config)
    config.train.select = "mode.violation_rate"
    with pytest.raises(UserError, match=r"'mode.violation_rate', which these data do not have: mode\."):
        train_replicas(config, tmp_path)


@pytest.mark.parametrize(
    "place", ["mode.macro_average_precision", "ranking.micro_f1", "loss.micro_f1", "half.log_loss", "ranking.log_loss"]
)
def test_metrics_of_another_group_are_refused_before_anything_starts(config, tmp_path, place):
    config.train.select = place
    with pytest.raises(UserError, match=r"config\.train\.select: .* is one of (ranking|probabilities|a decision)"):
        train_replicas(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Refit


@pytest.fixture(scope="module")
def refitted(data_dir, tmp_path_factory):
    """Two replicas in float64, chosen by validation, with a refit and without: the config, folders and records."""
    folder = tmp_path_factory.mktemp("refit")
    with jax.enable_x64(True):
        config = in_float64(selecting(data_dir))
        config.train.select = "loss.mean"
        plain = train_replicas(config, folder / "plain")
        config.train.refit = True
        return config, folder, plain, train_replicas(config, folder / "refit")


def test_a_refit_trains_anew_on_both_splits_for_the_chosen_epochs(refitted):
    config, folder, plain, records = refitted
    with jax.enable_x64(True):
        own = dict(replicas(resolve(config)))
    steps = [max(round(record["selected"]["epoch"] * 12), 1) for record in records]  # 187 examples, batches of 16
    assert steps[0] != steps[1], "both end at one step"
    for name, record, before, number in zip(NAMES, records, plain, steps, strict=True):
        assert record["selected"] == before["selected"]
        assert record["refit"] == {"steps": number, "examples": 150 + 37}
        with jax.enable_x64(True):
            got = parameters(folder / "refit" / name)
            # One run learns so fast that rounding grows by the factor 1e8.
            assert_same(got, by_hand(own[name], number, refit=True), 1e-6)
            # What was fitted on validation before stays; the test split is scored by the new parameters.
            for kept in ("decisions.json", "metrics.jsonl"):
                texts = [(folder / which / name / kept).read_text() for which in ("plain", "refit")]
                assert texts[0] == texts[1]
            assert record["metrics"]["validation"] == before["metrics"]["validation"]
            assert record["metrics"]["test"]["loss"] != before["metrics"]["test"]["loss"]
            run = mlresearch.load(str(folder / "refit" / name))
            assert_near(run.evaluate("test"), record["metrics"]["test"])
        with pytest.raises(UserError, match="refitted on train and validation; its record has the numbers"):
            run.evaluate("validation")
        log = lines(folder / "refit" / name, "refit_metrics.jsonl")
        assert [line["step"] for line in log] == [*range(4, number, 4), number]


def test_a_refit_that_was_killed_goes_on(refitted, tmp_path, monkeypatch):
    config, folder, _, records = refitted
    config = config.copy_and_resolve_references()
    config.train.checkpoint_every_seconds = 1e-9
    config.train.chunk_steps = 2
    gather = Feed.chunk

    def dying(self, first, number, size):
        if len(self._batches.split) == 187 and first >= 5:
            raise Killed
        return gather(self, first, number, size)

    with jax.enable_x64(True):
        monkeypatch.setattr(Feed, "chunk", dying)
        with pytest.raises(Killed):
            train_replicas(config, tmp_path)
        assert all(workdir.read_record(tmp_path / name)["status"] == "running" for name in NAMES)
        with pytest.raises(UserError, match="the run is running"):
            mlresearch.load(str(tmp_path / NAMES[0]))
        monkeypatch.undo()
        again = train_replicas(config, tmp_path)
        for name, got, wanted in zip(NAMES, again, records, strict=True):
            assert got["resumed_at"] == LAST
            assert (got["metrics"], got["refit"]) == (wanted["metrics"], wanted["refit"])
            assert_same(parameters(tmp_path / name), parameters(folder / "refit" / name))
            steps = [line["step"] for line in lines(tmp_path / name, "refit_metrics.jsonl")]
            assert steps == sorted(set(steps))
            assert steps[-1] == wanted["refit"]["steps"]


def test_a_refit_without_a_choice_takes_all_epochs(config, tmp_path):
    config.train.replicas, config.train.replica_overrides = 1, ()
    config.train.refit, config.evaluate.every_epochs, config.train.num_epochs = True, 0.0, 1.0
    config.optim.schedule = "cosine"  # of the refit's own steps
    with jax.enable_x64(True):
        config = in_float64(config)
        record = train(config, tmp_path)
        assert record["selected"] == {"step": 10, "epoch": 1.0, "by": None}
        assert record["refit"]["steps"] == 12
        assert_same(parameters(tmp_path), by_hand(resolve(config), 12, refit=True), 1e-10)


def test_a_refit_that_fails_names_the_row_of_validation(config, tmp_path):
    """Training rows have one of two siblings; the third row of validation has both, which `one` cannot give."""
    rows = [{"text": text, "labels": ["top", text]} for text in ("left", "right")]
    splits = {"train": rows * 16, "validation": [*rows, {"text": "both", "labels": ["top", "left", "right"]}]}
    for split, given in (splits | {"test": rows}).items():
        path = tmp_path / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in given))
        config.data.table[split] = str(path)
    (tmp_path / "parents.tsv").write_text("left\ttop\nright\ttop\n")
    config.data.name, config.text.vocab_size = "table", 20
    config.data.table.update({"text": "text", "labels": "labels", "form": "ragged"})
    config.data.table.parents = str(tmp_path / "parents.tsv")
    config.head.conditional.siblings = "one"
    config.train.refit = True
    with pytest.raises(NonFiniteError, match=r"validation, row 2 .*\{top, left, right\} has probability 0"):
        train_replicas(config, tmp_path / "run")
    assert {workdir.read_record(tmp_path / "run" / name)["status"] for name in NAMES} == {"failed"}
