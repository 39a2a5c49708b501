"""One run from end to end on a tiny data set: layouts, resuming, failures, records."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import Killed, inputs_of, lines, make_config, on_points, parameters

import mlresearch
import mlresearch.step
from mlresearch import workdir
from mlresearch.checkpoint import Checkpoints
from mlresearch.config import part_names, part_options, resolve
from mlresearch.data.pipeline import Feed
from mlresearch.errors import UserError
from mlresearch.fit import Stopped, stack
from mlresearch.model import create_model
from mlresearch.parallel import Parallel
from mlresearch.step import init_state, make_train_chunk, make_train_step
from mlresearch.tables.outcomes import OutcomeReader
from mlresearch.train import NonFiniteError, _mode_is_exact, train


@pytest.fixture
def config(data_dir):
    """Thirty steps, on all devices."""
    config = make_config(data_dir)
    config.train.num_epochs = 3.0
    config.evaluate.batch_size = 16
    config.evaluate.predictions = True
    config.parallel.num_devices = 0
    return config


def test_a_run_from_end_to_end(config, tmp_path):
    config.train.num_epochs = 12.0
    config.optim.learning_rate = 0.03
    record = train(config, tmp_path / "run")
    folder = tmp_path / "run"
    for name in ("config.json", "run.json", "metrics.jsonl", "labels.txt", "parents.txt", "tokenizer.model"):
        assert (folder / name).exists(), name
    assert record["status"] == "finished"
    assert record["num_steps"] == 12 * 10  # 150 examples are ten batches of 16, the last one padded
    assert record["examples"] == {"train": 150, "validation": 37, "test": 29}
    assert record["mode_is_exact"] is True
    assert record["metrics"]["test"]["mode"]["num_examples"] == 29
    # The words name the labels: a model that learned anything reads most of them.
    assert record["metrics"]["test"]["mode"]["subset_accuracy"] > 0.8
    assert record["metrics"]["test"]["mode"]["violation_rate"] == 0
    losses = [line["train_loss"] for line in lines(folder)]
    assert losses[-1] < losses[0] / 2

    run = mlresearch.load(str(folder))
    for split in ("validation", "test"):
        assert run.evaluate(split) == record["metrics"][split]
    [labels] = run.predict(["an old owl"])
    assert [label.name for label in labels if label.on] == ["animal", "bird", "owl"]
    stored = np.load(folder / "predictions_test.npz")
    assert stored["log_marginals"].shape == (29, 9)
    again = train(config, folder)
    assert again == record


def test_decisions_that_are_asked_for_are_made_stored_and_read(config, tmp_path):
    config.evaluate.expected_f1_labels = 5
    config.evaluate.label_threshold_closure = "up"
    config.evaluate.label_threshold_fallback = 0.2
    config.evaluate.label_threshold_positives = 3
    record = train(config, tmp_path)
    made = ["mode", "half", "expected_f1", "global_threshold", "label_thresholds", "closed_thresholds"]
    for split in ("validation", "test"):
        assert list(record["metrics"][split]) == [*made, "ranking", "probabilities", "loss"]
        for name in ("expected_f1", "closed_thresholds"):
            assert record["metrics"][split][name]["violation_rate"] == 0
    run = mlresearch.load(str(tmp_path))
    assert list(run.decisions) == made
    assert run.evaluate("test") == record["metrics"]["test"]
    for name in made:
        run.predict(["an old owl"], decision=name)
    dataset = inputs_of(config)[0]
    places = [f"test.{name}.example_f1" for name in made]
    outcomes = OutcomeReader().read(tmp_path, config, dataset.fingerprint, places)
    resampled = outcomes.metrics(places, np.ones((1, 29), np.int64))
    for name in made:
        expected = record["metrics"]["test"][name]["example_f1"]
        assert resampled[f"test.{name}.example_f1"][0] == pytest.approx(expected), name


def test_every_example_counts_once(config):
    resolved = resolve(config)
    for batches in inputs_of(resolved)[2].values():
        for passing in (batches.once(), batches.epoch(seed=3, number=5)):
            rows = np.concatenate([batch.rows[batch.mask] for batch in passing])
            assert sorted(rows) == list(range(len(batches.split)))
        for batch in batches.once():
            lengths = batches.split.lengths[batch.rows[batch.mask]]
            assert (batch.inputs.token_mask.sum(1)[batch.mask] == lengths).all()
            assert batch.inputs.tokens.shape == (batches.batch_size, batch.inputs.tokens.shape[1])
    orders = [
        np.concatenate([b.rows for b in batches.epoch(seed=seed, number=n)])
        for seed, n in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[3])


def steps_under(config, mode, num_devices, num_steps, label_devices=1):
    """Parameters and losses after some steps, padded last batches and dropout included."""
    dataset, preprocessing, batches = inputs_of(config)
    graphdef, params, rates, structure = create_model(config, preprocessing.spec, 9, dataset.hierarchy)
    parallel = Parallel(mode, num_devices, 1, 16, label_devices=label_devices)
    step = make_train_step(config, graphdef, 9, num_steps, parallel.axis_name, batches["train"].buckets)
    state = parallel.put_runs(stack([init_state(config, params, rates, num_steps, select=False)]))
    chunk = parallel.compile_chunk(make_train_chunk(step), state)
    taken, buckets = Feed(batches["train"], [config.seed]).chunk(0, num_steps, num_steps)
    state, metrics = chunk(state, parallel.replicate(structure), parallel.put_chunk(taken), buckets, num_steps)
    assert not taken.mask.all(), "no batch was padded"
    params = parallel.fetch(state).params
    return parallel.fetch(metrics).loss[:, 0], [np.asarray(leaf[0]) for leaf in jax.tree.leaves(params)]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("head", ["conditional", "max_constraint"])
def test_devices_give_the_numbers_of_one(config, head, optimizer):
    """Tolerance: float32 sums in another order differ by some 1e-7 of their size, and 20 steps add up: 1e-4.

    SGD shows a gradient of the wrong scale, which Adam hides.
    """
    config.head.name = head
    config.encoder.bag.dropout = 0.5
    config.optim.name = optimizer
    config.optim.clip_norm, config.optim.momentum = 0.0, 0.0
    config.optim.learning_rate = 0.1 if optimizer == "sgd" else 0.01
    config = resolve(config)
    expected_losses, expected = steps_under(config, "jit", 1, 20)
    assert expected_losses[-1] < expected_losses[0]
    for mode in ("jit", "pmap"):
        losses, params = steps_under(config, mode, 8, 20)
        np.testing.assert_allclose(losses, expected_losses, rtol=2e-5)
        for got, wanted in zip(params, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sparse", [False, True])
def test_devices_that_share_the_labels_give_the_numbers_of_one(config, sparse):
    """Nine labels in 16 rows over 8 devices, or over 2 of 4 × 2; the moments are shared as the parameters are."""
    config.decoder.linear.multiple = 8
    config.head.conditional.sparse = sparse
    config = resolve(config)
    expected_losses, expected = steps_under(config, "jit", 1, 20)
    for label_devices in (8, 2):
        losses, params = steps_under(config, "jit", 8, 20, label_devices)
        np.testing.assert_allclose(losses, expected_losses, rtol=2e-5)
        for got, wanted in zip(params, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


def test_labels_that_devices_do_not_divide_are_refused(config):
    with pytest.raises(UserError, match=r"9 rows of labels cannot be shared .*decoder\.linear\.multiple = 2"):
        steps_under(resolve(config), "jit", 8, 20, 2)
    with pytest.raises(UserError, match=r"label_devices is 3: .* the number of devices, which is 8"):
        Parallel("jit", 8, 1, 12, label_devices=3)
    with pytest.raises(UserError, match=r"label_devices is 2: that needs parallel\.mode = 'jit'"):
        Parallel("pmap", 8, 1, 12, label_devices=2)


def test_pmap_runs_from_end_to_end(config, tmp_path):
    config.train.select, config.evaluate.every_epochs = "ranking.micro_average_precision", 1.0
    jit = train(config, tmp_path / "jit")
    config.parallel.mode = "pmap"
    pmap = train(config, tmp_path / "pmap")
    for split in ("validation", "test"):
        for name, value in jit["metrics"][split]["ranking"].items():
            assert pmap["metrics"][split]["ranking"][name] == pytest.approx(value, abs=1e-3), name


def test_a_killed_run_goes_on_to_the_same_parameters(config, tmp_path, monkeypatch):
    whole = train(config, tmp_path / "whole")
    config.train.checkpoint_every_seconds = 1e-9  # after every chunk
    config.train.chunk_steps = 1
    gather = Feed.chunk

    def dying(self, first, number, size):
        if first == 17:  # in the middle of the second epoch
            raise Killed
        return gather(self, first, number, size)

    monkeypatch.setattr(Feed, "chunk", dying)
    with pytest.raises(Killed):
        train(config, tmp_path / "killed")
    monkeypatch.undo()
    assert workdir.read_record(tmp_path / "killed")["status"] == "running"
    resumed = train(config, tmp_path / "killed")
    assert 0 < resumed["resumed_at"] <= 17
    for got, wanted in zip(parameters(tmp_path / "killed"), parameters(tmp_path / "whole"), strict=True):
        assert np.array_equal(got, wanted)
    assert resumed["metrics"] == whole["metrics"]
    steps = [line["step"] for line in lines(tmp_path / "killed")]
    assert steps == sorted(set(steps))


def test_stopped_by_the_user(config, tmp_path):
    config.train.chunk_steps = 1
    asked = iter([False] * 7 + [True])
    with pytest.raises(Stopped):
        train(config, tmp_path, stop=lambda: next(asked))
    assert workdir.read_record(tmp_path)["status"] == "interrupted"
    with pytest.raises(UserError, match="interrupted; train it to its end"):
        mlresearch.load(str(tmp_path))
    resumed = train(config, tmp_path)
    assert resumed["resumed_at"] == 8
    assert [line["step"] for line in lines(tmp_path)] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert resumed["seconds"]["train"] > 0


@pytest.mark.parametrize(("head", "exact"), [("independent", True), ("conditional", True), ("mixture", False)])
def test_what_finds_the_mode_is_told_by_shapes(config, head, exact):
    config.head.name = head
    resolved = resolve(config)
    dataset, preprocessing, batches = inputs_of(resolved)
    model = create_model(resolved, preprocessing.spec, 9, dataset.hierarchy)
    assert _mode_is_exact(model, next(iter(batches["train"].once()))) is exact


def test_another_config_is_refused_with_the_difference(config, tmp_path):
    train(config, tmp_path)
    config.optim.learning_rate = 0.02
    config.head.conditional.siblings = "one"
    with pytest.raises(UserError) as caught:
        train(config, tmp_path)
    assert "config.optim.learning_rate: 0.01 -> 0.02" in str(caught.value)
    assert "config.head.conditional.siblings: 'any' -> 'one'" in str(caught.value)
    config.optim.learning_rate = 0.01
    config.head.conditional.siblings = "any"
    config.train.log_every_steps = 5  # changes nothing that is computed
    assert train(config, tmp_path)["status"] == "finished"


def test_a_folder_of_something_else_is_left_alone(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        train(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(config, tmp_path, monkeypatch):
    gather = Feed.chunk

    def poisoned(self, first, number, size):
        batch, buckets = gather(self, first, number, size)
        if first <= 13 < first + number:
            batch.label_ids[13 - first] = 9
            batch.label_ids[13 - first, ..., 0] = 8  # an oak that is no tree: its probability is 0
        return batch, buckets

    monkeypatch.setattr(Feed, "chunk", poisoned)
    with pytest.raises(NonFiniteError, match="not finite at step 13"):
        train(config, tmp_path)
    monkeypatch.undo()
    record = workdir.read_record(tmp_path)
    assert record["status"] == "failed"
    assert "step 13" in record["error"]
    resumed = train(config, tmp_path)  # the fault was in the batch, which is sound now
    assert resumed["resumed_at"] == 13
    assert all(np.isfinite(leaf).all() for leaf in parameters(tmp_path))


def kept_state(config, folder):
    """The state that a folder keeps, and the parameters that it began with."""
    resolved = resolve(config)
    dataset, preprocessing, _ = inputs_of(resolved)
    _, params, rates, _ = create_model(resolved, preprocessing.spec, 9, dataset.hierarchy)
    template = init_state(resolved, params, rates, 1, select=False)
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        _, state, _ = checkpoints.restore(template, workdir.identity(dataset, preprocessing.identity))
    return state, params


@pytest.mark.parametrize("num_epochs", [3.0, 0.1])  # of the second, the first step is the last
def test_a_gradient_whose_square_overflows_is_not_taken(config, tmp_path, num_epochs):
    """Loss and gradient are finite, and so would parameters be; the second moments would not."""
    config.train.num_epochs = num_epochs
    config.optim.clip_norm = 0.0
    config.head.name, config.loss.binary_cross_entropy.positive_weight = "independent", 1e25
    with pytest.raises(NonFiniteError, match="not finite at step 0"):
        train(config, tmp_path)
    state, initial = kept_state(config, tmp_path)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, state.params, initial)))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_what_overflows_in_an_update_is_never_kept(config, tmp_path, name, clip_norm):
    config.optim.update(
        name=name,
        learning_rate=3e38,
        weight_decay=1e30,
        momentum=0.99,
        clip_norm=clip_norm,
        average=1.0,
        warmup_share=0.0,
    )
    with pytest.raises(NonFiniteError, match=r"not finite at step [1-9]"):
        train(config, tmp_path)
    state, _ = kept_state(config, tmp_path)
    assert int(state.step) > 0
    assert any(np.abs(leaf).max() > 1e37 for leaf in jax.tree.leaves(state.params))
    for leaf in jax.tree.leaves((state.params, state.opt_state, state.average)):
        assert np.isfinite(leaf).all()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(config, tmp_path):
    config.train.checkpoint_every_seconds = 1e-9
    config.train.chunk_steps = 1
    asked = iter([False] * 7 + [True])
    with pytest.raises(Stopped):
        train(config, tmp_path, stop=lambda: next(asked))
    kept = sorted((path for path in (tmp_path / "checkpoints").iterdir()), key=lambda path: int(path.name))
    assert [path.name for path in kept] == ["7", "8"]
    for path in (kept[1] / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.warns(UserWarning, match="the checkpoint of step 8 is damaged"):
        assert train(config, tmp_path)["resumed_at"] == 7


def test_two_processes_do_not_share_a_folder(config, tmp_path):
    workdir.claim(tmp_path, resolve(config))
    with workdir.hold(tmp_path), pytest.raises(UserError, match=r"process \d+ is at work in this folder"):
        train(config, tmp_path)
    assert train(config, tmp_path)["status"] == "finished"


def test_other_labels_or_another_tokenizer_are_noticed(config, tmp_path):
    train(config, tmp_path)
    parents = (tmp_path / "parents.txt").read_text()
    (tmp_path / "parents.txt").write_text(parents[: parents.rindex("\n", 0, -1) + 1])  # the last edge is lost
    with pytest.raises(UserError, match="started on another hierarchy"):
        mlresearch.load(str(tmp_path))


def test_label_sets_that_the_head_cannot_give_are_refused_by_row_before_anything_is_scored(
    config, tmp_path, monkeypatch
):
    config.data.name = "tiny/sets"
    config.head.conditional.siblings = "one"
    monkeypatch.setattr("mlresearch.train.evaluate_validation", None)
    with pytest.raises(UserError, match=r"train, row \d+.*probability 0 .*conditional-one"):
        train(config, tmp_path)


# The head `chain` and the decoder `causal` go with each other alone.
PAIRS = [
    (decoder, head)
    for decoder in part_names("decoder")
    for head in part_names("head")
    if (decoder == "causal") == (head == "chain")
]


@pytest.mark.parametrize(("decoder", "head"), PAIRS)
def test_every_decoder_works_with_every_head_and_encoder(config, decoder, head):
    """Shapes and dtypes of a whole step, traced without computing."""
    config.decoder.name, config.head.name = decoder, head
    config.encoder.bag.update(part_options("encoder", "bag"))
    for encoder in ("bag", "text_transformer"):
        config.encoder.name = encoder
        resolved = resolve(config)
        dataset, preprocessing, batches = inputs_of(resolved)
        graphdef, params, rates, structure = create_model(resolved, preprocessing.spec, 9, dataset.hierarchy)
        step = make_train_step(resolved, graphdef, 9, 10, None)
        state = init_state(resolved, params, rates, 10, select=False)
        after, metrics = jax.eval_shape(step, state, structure, next(iter(batches["train"].once())))
        assert jax.tree.structure(after) == jax.tree.structure(state)
        for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert metrics.loss.dtype == jnp.float32


def test_batches_that_devices_do_not_divide_are_refused():
    with pytest.raises(UserError, match="a batch of 12 cannot be shared by 8 devices"):
        Parallel("jit", 8, 1, 12)
    with pytest.raises(UserError, match="num_devices is 64, but there are 8"):
        Parallel("jit", 64, 1, 64)


@pytest.fixture
def points(config):
    config.train.num_epochs = 40.0
    return on_points(config)


def test_features_and_flat_labels(points, tmp_path):
    record = train(points, tmp_path / "run")
    assert record["metrics"]["test"]["mode"]["subset_accuracy"] > 0.8
    assert "violation_rate" not in record["metrics"]["test"]["mode"]  # there is no hierarchy to violate
    run = mlresearch.load(str(tmp_path / "run"))
    assert run.evaluate("test") == record["metrics"]["test"]
    [labels] = run.predict([{"features": {"x": 2.0, "y": 2.0}}])
    assert [label.name for label in labels if label.on] == ["right", "up", "far"]
    with pytest.raises(UserError, match="input 1: the run does not read 'text'; it reads features"):
        run.predict(["x"])
    with pytest.raises(UserError, match="input 2: there is no column 'z'"):
        run.predict([{"features": {"x": 1}}, {"features": {"z": 1}}])
    with pytest.raises(UserError, match="input 1: feature 'x' is '1', not a finite number or null"):
        run.predict([{"features": {"x": "1"}}])


def test_parts_that_lack_what_they_need_are_refused_by_name(points, tmp_path):
    points.head.name = "max_constraint"
    with pytest.raises(UserError, match="head 'max_constraint' needs a label hierarchy"):
        train(points, tmp_path / "run")
    points.head.name = "independent"
    points.encoder.mlp.update(part_options("encoder", "mlp"))
    points.encoder.name = "bag"
    with pytest.raises(UserError, match="encoder 'bag' reads text"):
        train(points, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_precisions_learn_as_well(config, tmp_path, dtype):
    config.model.dtype = dtype
    config.model.param_dtype = "float32" if dtype == "bfloat16" else dtype
    config.train.num_epochs = 12.0
    config.optim.learning_rate = 0.03
    with jax.enable_x64(dtype == "float64"):
        record = train(config, tmp_path)
        leaves = parameters(tmp_path)
    assert record["metrics"]["test"]["mode"]["subset_accuracy"] > 0.8
    assert {str(leaf.dtype) for leaf in leaves} == {config.model.param_dtype}
