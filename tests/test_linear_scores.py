"""Linear classifiers' scores as inputs: out of fold on training rows, the wide path in models, kept and refused."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from small_runs import assert_near, assert_same, make_config, on_points, parameters
from test_columns import make_dataset

import mlresearch
from mlresearch.config import base_config, resolve
from mlresearch.data.records import require_training
from mlresearch.errors import UserError
from mlresearch.fit import Stopped
from mlresearch.inputs import Preprocessing, load_dataset
from mlresearch.label_space import LabelSets
from mlresearch.linear_scores import LinearScores
from mlresearch.model import create_model
from mlresearch.train import train, train_replicas

FOLDS = 3


@pytest.fixture
def config(tmp_path):
    config = base_config()
    config.data.dir = str(tmp_path / "data")
    config.text.vocab_size = 60
    config.linear_scores.classifier = "logistic_regression"
    config.linear_scores.folds = FOLDS
    config.linear_scores.min_count = 1
    return config


def learn(config, dataset):
    return LinearScores.learn(config.linear_scores, config.columns, dataset.train)


def folds_of(count):
    return np.random.default_rng(0).permutation(count) % FOLDS


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("linear_svm", lambda weight: LinearSVC(C=2.0, class_weight=weight, random_state=0)),
        (
            "logistic_regression",
            lambda weight: LogisticRegression(C=2.0, class_weight=weight, solver="liblinear", random_state=0),
        ),
    ],
)
@pytest.mark.parametrize("weight", ["none", "balanced"])
def test_training_rows_are_scored_by_what_has_not_seen_them(config, name, make, weight):
    """By scikit-learn alone, a label and a fold at a time; the slope by a grid over the likelihood."""
    config.linear_scores.classifier, config.linear_scores.c, config.linear_scores.class_weight = name, 2.0, weight
    dataset = make_dataset(1)
    linear, out_of_fold = learn(config, dataset)
    rows = linear.vectors.rows(dataset.train)
    truth, folds = dataset.train.labels.multi_hot(3), folds_of(len(dataset.train))
    margins, whole = np.zeros(truth.shape), np.zeros(truth.shape)
    for label in range(3):
        classifier = make(None if weight == "none" else weight)
        whole[:, label] = classifier.fit(rows, truth[:, label]).decision_function(rows)
        for fold in range(FOLDS):
            classifier.fit(rows[folds != fold], truth[folds != fold, label])
            margins[folds == fold, label] = classifier.decision_function(rows[folds == fold])
    centred = margins - margins.mean(0)
    slope = (out_of_fold * centred).sum() / (centred**2).sum()
    np.testing.assert_allclose(out_of_fold, slope * centred, atol=1e-5)
    np.testing.assert_allclose(linear.scores(dataset.train), slope * (whole - margins.mean(0)), atol=1e-4)

    def loss(slope):
        logits = special.logit((truth.sum(0) + 0.5) / (len(truth) + 1)) + slope * centred
        return -np.where(truth, special.log_expit(logits), special.log_expit(-logits)).sum()

    assert loss(slope) <= min(map(loss, np.linspace(1e-3, 5, 500))) + 1e-6


def test_the_own_label_of_a_row_never_reaches_its_score(config):
    """Of a fold, one row's label turned over: up to the slope and the mean that all rows share, nothing moves."""
    dataset = make_dataset(1)
    _, before = learn(config, dataset)
    held_out = np.flatnonzero(folds_of(len(dataset.train)) == 1)
    rows = [dataset.train.labels.row(row).tolist() for row in range(len(dataset.train))]
    rows[held_out[0]] = sorted({0, 1, 2} - set(rows[held_out[0]]))
    changed = dataclasses.replace(dataset.splits["train"], labels=LabelSets.from_rows(rows))
    _, after = learn(config, dataclasses.replace(dataset, splits={**dataset.splits, "train": changed}))

    def shape(scores):
        within = scores[held_out] - scores[held_out[-1]]
        return within / within[1]

    assert abs(after - before).max() > 1e-3
    np.testing.assert_allclose(shape(after), shape(before), rtol=1e-3)


def test_a_label_without_examples_scores_nothing(config):
    """Label 2 is on in one row only: in its own fold nothing is known of it; label 1 is on in none."""
    dataset = make_dataset(1)
    rows = [[0] if row % 2 else [] for row in range(len(dataset.train))]
    rows[7] = [0, 2]
    changed = dataclasses.replace(dataset.splits["train"], labels=LabelSets.from_rows(rows))
    linear, scores = learn(config, dataclasses.replace(dataset, splits={**dataset.splits, "train": changed}))
    folds = folds_of(len(rows))
    assert (scores[:, 1] == 0).all()
    assert (scores[folds == folds[7], 2] == 0).all()
    assert (scores[folds != folds[7], 2] != 0).all()
    said = linear.scores(dataset.splits["test"])
    assert (said[:, 1] == 0).all()
    assert (said[:, [0, 2]] != 0).all()


def test_what_is_saved_is_what_is_loaded(config, tmp_path):
    linear, _ = learn(config, make_dataset(1))
    linear.save(tmp_path / "linear_scores.npz")
    loaded = LinearScores.load(tmp_path / "linear_scores.npz")
    assert loaded.identity == linear.identity
    records = make_dataset(2).splits["test"]
    np.testing.assert_array_equal(loaded.scores(records), linear.scores(records))
    (tmp_path / "linear_scores.npz").write_bytes((tmp_path / "linear_scores.npz").read_bytes()[:-100])
    for name in ("linear_scores.npz", "other.npz"):
        with pytest.raises(UserError, match=f"{name} is missing or damaged"):
            LinearScores.load(tmp_path / name)


@pytest.fixture
def learn_once(config, monkeypatch, tmp_path):
    """What a folder gives of training records, and whether it had to be learnt."""
    learn, learnt = LinearScores.learn, []

    def noted(*given):
        learnt.append(given)
        return learn(*given)

    monkeypatch.setattr(LinearScores, "learn", noted)

    def once(training):
        learnt.clear()
        settings = config.linear_scores, config.columns
        linear, out_of_fold = LinearScores.learn_once(tmp_path / "kept", *settings, training)
        return (linear.identity, out_of_fold.tobytes()), bool(learnt)

    return once


def test_scores_are_learnt_once(config, learn_once, tmp_path):
    train = make_dataset(1).train
    first, was_learnt = learn_once(train)
    assert was_learnt
    assert learn_once(train) == (first, False)
    [kept] = (tmp_path / "kept").iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    assert learn_once(train) == (first, True)
    assert learn_once(train) == (first, False)


def test_other_settings_code_and_training_records_are_other_scores(config, learn_once, monkeypatch):
    train = make_dataset(1).train
    learn_once(train)
    rows = [train.labels.row(row).tolist() for row in range(len(train))]
    rows[0] = sorted({0, 1, 2} - set(rows[0]))
    features = train.features.copy()
    features[0, 0] += 1
    texts = (train.texts[0].upper(), *train.texts[1:])
    categories = (("other", *train.categories[0][1:]), *train.categories[1:])
    changes = {"labels": LabelSets.from_rows(rows), "features": features, "texts": texts, "categories": categories}
    for name, changed in (changes | {"num_labels": 4}).items():
        assert learn_once(dataclasses.replace(train, **{name: changed}))[1], name
    for section, key, value in (("linear_scores", "c", 0.5), ("columns", "scale", "none")):
        config[section][key] = value
        assert learn_once(train)[1], key
        assert not learn_once(train)[1], key
    monkeypatch.setattr("mlresearch.linear_scores.code_hash", lambda: "other")
    assert learn_once(train)[1]


def test_soft_labels_are_refused_beside_scores_of_hard_ones(learn_once):
    train = make_dataset(1).train
    learn_once(train)
    soft = LabelSets(train.labels.ids, train.labels.offsets, np.full(len(train.labels.ids), 0.5, np.float32))
    with pytest.raises(UserError, match="needs labels that are on or off"):
        learn_once(dataclasses.replace(train, labels=soft))


def test_scores_that_cannot_be_kept_are_learnt_all_the_same(learn_once, tmp_path):
    train = make_dataset(1).train
    (tmp_path / "kept").write_text("no folder")
    first, was_learnt = learn_once(train)
    assert was_learnt
    assert learn_once(train) == (first, True)


def test_splits_are_scored_by_all_training_rows_and_these_out_of_fold(config):
    dataset = make_dataset(1)
    preprocessing = Preprocessing.learn(config, dataset.train)
    linear, out_of_fold = learn(config, dataset)
    splits = preprocessing.encode_splits(dataset)
    assert preprocessing.spec.num_features == 6
    assert preprocessing.spec.num_linear_scores == 3
    np.testing.assert_array_equal(splits["train"].features[:, 3:], out_of_fold)
    np.testing.assert_array_equal(splits["test"].features[:, 3:], linear.scores(dataset.splits["test"]))
    np.testing.assert_array_equal(splits["test"].features, preprocessing.encode(dataset.splits["test"]).features)
    plain = base_config()
    plain.data.dir, plain.text.vocab_size = config.data.dir, 60
    own = Preprocessing.learn(plain, dataset.train).encode_splits(dataset)
    np.testing.assert_array_equal(splits["train"].features[:, :3], own["train"].features)
    with pytest.raises(TypeError):
        LinearScores.learn(config.linear_scores, config.columns, dataset.splits["test"])
    with pytest.raises(TypeError):
        require_training(dataset.splits["train"])


@pytest.mark.parametrize(
    ("decoder", "head"),
    [
        ("linear", "independent"),
        ("linear", "conditional"),
        ("linear", "mixture"),
        ("label_attention", "max_constraint"),
        ("causal", "chain"),
    ],
)
def test_linear_scores_are_added_to_the_decoder(data_dir, decoder, head):
    """Twice the weight is what the model without the path gives of scores that are moved by hand."""
    config = make_config(data_dir)
    config.linear_scores.classifier = "linear_svm"
    config.decoder.name, config.head.name, config.head.mixture.components = decoder, head, 2
    config = resolve(config)
    dataset = load_dataset(config)
    preprocessing = Preprocessing.learn(config, dataset.train)
    num_labels = dataset.label_space.num_labels
    model = nnx.merge(*create_model(config, preprocessing.spec, num_labels, dataset.hierarchy))
    split = preprocessing.encode(dataset.splits["test"].take(np.arange(5)))
    mask = np.arange(split.tokens.shape[1]) < split.lengths[:, None]
    inputs = mlresearch.encoders.Inputs(split.tokens, mask, split.features)
    encoded = model.encoder(inputs, None)
    model.wide[...] = jnp.linspace(0.5, 2, num_labels)
    moved = model.decoder(encoded, None)
    wide = jnp.asarray(split.features[:, -num_labels:]) * jnp.linspace(0.5, 2, num_labels)
    moved = moved.shift(wide) if decoder == "causal" else moved + wide[..., None]
    labels = jnp.asarray(dataset.splits["test"].labels.multi_hot(num_labels, np.arange(5)))
    expected, found = model.head(moved, encoded), model(inputs)
    if head == "max_constraint":
        np.testing.assert_allclose(found.log_marginals, expected.log_marginals, rtol=1e-5)
    else:
        np.testing.assert_allclose(found.log_prob(labels), expected.log_prob(labels), rtol=1e-5)
    model.wide[...] = jnp.zeros(num_labels)
    without = model(inputs)
    assert abs(without.log_marginals - found.log_marginals).max() > 1e-3
    if decoder == "causal":
        scores = model.decoder(encoded, None)
        in_order = jnp.arange(num_labels)
        given = scores.shift(wide).reorder(in_order).given(labels)
        np.testing.assert_allclose(given, scores.reorder(in_order).given(labels) + wide, rtol=1e-5)


def test_the_sparse_loss_has_the_linear_scores(data_dir):
    config = make_config(data_dir)
    config.linear_scores.classifier = "linear_svm"
    losses = []
    for sparse in (False, True):
        config.head.conditional.sparse = sparse
        own = resolve(config)
        dataset = load_dataset(own)
        preprocessing = Preprocessing.learn(own, dataset.train)
        num_labels, sets = dataset.label_space.num_labels, {"train": dataset.train.labels}
        model = nnx.merge(*create_model(own, preprocessing.spec, num_labels, dataset.hierarchy, sets))
        split = preprocessing.encode(dataset.splits["test"].take(np.arange(5)))
        mask = np.arange(split.tokens.shape[1]) < split.lengths[:, None]
        inputs = mlresearch.encoders.Inputs(split.tokens, mask, split.features)
        if sparse:
            ids = jnp.asarray(split.labels.take(np.arange(5), num_labels, split.labels.width))
            losses.append(model.sparse_loss(inputs, ids, None))
        else:
            losses.append(-model(inputs).log_prob(jnp.asarray(split.labels.multi_hot(num_labels))))
    np.testing.assert_allclose(*losses, rtol=1e-5, atol=1e-5)


def test_a_model_of_prior_and_linear_scores_begins_as_these(data_dir):
    """With a decoder that says nothing at first, the log-odds are the labels' frequencies' and the scores."""
    config = on_points(make_config(data_dir))
    config.linear_scores.classifier = "linear_svm"
    config.model.prior, config.decoder.linear.scale = True, 0.0
    config = resolve(config)
    dataset = load_dataset(config)
    preprocessing = Preprocessing.learn(config, dataset.train)
    splits, count = preprocessing.encode_splits(dataset), dataset.label_space.num_labels
    label_sets = {name: split.labels for name, split in splits.items()}
    model = nnx.merge(*create_model(config, preprocessing.spec, count, None, label_sets))
    features = splits["train"].features
    logits = model(mlresearch.encoders.Inputs(features=features)).logits
    odds = logits - features[:, -count:]
    np.testing.assert_allclose(odds, np.broadcast_to(odds[:1], odds.shape), atol=1e-5)
    share = (dataset.train.labels.counts(count) + 0.5) / (len(dataset.train) + 1)
    np.testing.assert_allclose(odds[0], special.logit(share), atol=1e-4)


def test_a_run_with_linear_scores_resumes_predicts_and_is_tested_alike(data_dir, tmp_path):
    config = make_config(data_dir)
    config.linear_scores.classifier = "linear_svm"
    config.encoder.name = "mlp"  # which reads no text but the scores of it
    config.encoder.mlp.dim = 16
    record = train(config, tmp_path / "whole")
    config.train.chunk_steps = 5
    stops = iter([False])
    with pytest.raises(Stopped):
        train(config, tmp_path / "parts", stop=lambda: next(stops, True))
    train(config, tmp_path / "parts")
    assert_same(parameters(tmp_path / "parts"), parameters(tmp_path / "whole"))
    run = mlresearch.load(str(tmp_path / "whole"))
    assert_near(run.evaluate("test"), record["metrics"]["test"])
    with pytest.raises(UserError, match="have seen the training split"):
        run.evaluate("train")
    said = run.predict(["renal failure", ""], min_probability=0.0)
    assert [len(each) for each in said] == [run.label_space.num_labels] * 2


def test_replicas_share_linear_scores(data_dir, tmp_path):
    config = on_points(make_config(data_dir))
    config.linear_scores.classifier = "linear_svm"
    config.train.replicas = 2
    records = train_replicas(config, tmp_path / "both")
    assert records[0]["identity"] == records[1]["identity"]
    assert records[0]["identity"]["linear scores"]
    config.train.replicas, config.seed = 1, 1
    train(config, tmp_path / "alone")
    assert_same(parameters(tmp_path / "both" / "seed_1"), parameters(tmp_path / "alone"), 1e-4)


@pytest.mark.parametrize("value", [0.3, np.nan])
def test_labels_that_are_not_on_or_off_are_refused(config, value):
    dataset = make_dataset(1)
    ids = [[0, 1]] * len(dataset.train)
    labels = LabelSets.from_rows(ids, [[1.0, value]] * len(ids))
    changed = dataclasses.replace(dataset.splits["train"], labels=labels)
    with pytest.raises(UserError, match=r"config\.linear_scores needs labels that are on or off"):
        learn(config, dataclasses.replace(dataset, splits={**dataset.splits, "train": changed}))


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("classifier", "linear_svn", "config.linear_scores.classifier is 'linear_svn'; did you mean 'linear_svm'"),
        ("class_weight", "even", "config.linear_scores.class_weight is 'even'"),
        ("folds", 1, "config.linear_scores.folds is 1; it must be at least 2"),
        ("c", 0.0, "config.linear_scores.c is 0.0; it must be above 0"),
        ("min_count", 0, "config.linear_scores.min_count is 0; it must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, setting, value, message):
    config.linear_scores[setting] = value
    with pytest.raises(UserError) as error:
        resolve(config)
    assert message in str(error.value)
