"""Numbers behind figures, against scikit-learn and plain loops."""

import itertools

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve
from small_scores import scored_split

from mlresearch.decisions import Half
from mlresearch.figures import attention, calibration, cooccurrence, label_f1, learning, style, thresholds
from mlresearch.figures import metrics as metrics_figure
from mlresearch.figures import precision_recall as curves
from mlresearch.metrics import NUM_BINS


def made_up(seed=0, examples=40, num_labels=7, unknown=True):
    """Scores with ties, truths, and whether these are known; the last label is never on."""
    rng = np.random.default_rng(seed)
    probs = rng.integers(1, 20, (examples, num_labels)) / 20
    labels = rng.random(probs.shape) < probs
    labels[:, -1] = False
    known = rng.random(probs.shape) < 0.8 if unknown else np.ones(probs.shape, bool)
    scores = np.log(probs).astype(np.float32)
    return scores, labels & known, known, scored_split(scores[None], labels[None], labels, known)


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_is_that_of_scikit_learn_at_its_corners(seed):
    scores, labels, known, scored = made_up(seed)
    curve = curves.micro_curve(scored)
    precision, recall, _ = precision_recall_curve(labels[known], scores[known])
    best = {}
    for at, value in zip(recall.tolist(), precision.tolist(), strict=True):
        if at:
            best[at] = max(value, best.get(at, 0.0))
    assert curve.recall.tolist() == pytest.approx(sorted(best))
    assert curve.precision.tolist() == pytest.approx([best[at] for at in sorted(best)])
    assert curve.average_precision == pytest.approx(average_precision_score(labels[known], scores[known]))


def test_a_split_without_positives_has_no_curve():
    scores, labels, *_ = made_up()
    assert not len(curves.micro_curve(scored_split(scores[None], labels[None], np.zeros_like(labels))).recall)


@pytest.mark.parametrize("seed", range(3))
def test_reliability_is_that_of_scikit_learn(seed):
    scores, labels, known, scored = made_up(seed, unknown=seed > 0)
    found = calibration.reliability(scored)
    on, predicted = calibration_curve(labels[known], np.exp(scores[known]).astype(np.float64), n_bins=NUM_BINS)
    there = found.counts > 0
    np.testing.assert_allclose(found.observed[there], on)
    np.testing.assert_allclose(found.predicted[there], predicted)
    assert found.counts.sum() == known.sum()


def test_f1_of_labels_and_by_threshold_is_that_of_scikit_learn():
    scores, labels, known, scored = made_up()
    found = label_f1.label_f1(scored, Half())
    by_label = [
        f1_score(labels[known[:, at], at], np.exp(scores[known[:, at], at]) > 0.5, zero_division=0)
        for at in range(labels.shape[1])
    ]
    np.testing.assert_allclose(found[:-1], by_label[:-1])
    assert np.isnan(found[-1])  # never on

    grid = (0.11, 0.33, 0.72)
    lines = thresholds.f1_by_threshold(scored, 0.33, grid)
    for at, threshold in enumerate(grid):
        passing = (np.exp(scores) > threshold) & known
        assert lines.micro_f1[at] == pytest.approx(f1_score(labels, passing, average="micro"))
        assert lines.macro_f1[at] == pytest.approx(f1_score(labels[:, :-1], passing[:, :-1], average="macro"))


def test_labels_together_by_loops_and_their_correlation():
    scores, labels, known, scored = made_up()
    chosen = np.array([4, 0, 2])
    data, model = cooccurrence.count_together(scored, Half(), chosen)
    predicted = np.exp(scores) > 0.5
    for (one, first), (other, second) in itertools.product(enumerate(chosen), repeat=2):
        both = known[:, first] & known[:, second]
        assert data[one, other] == (labels[:, first] & labels[:, second]).sum()
        assert model[one, other] == (predicted[:, first] & predicted[:, second] & both).sum()
    found = cooccurrence.correlations(data, len(labels))
    np.testing.assert_allclose(found, np.corrcoef(labels[:, chosen].T.astype(float)), atol=1e-12)


def test_running_medians_by_a_loop():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 12, 30), rng.random(30)
    order = np.argsort(x, kind="stable")
    by_x = {}
    for at in range(24):
        by_x.setdefault(np.median(x[order[at : at + 7]]), []).append(np.median(y[order[at : at + 7]]))
    of_x, of_y = label_f1.running_median(x, y, 7)
    assert of_x.tolist() == sorted(by_x)
    assert of_y.tolist() == pytest.approx([np.mean(by_x[at]) for at in sorted(by_x)])


def test_bands_go_as_far_as_most_runs():
    found = learning.band([{1.0: 2.0, 2.0: 4.0, 3.0: 1.0}, {1.0: 4.0, 2.0: 5.0}, {1.0: 9.0}])
    assert found.epochs.tolist() == [1, 2]  # the third epoch is of one run of three
    assert found.mean.tolist() == [5, 4.5]
    assert (found.low.tolist(), found.high.tolist()) == ([2, 4], [9, 5])


def test_a_log_is_read_by_name_and_epoch(tmp_path):
    (tmp_path / "log").write_text(
        '{"step": 4, "epoch": 0.5, "train_loss": 3.0, "gradient_norm": 1.0}\n'
        '{"step": 8, "epoch": 1.0, "validation": {"mode.micro_f1": 0.25, "loss.mean": null}}\n'
        '{"step": 8, "epoch": 1.0, "train_loss": NaN}\n'
    )
    assert learning.read_log(tmp_path / "log") == {"train_loss": {0.5: 3.0}, "validation.mode.micro_f1": {1.0: 0.25}}


def test_a_logarithmic_axis_has_several_numbers():
    """On 3 to 70 the powers of ten are one."""
    figure = learning.draw_learning(
        {"train_loss": {"row": learning.band([{1.0: 70.0, 2.0: 9.0, 3.0: 3.0}])}}, "title", ["row"]
    )
    axes = figure.axes[0]
    low, high = axes.get_ylim()
    assert axes.get_yscale() == "log"
    told = [tick for tick in axes.get_yticks() if low <= tick <= high and axes.yaxis.get_major_formatter()(tick, 0)]
    assert told == pytest.approx([5, 10, 20, 50])


def test_thinned_curves_keep_their_ends_and_their_shape():
    x = np.sort(np.random.default_rng(0).random(5000))
    y = np.where(x < 0.5, 0.0, np.sin(40 * x))
    kept = style.thin(x, y, 300)
    assert 100 < len(kept) <= 300
    assert (kept[0], kept[-1]) == (0, 4999)
    assert (np.diff(kept) > 0).all()
    length = 1 + np.abs(np.diff(y)).sum() / np.ptp(y)
    assert np.abs(np.interp(x, x[kept], y[kept]) - y).max() < np.ptp(y) * length / 149  # the length between two
    assert style.thin(x[:5], y[:5]).tolist() == [0, 1, 2, 3, 4]


def test_pieces_fill_lines_in_order_without_meeting():
    pieces = ["▁a", "bc", "▁defg", "h", "▁ij"]
    assert attention.placed(pieces, 7) == [(0, 0), (0, 2), (1, 0), (1, 5), (2, 0)]


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["flat, dependence 0", "flat, dependence 4"], "flat"),
        (["tree, dependence 1", "tree, dependence 10"], "tree"),
        (["a", "b"], "a"),
        (["dependence=1"], "dependence=1"),
    ],
)
def test_what_names_of_data_sets_share(names, shared):
    assert metrics_figure.common_title(names, "dependence") == shared
