"""Many steps a call, and many runs a program: each is what it would be alone."""

import contextlib
import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
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
import mlresearch.step
import mlresearch.train
from mlresearch import workdir
from mlresearch.config import part_options, replicas, resolve
from mlresearch.data.pipeline import Batches, EncodedSplit, Feed
from mlresearch.errors import UserError
from mlresearch.fit import Stopped, stack
from mlresearch.label_space import LabelSets
from mlresearch.model import create_model
from mlresearch.parallel import Parallel
from mlresearch.step import (
    Numbers,
    StepMetrics,
    TrainState,
    in_turn,
    init_state,
    make_train_chunk,
    make_train_step,
)
from mlresearch.train import NonFiniteError, train, train_replicas


@pytest.fixture
def config(data_dir):
    return make_config(data_dir)


def alone(config, folder, seeds):
    """Train runs one by one, in the folders that replicas would have."""
    records = []
    for seed in seeds:
        config.seed = seed
        records.append(train(config, folder / f"seed_{seed}"))
    config.seed = 0
    return records


# Many steps a call


def test_how_many_steps_a_call_takes_changes_nothing(config, tmp_path):
    config.train.log_every_steps = 7
    for number in (1, 3, 100):
        config.train.chunk_steps = number
        train(config, tmp_path / f"{number}")
    for number in (3, 100):
        assert_same(parameters(tmp_path / f"{number}"), parameters(tmp_path / "1"))
        logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in (f"{number}", "1")]
        assert logs[0] == logs[1]
    assert [line["step"] for line in lines(tmp_path / "1")] == [7, 14, 20]
    assert [line["epoch"] for line in lines(tmp_path / "1")] == [0.7, 1.4, 2.0]


def test_each_step_is_computed_at_its_own_length(config, monkeypatch):
    """A model that tells its padded length as its loss: it is given the step's own, and nothing is cut off."""
    config = resolve(config)
    dataset, preprocessing, batches = inputs_of(config)
    batches = dataclasses.replace(batches["train"], buckets=(4, 8, 16))
    graphdef, params, rates, structure = create_model(config, preprocessing.spec, 9, dataset.hierarchy)
    seen = []

    class Told:
        sparse, loss = False, print  # which nobody calls

        @staticmethod
        def training_loss(inputs, labels, label_loss, keys):
            seen.append(inputs.tokens.shape[-1])
            return (100 * seen[-1] + inputs.token_mask.sum(1)).astype(float)

    monkeypatch.setattr(mlresearch.step.nnx, "merge", lambda *parts: Told)
    step = make_train_step(config, graphdef, 9, 10, None, batches.buckets)
    states = stack([init_state(config, params, rates, 10, select=False)] * 2)
    taken, buckets = Feed(batches, [0, 1]).chunk(0, 10, 12)
    _, metrics = jax.jit(make_train_chunk(step))(states, structure, taken, buckets, jnp.int32(10))
    assert set(seen) == set(batches.buckets)
    lengths = np.array(batches.buckets)[buckets[:10]]
    assert len(set(lengths.tolist())) == 3
    words, count = taken.inputs.token_mask[:10], taken.mask[:10].sum(2)
    expected = 100 * lengths[:, None] + np.where(taken.mask[:10], words.sum(3), 0).sum(2) / count
    np.testing.assert_allclose(metrics.loss[:10], expected, rtol=1e-5)
    assert not metrics.loss[10:].any()


@pytest.mark.parametrize("data", ["texts", "points"])
def test_after_500_steps_replicas_are_runs_alone_and_a_plain_loop(config, tmp_path, data):
    """In float64 nothing but rounding differs, and that little: one bit of dropout, one row, one rate would show."""
    if data == "points":
        config = on_points(config)
    config.train.num_epochs = 500 / (10 if data == "texts" else 13)
    config.train.replicas = 2
    config.train.log_every_steps = 100
    with jax.enable_x64(True):
        config = in_float64(config)
        records = train_replicas(config, tmp_path / "together")
        assert [record["num_steps"] for record in records] == [500, 500]
        config.train.replicas = 1
        alone(config, tmp_path / "alone", [0, 1])
        for seed in (0, 1):
            got = parameters(tmp_path / "together" / f"seed_{seed}")
            assert {leaf.dtype for leaf in got} == {np.dtype("float64")}
            assert_same(got, parameters(tmp_path / "alone" / f"seed_{seed}"), 1e-10)
        config.seed = 1
        # optax computes the schedule in float32, where two programs may round differently.
        assert_same(got, by_hand(resolve(config), 500), 1e-8)


# Replicas


class Captured(BaseException):
    """Nothing in the code under test catches this one."""


def test_replicas_start_at_the_values_of_runs_alone(config, tmp_path, monkeypatch):
    """Bit for bit, whatever else they differ in."""

    def capture(program, state, *arguments, **options):
        raise Captured(state)

    def start(count, overrides=(), seed=0):
        config.seed, config.train.replicas, config.train.replica_overrides = seed, count, overrides
        with pytest.raises(Captured) as caught:
            train_replicas(config, tmp_path / f"{count}-{seed}-{len(overrides)}")
        return caught.value.args[0]

    monkeypatch.setattr(mlresearch.train, "fit", capture)
    together = start(3, ("optim.learning_rate=0.5", "", "encoder.bag.dropout=0.7,optim.b1=0.5"))
    for seed in range(3):
        one = start(1, seed=seed)
        for got, wanted in zip(jax.tree.leaves(together.params), jax.tree.leaves(one.params), strict=True):
            assert np.array_equal(got[seed], wanted[0])
    assert together.seed.tolist() == [0, 1, 2]
    np.testing.assert_allclose(together.numbers.optim["learning_rate"], [0.5, 0.01, 0.01])
    np.testing.assert_allclose(together.numbers.optim["b1"], [0.9, 0.9, 0.5])
    rates = [leaf for path, leaf in jax.tree.leaves_with_path(together.numbers.rates) if "loss" not in str(path)]
    np.testing.assert_allclose(rates, [[0.3, 0.3, 0.7]])


VARYING = ("replicas", "resumed_at", "seconds", "git", "started")


@pytest.mark.parametrize("data", ["texts", "points"])
def test_replicas_leave_the_folders_of_runs_alone(config, tmp_path, data):
    if data == "points":
        config = on_points(config)
    config.evaluate.predictions = True
    config.train.replicas = 3
    records = train_replicas(config, tmp_path / "together")
    assert sorted(path.name for path in (tmp_path / "together").iterdir()) == ["seed_0", "seed_1", "seed_2"]
    config.train.replicas = 1
    for seed, wanted in enumerate(alone(config, tmp_path / "alone", range(3))):
        folder, other = (tmp_path / name / f"seed_{seed}" for name in ("together", "alone"))
        record = workdir.read_record(folder)
        assert record == records[seed]
        assert list(record) == list(wanted)
        assert (record["replicas"], record["seed"]) == (3, seed)
        assert record["seconds"].keys() == wanted["seconds"].keys()
        for key in record.keys() - {*VARYING, "metrics"}:
            assert record[key] == wanted[key], key
        assert_near(record["metrics"], wanted["metrics"])
        names = [sorted(re.sub(r"\d{5,}.*\.", "", path.name) for path in each.iterdir()) for each in (folder, other)]
        assert names[0] == names[1]
        assert (folder / "config.json").read_text() == (other / "config.json").read_text()
        assert_same(parameters(folder), parameters(other), 1e-5)
        assert [line["step"] for line in lines(folder)] == [line["step"] for line in lines(other)]
        for kind in ("train_loss", "gradient_norm"):
            got, expected = ([line[kind] for line in lines(where)] for where in (folder, other))
            np.testing.assert_allclose(got, expected, rtol=1e-4)
        stored, expected = (np.load(where / "predictions_test.npz")["log_marginals"] for where in (folder, other))
        np.testing.assert_allclose(stored, expected, atol=1e-4)
        run = mlresearch.load(str(folder))
        assert_near(run.evaluate("test"), record["metrics"]["test"])
    # Alone it is finished, too: `train` has nothing to do in a replica's folder.
    config.seed = 2
    assert train(config, tmp_path / "together" / "seed_2") == records[2]


SETTINGS = {
    "adamw": (
        *("optim.learning_rate=0.02", "optim.weight_decay=0.5", "optim.b1=0.5", "optim.b2=0.9"),
        *("optim.clip_norm=0.2", "encoder.bag.dropout=0.6", "loss.binary_cross_entropy.positive_weight=3"),
    ),
    "sgd": ("optim.learning_rate=0.02", "optim.momentum=0.5", "optim.clip_norm=0.2", "optim.weight_decay=0.5"),
}


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_each_number_in_which_replicas_differ_acts_as_it_does_alone(config, tmp_path, optimizer):
    """All have one seed here, so that nothing else can tell them apart; by hand, the number is a constant."""
    config.head.name = "independent"
    config.head.conditional.siblings = part_options("head", "conditional")["siblings"]
    config.optim.name = optimizer
    config.optim.weight_decay = 0.1
    config.train.num_epochs = 1.0
    settings = ("", *SETTINGS[optimizer])
    config.train.replicas = len(settings)
    config.train.replica_overrides = tuple(f"seed=0,{setting}" for setting in settings)
    with jax.enable_x64(True):
        config = in_float64(config)
        train_replicas(config, tmp_path)
        made = replicas(resolve(config))
        assert [name for name, _ in made] == ["+".join(["seed_0", "seed=0", *filter(None, [s])]) for s in settings]
        found = [parameters(tmp_path / name) for name, _ in made]
        for number, (got, (_, own)) in enumerate(zip(found, made, strict=True)):
            assert_same(got, by_hand(own, 10), 1e-12)
            for other in found[:number]:
                assert max(float(np.abs(one - two).max()) for one, two in zip(got, other, strict=True)) > 1e-6


@pytest.mark.parametrize(
    ("count", "overrides", "message"),
    [
        (3, ("", ""), "replica_overrides has 2 entries for 3 replicas"),
        (2, ("optim.learnin_rate=1", ""), "no setting config.optim.learnin_rate; did you mean 'learning_rate'"),
        (2, ("text.vocab_size=90", ""), "cannot differ in config.text.vocab_size: only in their seeds, the optimizer"),
        (2, ("optim.name='sgd'", "optim.name='sgd'"), "cannot differ in config.optim.name"),
        (2, ("train.log_every_steps=3", ""), "cannot differ in config.train.log_every_steps"),
        (2, ("train.replicas=3", ""), "cannot differ in config.train.replicas"),
        (
            2,
            ("encoder.mlp.dropout=0.1", ""),
            r"replica_overrides\[0\]: no part that is chosen reads config.encoder.mlp",
        ),
        (2, ("optim=3", ""), "no part that is chosen reads config.optim"),
        (2, ("", "encoder.bag.dropout=0"), "cannot differ in whether config.encoder.bag.dropout is 0"),
        (2, ("", "optim.clip_norm=0.0"), "cannot differ in whether config.optim.clip_norm is 0"),
        (
            2,
            ("", "optim.learning_rate"),
            r"replica_overrides\[1\]: 'optim.learning_rate' is not a setting and a number",
        ),
        (2, ("optim.b1=high", ""), r"replica_overrides\[0\]: 'optim.b1=high' is not a setting and a number"),
        (2, ("optim.b1=1.5", ""), "config.optim.b1 is 1.5; it is a share"),
        (2, ("optim.learning_rate=-1", ""), "config.optim.learning_rate is -1.0; it must be above 0"),
        (2, ("", "encoder.bag.dropout=1.5"), "config.encoder.bag.dropout is 1.5; it is a probability below 1"),
        (2, ("seed=4", "seed=4"), r"replica_overrides\[1\]: there are two replicas seed_4\+seed=4"),
    ],
)
def test_overrides_that_cannot_be_are_refused(config, tmp_path, count, overrides, message):
    config.train.replicas, config.train.replica_overrides = count, overrides
    with pytest.raises(UserError, match=message):
        train_replicas(config, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_names_and_configs_of_replicas(config):
    config.seed = 5
    assert replicas(resolve(config)) == [("", resolve(config))]
    config.train.replicas = 2
    made = replicas(resolve(config))
    assert [(name, own.seed, own.train.replicas) for name, own in made] == [("seed_5", 5, 1), ("seed_6", 6, 1)]
    config.train.replica_overrides = ("optim.b1=0.8, optim.b2=0.9", "")
    made = replicas(resolve(config))
    assert [name for name, _ in made] == ["seed_5+optim.b1=0.8+optim.b2=0.9", "seed_6"]
    assert (made[0][1].optim.b1, made[0][1].optim.b2, made[1][1].optim.b1) == (0.8, 0.9, 0.9)
    config.train.replicas, config.train.replica_overrides = 1, ("optim.b1=0.8",)
    assert [name for name, _ in replicas(resolve(config))] == ["seed_5+optim.b1=0.8"]


def test_folders_of_one_run_and_of_several_are_not_mixed_up(config, tmp_path):
    workdir.claim(tmp_path / "one", resolve(config))
    workdir.claim(tmp_path / "several" / "seed_0", resolve(config))
    with pytest.raises(UserError, match="is not empty and holds no run"):
        train(config, tmp_path / "several")
    config.train.replicas = 2
    with pytest.raises(UserError, match="one holds a single run; give a new --workdir for 2 replicas"):
        train_replicas(config, tmp_path / "one")
    with pytest.raises(UserError, match=r"train_replicas\(\) returns all their records"):
        train(config, tmp_path / "new")


# Devices


def steps_of(config, count, num_devices, mode="jit"):
    """Parameters of some runs after ten steps, and the text of the compiled program, that of jit."""
    dataset, preprocessing, batches = inputs_of(config)
    batches = batches["train"]
    parallel = Parallel(mode, num_devices, count, 16)
    states = []
    for _, own in replicas(resolve_replicas(config, count)):
        graphdef, params, rates, structure = create_model(own, preprocessing.spec, 9, dataset.hierarchy)
        states.append(init_state(own, params, rates, 10, select=False))
    step = make_train_step(config, graphdef, 9, 10, parallel.axis_name, batches.buckets)
    taken, buckets = Feed(batches, range(count)).chunk(0, 10, 10)
    arguments = (
        *(parallel.put_runs(stack(states)), parallel.replicate(structure), parallel.put_chunk(taken)),
        *(jnp.asarray(buckets), jnp.int32(10)),
    )
    chunk = parallel.compile_chunk(make_train_chunk(step), arguments[0])
    compiled = chunk.lower(*arguments).compile()
    state, _ = compiled(*arguments)
    return jax.tree.leaves(jax.device_get(parallel.fetch(state).params)), compiled.as_text()


def resolve_replicas(config, count):
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.replicas = count
    return config


COLLECTIVE = re.compile(r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(-start)?\(")


def test_devices_share_runs_and_examples(config):
    """In float64, where sums in another order differ by 1e-16 of their size."""
    config.text.num_buckets = 1
    with jax.enable_x64(True):
        config = resolve(in_float64(config))
        expected, text = steps_of(config, 8, 1)
        assert not COLLECTIVE.search(text)
        for count in (2, 4, 8):
            got, text = steps_of(config, count, 8)
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_allclose(one, other[:count], rtol=0, atol=1e-10)
            # Eight runs on eight devices have nothing to say to each other; fewer share their examples.
            assert bool(COLLECTIVE.search(text)) == (count < 8), count


# Going on


@pytest.fixture(scope="module")
def pair(data_dir, tmp_path_factory):
    """Two replicas that were never stopped."""
    folder = tmp_path_factory.mktemp("pair")
    config = make_config(data_dir)
    config.train.replicas = 2
    config.train.chunk_steps = 4
    return folder, train_replicas(config, folder)


@pytest.fixture
def two(config):
    config.train.replicas = 2
    config.train.chunk_steps = 4
    config.train.checkpoint_every_seconds = 1e-9  # after every chunk
    return config


def assert_gone_on(folder, records, pair):
    whole, expected = pair
    for seed in (0, 1):
        assert_same(parameters(folder / f"seed_{seed}"), parameters(whole / f"seed_{seed}"))
        assert records[seed]["metrics"] == expected[seed]["metrics"]
        steps = [line["step"] for line in lines(folder / f"seed_{seed}")]
        assert steps == sorted(set(steps))
        assert steps[-1] == 20


def stopped(config, folder, after):
    """Train until `after` chunks are done: one step, one step, and four each from then on, or fewer if it is slow."""
    asked = iter([False] * (after - 1) + [True])
    with pytest.raises(Stopped):
        train_replicas(config, folder, stop=lambda: next(asked))


def test_killed_replicas_go_on_to_the_same_parameters(two, tmp_path, pair, monkeypatch):
    gather = Feed.chunk

    def dying(self, first, number, size):
        if first >= 9:
            raise Killed
        return gather(self, first, number, size)

    monkeypatch.setattr(Feed, "chunk", dying)
    with pytest.raises(Killed):
        train_replicas(two, tmp_path)
    monkeypatch.undo()
    records = train_replicas(two, tmp_path)
    assert 0 < records[0]["resumed_at"] == records[1]["resumed_at"] <= 9
    assert_gone_on(tmp_path, records, pair)


@pytest.mark.parametrize("fault", ["none", "missing", "damaged"])
def test_stopped_replicas_go_on_from_the_step_that_all_have(two, tmp_path, pair, fault):
    stopped(two, tmp_path, after=4)
    assert {workdir.read_record(tmp_path / f"seed_{seed}")["status"] for seed in (0, 1)} == {"interrupted"}
    before, latest = sorted(workdir.checkpoint_steps(tmp_path / "seed_0"))
    if fault == "missing":
        shutil.rmtree(tmp_path / "seed_1" / "checkpoints" / f"{latest}")
    if fault == "damaged":
        for path in (tmp_path / "seed_0" / "checkpoints" / f"{latest}" / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(path.read_bytes()[:10])
    warned = pytest.warns(UserWarning, match=rf"seed_0: the checkpoint of step {latest} is damaged")
    with warned if fault == "damaged" else contextlib.nullcontext():
        records = train_replicas(two, tmp_path)
    assert {record["resumed_at"] for record in records} == {latest if fault == "none" else before}
    assert {record["replicas"] for record in records} == {2}
    assert_gone_on(tmp_path, records, pair)


def test_more_replicas_leave_those_that_are_finished(two, tmp_path, pair):
    whole, finished = pair
    shutil.copytree(whole, tmp_path / "runs")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    two.train.replicas = 4
    records = train_replicas(two, tmp_path / "runs")
    assert records[:2] == finished
    assert [record["seed"] for record in records] == [0, 1, 2, 3]
    assert [record["replicas"] for record in records] == [2, 2, 2, 2]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    two.train.replicas, two.train.checkpoint_every_seconds = 1, 60.0
    alone(two, tmp_path / "alone", [3])
    assert_same(parameters(tmp_path / "runs" / "seed_3"), parameters(tmp_path / "alone" / "seed_3"), 1e-5)


def test_replicas_at_different_steps_are_trained_apart(two, tmp_path, pair):
    """And those that have not begun together."""
    two.train.replicas, two.seed = 1, 1
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        train(two, tmp_path / "seed_1", stop=lambda: next(asked))
    shutil.copytree(pair[0] / "seed_0", tmp_path / "seed_0")
    written = workdir.read_record(tmp_path / "seed_0")
    (tmp_path / "seed_0" / "run.json").write_text(json.dumps(written | {"status": "running"}))
    at = max(workdir.checkpoint_steps(tmp_path / "seed_1"))
    two.train.replicas, two.seed = 4, 0
    records = train_replicas(two, tmp_path)
    assert [record["resumed_at"] for record in records] == [20, at, None, None]
    assert [record["replicas"] for record in records] == [1, 1, 2, 2]
    assert_same(parameters(tmp_path / "seed_1"), parameters(pair[0] / "seed_1"), 1e-5)


# Failures


def test_a_replica_that_fails_leaves_the_others_as_they_are(two, tmp_path, pair):
    """Its rate is beyond float32 after warm-up; the other one is, bit for bit, what it is beside a sound one."""
    two.train.replica_overrides = ("", "optim.learning_rate=1e38")
    folder = tmp_path / "seed_1+optim.learning_rate=1e38"
    with pytest.raises(NonFiniteError, match=r"at step \d+; .*seed_1\+optim.learning_rate=1e38 keeps") as caught:
        train_replicas(two, tmp_path)
    assert "seed_0" not in str(caught.value)
    record = workdir.read_record(folder)
    assert record["status"] == "failed"
    assert "not finite" in record["error"]
    with pytest.raises(UserError, match="the run is failed"):
        mlresearch.load(str(folder))
    assert_same(parameters(tmp_path / "seed_0"), parameters(pair[0] / "seed_0"))
    assert workdir.read_record(tmp_path / "seed_0")["metrics"] == pair[1][0]["metrics"]
    # Its checkpoint is of the step that it reached, and it alone is tried again, from there.
    at = int(re.search(r"at step (\d+);", record["error"])[1])
    assert max(workdir.checkpoint_steps(folder)) == at < 20
    with pytest.raises(NonFiniteError, match=f"at step {at};"):
        train_replicas(two, tmp_path)
    again = workdir.read_record(folder)
    assert (again["replicas"], again["resumed_at"]) == (1, at or None)


@pytest.fixture
def poisoned(monkeypatch):
    """A batch of replica 1 holds, at step 11, an oak that is no tree: its probability is 0."""
    gather = Feed.chunk

    def chunk(self, first, number, size):
        batch, buckets = gather(self, first, number, size)
        if first <= 11 < first + number and batch.rows.shape[1] == 2:
            batch.label_ids[11 - first, 1] = 9
            batch.label_ids[11 - first, 1, :, 0] = 8
        return batch, buckets

    monkeypatch.setattr(Feed, "chunk", chunk)
    return monkeypatch


def test_a_replica_that_failed_goes_on_when_its_fault_is_gone(two, tmp_path, pair, poisoned):
    """From the step of its failure to the end, which is what is loaded; its log is of the steps it took."""
    with pytest.raises(NonFiniteError, match=r"at step 11; .*seed_1 keeps the state before it"):
        train_replicas(two, tmp_path)
    assert lines(tmp_path / "seed_1")[-1]["step"] == 11
    poisoned.undo()
    records = train_replicas(two, tmp_path)
    assert [record["resumed_at"] for record in records] == [None, 11]
    assert_same(parameters(tmp_path / "seed_0"), parameters(pair[0] / "seed_0"))
    assert_same(parameters(tmp_path / "seed_1"), parameters(pair[0] / "seed_1"), 1e-5)


def test_a_failure_does_not_keep_replicas_at_other_steps_from_training(two, tmp_path, pair, poisoned):
    """The failed one is tried, and fails, before those that have not begun."""
    two.train.replica_overrides = ("optim.learning_rate=1e38", "optim.learning_rate=1e38")
    with pytest.raises(NonFiniteError):
        train_replicas(two, tmp_path)
    two.train.replicas = 3
    two.train.replica_overrides = ("optim.learning_rate=1e38", "optim.learning_rate=1e38", "")
    with pytest.raises(NonFiniteError, match=r"seed_0\+.* keeps .*seed_1\+.* keeps"):
        train_replicas(two, tmp_path)
    assert workdir.read_record(tmp_path / "seed_2")["status"] == "finished"


def test_replicas_under_pmap(two, tmp_path, pair):
    """One of which fails, so that its batch is looked at, too."""
    two.parallel.mode, two.parallel.num_devices = "pmap", 2
    two.train.replica_overrides = ("", "optim.learning_rate=1e38")
    with pytest.raises(NonFiniteError, match=r"seed_1\+optim.learning_rate=1e38 keeps the state before it"):
        train_replicas(two, tmp_path)
    assert_same(parameters(tmp_path / "seed_0"), parameters(pair[0] / "seed_0"), 1e-5)


def test_runs_in_turn_are_dealt_out_evenly():
    """What is left over would be trained twice, as slices that go too far are moved back."""
    with pytest.raises(ValueError, match="4 runs cannot take turns 3 at a time"):
        in_turn(lambda state, given: (state, given), jnp.zeros(4), jnp.zeros(4), 3)


@pytest.mark.parametrize("at_once", [1, 2, 4, 9])
def test_runs_side_by_side_or_in_turn(at_once):
    """On one processor some runs follow others; whichever do, each takes its own steps, with its own batches."""
    feed = Feed(small_batches(), range(4))
    batch, buckets = feed.chunk(0, 5, 6)

    def count_rows(state, structure, batch, bucket):
        moved = dataclasses.replace(state, params=state.params * 3 + batch.rows.sum() + structure, step=state.step + 1)
        return moved, StepMetrics(batch.rows.sum().astype(float), batch.mask.sum().astype(float))

    def states():
        zeros = jnp.zeros(4, jnp.int32)
        return TrainState(jnp.arange(4), None, zeros, zeros - 1, zeros + 9, jnp.zeros(4, jnp.uint32), Numbers({}, None))

    for number in (5, 3):
        chunk = jax.jit(make_train_chunk(count_rows, at_once))
        state, metrics = chunk(states(), jnp.int32(7), batch, buckets, number)
        expected = np.arange(4)
        for place in range(number):
            expected = expected * 3 + batch.rows[place].sum(-1) + 7
        np.testing.assert_array_equal(state.params, expected)
        assert state.step.tolist() == [number] * 4
        np.testing.assert_array_equal(metrics.loss[:number], batch.rows[:number].sum(-1))
        np.testing.assert_array_equal(metrics.gradient_norm[:number], batch.mask[:number].sum(-1))
        assert not np.any(metrics.loss[number:])


def small_batches():
    rng = np.random.default_rng(0)
    split = EncodedSplit(LabelSets.from_rows([[0]] * 50), rng.integers(1, 16, 50).astype(np.int32))
    return Batches(split, 3, 8, (8, 16))
