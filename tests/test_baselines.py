"""Baselines against brute force and scikit-learn itself, on texts written here and on a tiny data set."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

import mlresearch.baselines
from mlresearch.baselines import LEAST_PROBABILITY, score_records, train_baseline
from mlresearch.baselines.linear_svm import Baseline as LinearSvm
from mlresearch.baselines.logistic_regression import Baseline as ExactLogisticRegression
from mlresearch.baselines.nearest_description import Baseline as NearestDescription
from mlresearch.baselines.one_vs_rest import Baseline as OneVsRest
from mlresearch.baselines.truth import Baseline as TrueDistribution
from mlresearch.cli import main
from mlresearch.commands.train import row
from mlresearch.config import base_config, part_names, resolve
from mlresearch.data import Dataset, Records
from mlresearch.data.truth import Truth
from mlresearch.decisions import Rules
from mlresearch.errors import UserError
from mlresearch.f_measure import largest_expected_f1
from mlresearch.inputs import load_dataset
from mlresearch.intervals import run_intervals
from mlresearch.label_space import LabelSets, LabelSpace
from mlresearch.train import train

# A root, two labels below it, one below each of these; "never" is no example's.
NAMES = ("root", "left", "right", "far left", "far right", "never")
PARENTS = np.array([(1, 0), (2, 0), (3, 1), (4, 2)], np.int32)
PATHS = ((0,), (0, 1), (0, 2), (0, 1, 3), (0, 2, 4))
WORDS = ("acute", "chronic", "renal", "failure", "of", "lung", "lobe", "unspecified", "left", "b")


def records(texts, label_sets):
    return Records(LabelSets.from_rows(label_sets), tuple(map(str, range(len(texts)))), texts=tuple(texts))


def of_texts(texts):
    return records(texts, [()] * len(texts))


def seeded(seed):
    """What a baseline reads of a config."""
    config = base_config()
    with config.unlocked():
        config.seed = seed
    return config


def fit(config, name, folder):
    """Train a baseline by name."""
    config = ConfigDict(config.to_dict())
    config.baseline.name = name
    return train_baseline(resolve(config), folder)


def drawn(rng, count):
    """Texts of random words, some of them equal, with the label set of a random path."""
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(count)]
    return records(texts, [PATHS[number] for number in rng.integers(len(PATHS), size=count)])


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    splits = {"train": drawn(rng, 60), "validation": drawn(rng, 23), "test": drawn(rng, 19)}
    return Dataset("words", splits, LabelSpace(NAMES, NAMES), PARENTS, "fingerprint", {})


@pytest.fixture(scope="module")
def config(data_dir):
    config = base_config()
    config.data.name = "tiny/sets"
    config.data.dir = str(data_dir)
    config.text.vocab_size = 80
    config.text.num_buckets = 1
    config.encoder.bag.dim = 8
    config.train.num_epochs = 1.0
    return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The record of a run of `train`, to compare with."""
    return train(config, tmp_path_factory.mktemp("runs") / "run")


def cosines(train_texts, texts):
    """The mean of the cosines of both views, from dense vectors."""
    total = np.zeros((len(texts), len(train_texts)))
    for options in (
        {"token_pattern": r"\b\w+\b", "ngram_range": (1, 2)},
        {"analyzer": "char_wb", "ngram_range": (3, 4)},
    ):
        view = TfidfVectorizer(sublinear_tf=True, **options).fit(train_texts)
        total += view.transform(texts).toarray() @ view.transform(train_texts).toarray().T / 2
    return total


def test_nearest_description_is_the_brute_force_neighbour(dataset):
    labels = dataset.splits["train"].labels
    texts = (*dataset.splits["validation"].texts, *dataset.splits["train"].texts)
    log_marginals, mode, _ = NearestDescription(dataset, seeded(0)).score(of_texts(texts))
    similarity = cosines(dataset.splits["train"].texts, texts)
    for number in range(len(texts)):
        best = similarity[number].max()
        # Texts that are as near have the same words, but perhaps other labels: any of theirs will do.
        nearest = [tuple(labels.row(at)) for at in np.flatnonzero(similarity[number] > best - 1e-6).tolist()]
        assert tuple(np.flatnonzero(mode[number])) in nearest
        for label in range(len(NAMES)):
            having = [similarity[number, at] for at in range(len(labels)) if label in labels.row(at)]
            expected = max([LEAST_PROBABILITY, *having])
            np.testing.assert_allclose(log_marginals[number, label], np.log(expected), rtol=1e-5, atol=1e-6)


def test_of_equally_near_texts_the_first_label_set_wins():
    train_split = records(["same words", "same words", "others"], [PATHS[3], PATHS[1], PATHS[2]])
    dataset = Dataset("words", {"train": train_split}, LabelSpace(NAMES, NAMES), PARENTS, "", {})
    _, mode, _ = NearestDescription(dataset, seeded(0)).score(of_texts(["same words"]))
    assert np.flatnonzero(mode[0]).tolist() == [0, 1, 3]


def test_a_text_like_no_other_gets_the_empty_set(dataset):
    log_marginals, mode, _ = NearestDescription(dataset, seeded(0)).score(of_texts(["zzz", ""]))
    assert not mode.any()
    assert (log_marginals == np.float32(np.log(LEAST_PROBABILITY))).all()


def test_nearest_description_is_coherent(dataset):
    log_marginals, mode, _ = NearestDescription(dataset, seeded(0)).score(dataset.splits["test"])
    children, parents = PARENTS.T
    assert (log_marginals[:, children] <= log_marginals[:, parents]).all()
    assert not (mode[:, children] & ~mode[:, parents]).any()
    assert (log_marginals <= 0).all()


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_blocks_change_nothing(dataset, monkeypatch, rows):
    baseline = NearestDescription(dataset, seeded(0))
    expected = baseline.score(dataset.splits["test"])
    monkeypatch.setattr(mlresearch.baselines, "BLOCK_ROWS", rows)
    [[scores]] = score_records(baseline, dataset, "test", Rules())
    np.testing.assert_array_equal(scores.rows, np.arange(len(expected[0])))
    np.testing.assert_array_equal(scores.log_marginals, expected[0])
    np.testing.assert_array_equal(scores.sets["mode"], expected[1])


def test_one_vs_rest_is_a_logistic_regression_a_label(dataset):
    texts = dataset.splits["test"].texts
    log_marginals, mode, _ = OneVsRest(dataset, seeded(3)).score(of_texts(texts))
    view = TfidfVectorizer(token_pattern=r"\b\w+\b", ngram_range=(1, 2), min_df=2, sublinear_tf=True, dtype=np.float32)
    rows = view.fit_transform(dataset.splits["train"].texts)
    for label in (1, 4):
        positive = dataset.splits["train"].labels.multi_hot(len(NAMES))[:, label]
        own = SGDClassifier(loss="log_loss", alpha=3e-7, max_iter=3, tol=None, random_state=3).fit(rows, positive)
        np.testing.assert_allclose(
            log_marginals[:, label], own.predict_log_proba(view.transform(texts))[:, 1], rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(mode, log_marginals > np.log(0.5))


def test_one_vs_rest_fits_no_label_without_enough_examples_of_either_kind(dataset):
    log_marginals, _, _ = OneVsRest(dataset, seeded(0)).score(dataset.splits["test"])
    # "never" has no positive, "root" no negative.
    np.testing.assert_allclose(log_marginals[:, 5], np.log(LEAST_PROBABILITY), rtol=1e-6)
    np.testing.assert_allclose(log_marginals[:, 0], np.log1p(-LEAST_PROBABILITY), rtol=1e-3)


def test_one_vs_rest_gives_the_same_weights_for_the_same_seed(dataset):
    first, again, other = (OneVsRest(dataset, seeded(seed)).weights for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("name", sorted({*part_names("baseline")} - {"truth"}))
def test_a_baseline_is_recorded_like_a_run(config, run, tmp_path, name):
    record = fit(config, name, tmp_path / name)
    assert record.keys() == run.keys()
    for split, groups in run["metrics"].items():
        assert record["metrics"][split].keys() == groups.keys()
        for group, metrics in groups.items():
            assert record["metrics"][split][group].keys() == metrics.keys()
    assert row(record).keys() == row(run).keys()
    assert row(record)["run"] == name
    for shared in ("data", "label_space", "examples", "seed", "code_hash"):
        assert record[shared] == run[shared]
    # The words name the labels.
    assert record["metrics"]["test"]["mode"]["subset_accuracy"] > 0.2
    for written in (
        "config.json",
        "labels.txt",
        "parents.txt",
        "decisions.json",
        "per_label.csv",
        "predictions_test.npz",
    ):
        assert (tmp_path / name / written).exists()


def test_intervals_come_from_what_is_stored(config, tmp_path):
    record = fit(config, "nearest_description", tmp_path / "run")
    metrics, intervals = run_intervals(tmp_path / "run", "test", 39, 0.95, 0)
    assert metrics == record["metrics"]["test"]
    assert intervals.left_out == {"test.loss.mean": "it is infinite, or there is none"}
    (tmp_path / "run/predictions_test.npz").unlink()
    with pytest.raises(UserError, match="keeps no predictions of test, and no model"):
        run_intervals(tmp_path / "run", "test", 39, 0.95, 0)


def test_a_finished_folder_is_returned_untouched(config, tmp_path, monkeypatch):
    record = fit(config, "nearest_description", tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    monkeypatch.setattr(mlresearch.baselines, "score_records", None)
    assert fit(config, "nearest_description", tmp_path / "run") == json.loads(json.dumps(record))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == before


def test_another_run_in_the_folder_is_refused(config, tmp_path):
    fit(config, "nearest_description", tmp_path / "run")
    with pytest.raises(UserError, match="nearest_description"):
        fit(config, "one_vs_rest", tmp_path / "run")
    with pytest.raises(UserError, match="another config"):
        train(config, tmp_path / "run")


def test_a_misspelt_name_suggests(config, tmp_path):
    with pytest.raises(UserError, match="did you mean 'one_vs_rest'"):
        fit(config, "one_vs_all", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def points(data_dir):
    config = base_config()
    config.data.name = "points"
    config.data.dir = str(data_dir)
    return config


def test_a_data_set_without_texts_is_refused(data_dir, tmp_path):
    with pytest.raises(UserError, match="has none"):
        fit(points(data_dir), "nearest_description", tmp_path / "run")
    with pytest.raises(UserError, match="the truth of 'points' is not known"):
        fit(points(data_dir), "truth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "options", "reference"),
    [
        (ExactLogisticRegression, {"c": 3.0}, LogisticRegression(C=3.0, class_weight="balanced", solver="liblinear")),
        (LinearSvm, {"c": 0.5, "class_weight": "none"}, LinearSVC(C=0.5)),
        (LinearSvm, {"class_weight": "balanced"}, LinearSVC(class_weight="balanced")),
    ],
)
def test_linear_baselines_are_scikit_learn_s_on_scaled_features(data_dir, make, options, reference):
    config = resolve(points(data_dir))
    dataset = load_dataset(config)
    log_marginals, mode, _ = make(dataset, config, **options).score(dataset.splits["test"])
    scaler = StandardScaler()
    rows = scaler.fit_transform(dataset.train.features)
    test_rows = scaler.transform(dataset.splits["test"].features)
    truth = dataset.train.labels.multi_hot(dataset.label_space.num_labels)
    fitted = np.flatnonzero(np.minimum(truth.sum(0), (~truth).sum(0)) >= 1)
    assert len(fitted)
    for label in fitted:
        scores = clone(reference).set_params(random_state=0).fit(rows, truth[:, label]).decision_function(test_rows)
        np.testing.assert_allclose(log_marginals[:, label], -np.log1p(np.exp(-scores)), rtol=2e-3, atol=2e-4)
        np.testing.assert_array_equal(mode[:, label][abs(scores) > 1e-3], (scores > 0)[abs(scores) > 1e-3])


@pytest.mark.parametrize("shape", ["tree", "dag", "flat"])
def test_the_truth_scores_as_it_says(data_dir, shape):
    config = points(data_dir)
    config.data.name = "synthetic/features"
    config.data.synthetic.update({"shape": shape, "num_labels": 7, "num_features": 3, "cardinality": 2.0})
    config.data.synthetic.update({"num_train": 20, "num_validation": 20, "num_test": 30})
    dataset = load_dataset(resolve(config))
    truth, records = Truth.from_json(dataset.truth), dataset.splits["test"]
    answer = TrueDistribution(dataset, config).score(records)
    np.testing.assert_array_equal(answer.log_marginals, truth.log_marginals(records.features).astype(np.float32))
    np.testing.assert_array_equal(answer.mode, truth.mode(records.features))
    np.testing.assert_allclose(answer.dist.log_marginals, answer.log_marginals, rtol=1e-4, atol=1e-5)
    labels = records.labels.multi_hot(7)
    np.testing.assert_allclose(
        answer.dist.log_prob(jnp.asarray(labels)), truth.log_prob(records.features, labels), rtol=1e-4, atol=1e-4
    )
    [[scores]] = score_records(TrueDistribution(dataset, config), dataset, "test", Rules(most=7))
    np.testing.assert_array_equal(scores.sets["expected_f1"], largest_expected_f1(answer.dist, 7))


def test_a_baseline_is_trained_from_the_command_line(data_dir, tmp_path, capsys, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text(
        "from mlresearch.config import base_config\ndef get_config():\n    config = base_config()\n"
        f"    config.data.name, config.data.dir = 'points', {str(data_dir)!r}\n    return config\n"
    )
    command = ["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    options = ["--config.baseline.name=linear_svm", "--config.baseline.linear_svm.c=0.1"]
    assert main([*command, *options]) == 0
    assert "linear_svm" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["baseline"] == {"name": "linear_svm", "linear_svm": {"c": 0.1, "class_weight": "none"}}
    assert main([*command, *options]) == 0
    assert "was finished before" in capsys.readouterr().err
    assert main([*command, "--config.baseline.linear_svm.c=0.1"]) == 2
    assert "config.baseline.name" in capsys.readouterr().err
