"""Runs that are calibrated, by themselves and together, loaded again and refused."""

import html
import json

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import expit
from sklearn.metrics import log_loss
from small_runs import make_config, on_points, parameters

import mlresearch
from mlresearch import workdir
from mlresearch.baselines import train_baseline
from mlresearch.calibration import Method
from mlresearch.config import base_config, check_acting, resolve
from mlresearch.ensemble import evaluate_ensemble
from mlresearch.errors import UserError
from mlresearch.f_measure import largest_expected_f1
from mlresearch.heads.independent import ProductOfBernoullis
from mlresearch.inputs import load_dataset
from mlresearch.intervals import run_intervals
from mlresearch.label_space import LabelSets
from mlresearch.logspace import log_odds
from mlresearch.report.page import render
from mlresearch.report.run import gather, run_page
from mlresearch.train import train, train_replicas


def overfitted(data_dir, kind, place="marginals", **settings):
    """A config that makes a model too sure of itself: 150 examples drawn from a distribution, learnt by heart."""
    config = base_config()
    config.data.name, config.data.dir = "synthetic/features", str(data_dir)
    config.data.synthetic.num_labels, config.data.synthetic.cardinality = 8, 2.5
    config.data.synthetic.num_train = 150
    config.data.synthetic.num_validation = config.data.synthetic.num_test = 300
    config.encoder.name = "mlp"
    config.encoder.mlp.dim, config.encoder.mlp.dropout = 32, 0.0
    config.head.name = "conditional"
    config.optim.learning_rate, config.optim.weight_decay = 0.03, 0.0
    config.train.num_epochs, config.train.batch_size = 15.0, 50
    config.evaluate.batch_size = 127  # which no number of devices divides: a run that is loaded rounds as it did
    config.evaluate.calibration, config.evaluate.calibration_of = kind, place
    config.parallel.num_devices = 1
    config.update_from_flattened_dict(settings)
    return config


KINDS = [("platt", "marginals"), ("isotonic", "marginals"), ("platt", "scores")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, data_dir):
    """A run without calibration."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, train(overfitted(data_dir, ""), folder)


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def calibrated(request, tmp_path_factory, data_dir):
    """The same run calibrated."""
    folder = tmp_path_factory.mktemp("calibrated")
    return folder, train(overfitted(data_dir, *request.param), folder), *request.param


def predictions(folder, split):
    with np.load(folder / f"predictions_{split}.npz") as stored:
        return dict(stored)


def test_a_run_that_is_too_sure_is_less_so_on_data_it_never_saw(plain, calibrated):
    folder, record, kind, place = calibrated
    found = record["calibration"]
    assert (found["kind"], found["of"]) == (kind, place)
    for split in ("validation", "test"):
        assert found[split]["after"] < 0.9 * found[split]["before"]
    dataset = load_dataset(workdir.read_config(folder))
    on = dataset.splits["test"].labels.multi_hot(8)
    for said, of in (("before", plain[0]), ("after", folder)):
        log_marginals = predictions(of, "test")["log_marginals"].astype(np.float64)
        log_odds = np.clip(log_marginals - np.log(-np.expm1(np.minimum(log_marginals, -1e-40))), -80, 80)
        assert found["test"][said] == pytest.approx(8 * log_loss(on.ravel(), expit(log_odds.ravel())), rel=1e-4)
    log_marginals, hierarchy = predictions(folder, "test")["log_marginals"], dataset.hierarchy
    assert (log_marginals[:, hierarchy.children] <= log_marginals[:, hierarchy.parents]).all()


def test_what_was_fitted_is_read_back_and_says_the_same(calibrated):
    folder, record, _, _ = calibrated
    run = mlresearch.load(str(folder))
    for split in ("validation", "test"):
        assert run.evaluate(split) == record["metrics"][split]
    fitted_on = json.loads((folder / "calibration.json").read_text())["fitted_on"]
    assert fitted_on == run.decisions["label_thresholds"].fitted_on
    assert fitted_on.endswith("/validation")
    dataset = load_dataset(run.config)
    columns = run.preprocessing.columns.feature_names
    inputs = [{"features": dict(zip(columns, row.tolist(), strict=True))} for row in dataset.splits["test"].features]
    found = np.array([[label.probability for label in row] for row in run.predict(inputs, min_probability=0.0)])
    np.testing.assert_allclose(found, np.exp(predictions(folder, "test")["log_marginals"]), rtol=1e-5)
    (folder / "calibration.json").rename(folder / "elsewhere.json")
    with pytest.raises(UserError, match=r"no calibration\.json"):
        mlresearch.load(str(folder))
    (folder / "elsewhere.json").rename(folder / "calibration.json")


def test_maps_of_marginals_leave_the_distribution_and_training_alone(plain, calibrated):
    folder, record, _, place = calibrated
    for one, other in zip(parameters(folder), parameters(plain[0]), strict=True):
        np.testing.assert_array_equal(one, other)
    same = record["metrics"]["test"]["mode"] == plain[1]["metrics"]["test"]["mode"]
    same_loss = record["metrics"]["test"]["loss"] == plain[1]["metrics"]["test"]["loss"]
    if place == "scores":
        assert not same_loss
        assert record["metrics"]["test"]["loss"]["mean"] < plain[1]["metrics"]["test"]["loss"]["mean"]
        return
    assert same
    assert same_loss
    own, said = workdir.read_calibration(folder, workdir.read_config(folder)), predictions(plain[0], "test")
    np.testing.assert_array_equal(predictions(folder, "test")["log_marginals"], own(said["log_marginals"]))


def test_intervals_are_the_same_of_what_is_scored_anew(calibrated):
    folder, record, _, _ = calibrated
    metrics, stored = run_intervals(folder, "test", 39, 0.95, 0)
    assert metrics == record["metrics"]["test"]
    (folder / "predictions_test.npz").rename(folder / "elsewhere.npz")
    _, anew = run_intervals(folder, "test", 39, 0.95, 0)
    (folder / "elsewhere.npz").rename(folder / "predictions_test.npz")
    assert not anew.left_out
    assert anew == stored


def test_without_calibration_there_is_none(plain):
    folder, record = plain
    assert "calibration" not in (folder / "MODEL_CARD.md").read_text().replace("calibration_error", "")
    assert "calibration" not in record
    assert not (folder / "calibration.json").exists()
    assert mlresearch.load(str(folder)).calibration is None
    before = json.loads((folder / "config.json").read_text())
    del before["evaluate"]["calibration"], before["evaluate"]["calibration_of"]  # as the code before had it
    assert workdir.read_calibration(folder, ConfigDict(before)) is None


def test_card_and_page_tell_of_calibration(calibrated):
    folder, record, kind, place = calibrated
    page = html.unescape(render(run_page(gather(folder, "test"))))
    for text in ((folder / "MODEL_CARD.md").read_text(), page):
        assert f"{kind} of {place}, fitted on validation" in text
        for split in ("validation", "test"):
            before, after = (record["calibration"][split][when] for when in ("before", "after"))
            assert f"{split} {before:.4g} → {after:.4g}" in text
    assert "what was fitted to it: thresholds, calibration." in (folder / "MODEL_CARD.md").read_text()


def test_a_refit_keeps_what_was_fitted_before_it(tmp_path, data_dir):
    """On validation the calibration is the one without a refit, and on test it acts on the refitted model."""
    settings = {"train.refit": True, "train.num_epochs": 4.0}
    alone = train(overfitted(data_dir, "platt", "scores", **settings | {"train.refit": False}), tmp_path / "alone")
    record = train(overfitted(data_dir, "platt", "scores", **settings), tmp_path / "refit")
    files = [json.loads((tmp_path / of / "calibration.json").read_text()) for of in ("alone", "refit")]
    assert files[0] == files[1]
    assert record["calibration"]["validation"] == alone["calibration"]["validation"]
    assert record["calibration"]["test"] != alone["calibration"]["test"]
    run = mlresearch.load(str(tmp_path / "refit"))
    assert run.evaluate("test") == record["metrics"]["test"]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory, data_dir):
    """Two seeds in one program, their scores calibrated, and the second of them alone."""
    folder = tmp_path_factory.mktemp("replicas")
    config = on_points(make_config(data_dir))
    config.evaluate.calibration, config.evaluate.calibration_of = "platt", "scores"
    config.evaluate.predictions = True
    config.train.replicas = 2
    records = train_replicas(config, folder)
    config.train.replicas, config.seed = 1, 1
    return folder, records, config


def test_each_replica_has_its_own_calibration(replicas, tmp_path):
    folder, records, config = replicas
    alone = train(config, tmp_path)
    found = [
        json.loads((of / "calibration.json").read_text()) for of in (folder / "seed_0", folder / "seed_1", tmp_path)
    ]
    np.testing.assert_allclose(found[1]["scale"], found[2]["scale"], rtol=1e-2)
    np.testing.assert_allclose(found[1]["shift"], found[2]["shift"], atol=1e-2)
    assert np.abs(np.subtract(found[0]["shift"], found[1]["shift"])).max() > 0.03
    for record, other in ((records[1], alone), (records[1], records[1])):
        assert record["calibration"]["test"]["after"] == pytest.approx(other["calibration"]["test"]["after"], rel=1e-3)


def test_pmap_calibrates_as_jit_does(replicas, tmp_path):
    _, records, config = replicas
    config = config.copy_and_resolve_references()
    config.parallel.mode, config.parallel.num_devices = "pmap", 2
    record = train(config, tmp_path)
    assert record["calibration"]["test"]["after"] == pytest.approx(records[1]["calibration"]["test"]["after"], rel=1e-2)


def test_an_ensemble_of_a_run_with_itself_is_that_run(calibrated, tmp_path):
    """Calibrated by its members' scores, or by its own marginals, which are fitted anew."""
    folder, record, _, place = calibrated
    made = evaluate_ensemble([folder, folder], workdir.read_config(folder), tmp_path / "ensemble")
    assert (tmp_path / "ensemble" / "calibration.json").exists() == ("calibration" in made) == (place == "marginals")
    card = (tmp_path / "ensemble" / "MODEL_CARD.md").read_text()
    assert ("Calibration**: of each member's scores" in card) == (place == "scores")
    if place == "marginals":
        for split in ("validation", "test"):
            assert made["calibration"][split] == pytest.approx(record["calibration"][split], rel=1e-3)
    stored = [np.exp(predictions(of, "test")["log_marginals"]) for of in (folder, tmp_path / "ensemble")]
    assert np.abs(stored[0] - stored[1]).mean() < 1e-4


def test_support_vectors_are_calibrated_as_by_platt(tmp_path, data_dir):
    """A baseline has marginals alone, those of an SVM's distances from the margin."""
    config = on_points(make_config(data_dir))
    config.baseline.name = "linear_svm"
    config.evaluate.calibration = "platt"
    config.evaluate.expected_f1_labels = 3
    config.evaluate.predictions = True
    record = train_baseline(resolve(config), tmp_path)
    assert record["calibration"]["test"]["after"] < record["calibration"]["test"]["before"]
    assert json.loads((tmp_path / "calibration.json").read_text())["slope"] > 1
    stored = predictions(tmp_path, "test")
    best = largest_expected_f1(ProductOfBernoullis(log_odds(jnp.asarray(stored["log_marginals"]))), 3)
    sizes = np.diff(stored["expected_f1_offsets"])
    chosen = np.zeros_like(best)
    chosen[np.repeat(np.arange(len(best)), sizes), stored["expected_f1_ids"]] = True
    np.testing.assert_array_equal(chosen, best)
    config.evaluate.calibration_of = "scores"
    with pytest.raises(UserError, match="the baseline 'linear_svm' has no head"):
        resolve(config)


def refused(data_dir, message, **settings):
    config = on_points(make_config(data_dir))
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in settings.items()})
    with pytest.raises(UserError, match=message):
        resolve(config)


def test_what_cannot_be_calibrated_is_refused_by_name(data_dir, tmp_path):
    refused(data_dir, "calibration is 'plat'.*'platt'", evaluate__calibration="plat")
    refused(data_dir, "calibration_of is 'score'.*'scores'", evaluate__calibration_of="score")
    of_scores = {"evaluate__calibration_of": "scores"}
    refused(data_dir, "'isotonic' is a map of marginals", evaluate__calibration="isotonic", **of_scores)
    of_scores |= {"evaluate__calibration": "platt"}
    refused(data_dir, "head 'chain'.*set it to 'marginals'", head__name="chain", decoder__name="causal", **of_scores)
    config = on_points(make_config(data_dir))
    with pytest.raises(UserError, match="calibration is empty"):
        check_acting(config, ["evaluate.calibration_of"])
    soft = LabelSets.from_rows([[0]], [[0.4]])
    with pytest.raises(UserError, match="soft"):
        Method("platt").check(soft)
    Method("platt", "scores").check(soft)
    Method("").check(soft)


def test_known_labels_condition_what_is_calibrated(replicas):
    """Of independent labels the others do not change, and keep their calibrated probabilities."""
    run = mlresearch.load(str(replicas[0] / "seed_0"))
    [free], [given] = (
        run.predict([{"features": {"x": 0.4, "y": -1.0}}], min_probability=0.0, known=known)
        for known in (None, {"right": 1})
    )
    assert given[0].probability == 1
    assert [label.probability for label in given[1:]] == pytest.approx([label.probability for label in free[1:]])
