import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    coverage_error,
    hamming_loss,
    label_ranking_average_precision_score,
    label_ranking_loss,
    ndcg_score,
    precision_recall_fscore_support,
)
from small_scores import label_metrics, ranking_metrics, ranks_of, split_metrics

from mlresearch.errors import UserError
from mlresearch.metrics import ExampleRanks, LabelCounts, Positives, Ranks

# Both sides add the same float64 ratios in another order; no sum here has more than a few hundred terms.
TOLERANCE = 1e-12
# On the device example-wise ratios and their sums are float32: n roundings of 2⁻²⁴ relative to the sum.
DEVICE_TOLERANCE = 1e-6

NAMES = ("precision", "recall", "f1")


def densities_of_rows_or_columns(rng, cases: int, shape: tuple[int, int]):
    """Return [cases, *shape] probabilities that vary by row or by column, 0 and 1 among them."""
    densities = np.array([0.0, 0.1, 0.3, 0.5, 0.9, 1.0])
    by_row = rng.choice(densities, (cases, shape[0], 1))
    by_column = rng.choice(densities, (cases, 1, shape[1]))
    return np.where(rng.random((cases, 1, 1)) < 0.5, by_row, by_column)


def random_cases(seed: int, cases: int):
    """Yield (labels, preds, scores), empty to full, single labels among them; every other one has ties."""
    rng = np.random.default_rng(seed)
    for case in range(cases):
        shape = (30, 11) if case % 50 == 0 else tuple(rng.integers(1, [9, 7]))
        labels, preds = rng.random((2, *shape)) < densities_of_rows_or_columns(rng, 2, shape)
        scores = np.log(rng.uniform(0.01, 1, shape)).astype(np.float32)
        if case % 2:
            scores = np.round(scores)  # five or six values: most cells are tied
        yield labels, preds, scores


def sklearn_label_metrics(labels, preds):
    num_labels = labels.shape[1]
    expected = {"hamming_loss": hamming_loss(labels, preds), "subset_accuracy": accuracy_score(labels, preds)}
    if num_labels == 1:  # scikit-learn reads one column as two classes; `labels=` below ignores the second column
        labels, preds = (np.pad(cells, [(0, 0), (0, 1)]) for cells in (labels, preds))

    def add(pattern, average, columns, zero_division=0):
        values = precision_recall_fscore_support(
            labels, preds, labels=columns, average=average, zero_division=zero_division
        )
        expected.update({pattern.format(name): value for name, value in zip(NAMES, values[:3], strict=True)})

    everything = np.arange(num_labels)
    add("micro_{}", "micro", everything)
    add("macro_{}", "macro", everything)
    add("weighted_{}", "weighted", everything)
    add("example_{}", "samples", everything, zero_division=1)
    example_f1 = expected["example_f1"]
    add("example_{}", "samples", everything)
    expected["example_f1"] = example_f1
    present = np.flatnonzero(labels.any(axis=0))
    if len(present):
        add("macro_{}_present", "macro", present)
    else:
        expected.update({f"macro_{name}_present": 0.0 for name in NAMES})
    return expected


def test_label_metrics_equal_scikit_learn():
    seen = {"empty row": 0, "absent label": 0, "nothing predicted": 0, "all predicted": 0, "one label": 0}
    for labels, preds, _ in random_cases(1, 200):
        actual = label_metrics(preds, labels, None)
        expected = sklearn_label_metrics(labels, preds)
        assert {name: actual[name] for name in expected} == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)
        assert actual["label_cardinality"] == pytest.approx(np.mean([row.sum() for row in labels]), rel=TOLERANCE)
        assert actual["predicted_cardinality"] == pytest.approx(np.mean([row.sum() for row in preds]), rel=TOLERANCE)
        assert actual["num_labels_absent"] == sum(not column.any() for column in labels.T)
        assert actual["num_examples"] == len(labels)
        seen["empty row"] += not labels.any(axis=1).all()
        seen["absent label"] += not labels.any(axis=0).all()
        seen["nothing predicted"] += not preds.any()
        seen["all predicted"] += bool(preds.all())
        seen["one label"] += labels.shape[1] == 1
    assert min(seen.values()) >= 10, seen


def test_label_metrics_of_thousands_of_cases_equal_scikit_learn():
    # One call of scikit-learn judges many cases of one shape: with whole cases, examples or labels
    # as its columns, `average=None` gives the micro, the example-wise and the label-wise values.
    rng = np.random.default_rng(6)
    for shape in [(1, 1), (1, 5), (7, 1), (2, 2), (3, 4), (5, 3), (8, 6), (12, 5)]:
        labels, preds = (rng.random((300, *shape)) < densities_of_rows_or_columns(rng, 300, shape) for _ in "ab")

        def judged(columns, zero_division, labels=labels, preds=preds):
            rows = [axis for axis in range(3) if axis not in columns]
            width = math.prod(labels.shape[axis] for axis in columns)
            values = precision_recall_fscore_support(
                *(cells.transpose(rows + columns).reshape(-1, width) for cells in (labels, preds)),
                average=None,
                zero_division=zero_division,
            )
            return dict(zip(NAMES, (value.reshape(300, -1) for value in values[:3]), strict=True))

        by_case, by_label = judged([0], 0), judged([0, 2], 0)
        by_example = judged([0, 1], 0) | {"f1": judged([0, 1], 1)["f1"]}
        weights = labels.sum(axis=1)
        for case in range(300):
            actual = label_metrics(preds[case], labels[case], None)
            expected = {}
            for name in NAMES:
                expected[f"micro_{name}"] = by_case[name][case, 0]
                expected[f"macro_{name}"] = by_label[name][case].mean()
                expected[f"example_{name}"] = by_example[name][case].mean()
                expected[f"weighted_{name}"] = 0.0
                if weights[case].any():
                    expected[f"weighted_{name}"] = np.average(by_label[name][case], weights=weights[case])
            assert {name: actual[name] for name in expected} == pytest.approx(expected, rel=TOLERANCE)


def test_average_precision_equals_scikit_learn():
    seen = {"nothing true": 0, "absent label": 0, "ties": 0, "by scikit-learn alone": 0}
    for labels, _, scores in random_cases(2, 600):
        actual = ranking_metrics(scores, labels)
        present = labels.any(axis=0)
        micro = macro = weighted = 0.0
        if present.any():
            micro = average_precision_score(labels, scores, average="micro")
            columns = zip(labels.T[present], scores.T[present], strict=True)
            by_label = [average_precision_score(*column) for column in columns]
            macro, weighted = np.mean(by_label), np.average(by_label, weights=labels.sum(axis=0)[present])
        assert actual["micro_average_precision"] == pytest.approx(micro, rel=TOLERANCE)
        assert actual["macro_average_precision"] == pytest.approx(macro, rel=TOLERANCE)
        assert actual["weighted_average_precision"] == pytest.approx(weighted, rel=TOLERANCE)
        if present.all() and labels.shape[1] > 1:
            assert average_precision_score(labels, scores, average="weighted") == pytest.approx(weighted, rel=TOLERANCE)
            seen["by scikit-learn alone"] += 1
        seen["nothing true"] += not labels.any()
        seen["absent label"] += not present.all()
        seen["ties"] += len(np.unique(scores)) < scores.size
    assert min(seen.values()) >= 10, seen


def test_precision_at_k_takes_the_first_of_equal_scores():
    for number, (labels, _, scores) in enumerate(random_cases(3, 1_000)):
        if number % 3 == 0:
            scores = np.where(scores < -1, -np.inf, np.where(scores > -0.5, -0.0, scores)).astype(np.float32)
            scores[:, ::2] += 0.0  # zeros of both signs are equal
        actual = ranking_metrics(scores, labels)
        for k in (1, 3, 5):
            if k > labels.shape[1]:
                assert f"precision_at_{k}" not in actual
                continue
            shares = [
                sum(row_labels[at] for at in sorted(range(len(row)), key=lambda at: (-row[at], at))[:k]) / k
                for row, row_labels in zip(scores.tolist(), labels.tolist(), strict=True)
            ]
            assert actual[f"precision_at_{k}"] == pytest.approx(np.mean(shares), rel=TOLERANCE)


def test_rankings_of_examples_equal_scikit_learn():
    seen = {"nothing true": 0, "ties": 0}
    for labels, _, scores in random_cases(4, 500):
        if labels.shape[1] == 1:
            continue  # scikit-learn reads one column as two classes
        actual = ranking_metrics(scores, labels)
        average_precision = label_ranking_average_precision_score(labels, scores)
        assert actual["label_ranking_average_precision"] == pytest.approx(average_precision, rel=TOLERANCE)
        assert actual["coverage_error"] == pytest.approx(coverage_error(labels, scores), rel=TOLERANCE)
        assert actual["ranking_loss"] == pytest.approx(label_ranking_loss(labels, scores), rel=TOLERANCE)
        some = labels.any(axis=1)
        # Equal scores moved apart by so little that nothing else changes its place: the first label goes first.
        apart = scores.astype(np.float64) - 1e-9 * np.arange(labels.shape[1])
        for k in (1, 3, 5):
            if k <= labels.shape[1] and some.any():
                expected = ndcg_score(labels[some], apart[some], k=k)
                assert actual[f"ndcg_at_{k}"] == pytest.approx(expected, rel=TOLERANCE)
        shares = [
            row[np.argsort(-by, kind="stable")[: row.sum()]].mean()
            for row, by in zip(labels[some], apart[some], strict=True)
        ]
        if shares:
            assert actual["r_precision"] == pytest.approx(np.mean(shares), rel=TOLERANCE)
        else:
            assert "r_precision" not in actual
        seen["nothing true"] += not some.all()
        seen["ties"] += len(np.unique(scores)) < scores.size
    assert min(seen.values()) >= 10, seen


def test_hand_worked_example():
    # Labels a, b, c with b a child of a.      true    predicted
    #   example 0                              a b     a            1 hit, 0 false, 1 missed
    #   example 1                              a c     b c          1 hit, 1 false, 1 missed; b without a
    #   example 2                              –       –            nothing true, nothing predicted
    #   example 3                              a       a b          1 hit, 1 false, 0 missed
    labels = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    preds = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0]], bool)
    # Scores in the order of labels; example 2 ties all three.
    scores = np.log(np.array([[0.9, 0.4, 0.2], [0.3, 0.6, 0.8], [0.1, 0.1, 0.1], [0.7, 0.5, 0.2]], np.float32))
    metrics = split_metrics(scores, preds, labels, (np.array([1]), np.array([0])))
    expected = {
        "num_examples": 4,
        "num_labels_absent": 0,
        "label_cardinality": 5 / 4,
        "predicted_cardinality": 5 / 4,
        # Wrong cells: 1 + 2 + 0 + 1 of 12. Only example 2 is right as a whole.
        "hamming_loss": 4 / 12,
        "subset_accuracy": 1 / 4,
        "violation_rate": 1 / 4,
        # Over all cells TP = 3, FP = 2, FN = 2.
        "micro_precision": 3 / 5,
        "micro_recall": 3 / 5,
        "micro_f1": 6 / 10,
        # a: TP 2, FP 0, FN 1. b: TP 0, FP 2, FN 1. c: TP 1, FP 0, FN 0.
        "macro_precision": (1 + 0 + 1) / 3,
        "macro_recall": (2 / 3 + 0 + 1) / 3,
        "macro_f1": (4 / 5 + 0 + 1) / 3,
        "macro_precision_present": (1 + 0 + 1) / 3,
        "macro_recall_present": (2 / 3 + 0 + 1) / 3,
        "macro_f1_present": (4 / 5 + 0 + 1) / 3,
        # Weights are the positives: a 3, b 1, c 1.
        "weighted_precision": (3 * 1 + 0 + 1) / 5,
        "weighted_recall": (3 * 2 / 3 + 0 + 1) / 5,
        "weighted_f1": (3 * 4 / 5 + 0 + 1) / 5,
        # By example; the empty one has F1 1 and, by zero_division 0, precision and recall 0.
        "example_precision": (1 + 1 / 2 + 0 + 1 / 2) / 4,
        "example_recall": (1 / 2 + 1 / 2 + 0 + 1) / 4,
        "example_f1": (2 / 3 + 2 / 4 + 1 + 2 / 3) / 4,
        # All cells by score: .9 T, .8 T, .7 T, .6 F, .5 F, .4 T, .3 T, …; precisions 1, 1, 1, 4/6, 5/7.
        "micro_average_precision": (1 + 1 + 1 + 4 / 6 + 5 / 7) / 5,
        # a: .9 T, .7 T, .3 T, .1 F → 1. b: .6 F, .5 F, .4 T, .1 F → 1/3. c: .8 T, … → 1.
        "macro_average_precision": (1 + 1 / 3 + 1) / 3,
        "weighted_average_precision": (3 * 1 + 1 / 3 + 1) / 5,
        # First: a hits, c hits, a misses, a hits. All three labels: 2 + 2 + 0 + 1 hits.
        "precision_at_1": 3 / 4,
        "precision_at_3": 5 / 12,
        # Places of true labels: a 1 and b 2; c 1 and a 3; a 1. Examples with a true label: 0, 1 and 3.
        "ndcg_at_1": 1,
        "ndcg_at_3": (1 + (1 + 1 / 2) / (1 + 1 / math.log2(3)) + 1) / 3,
        "r_precision": (1 + 1 / 2 + 1) / 3,
        # Shares of true ones among those no lower: 1, 1; 1, 2/3; 1; and 1 where nothing is true.
        "label_ranking_average_precision": (1 + (1 + 2 / 3) / 2 + 1 + 1) / 4,
        "coverage_error": (2 + 3 + 0 + 1) / 4,
        # Pairs in the wrong order: none of 2; a below b of 2; none of 2.
        "ranking_loss": (0 + 1 / 2 + 0 + 0) / 4,
    }
    assert metrics == pytest.approx(expected, rel=TOLERANCE)


@st.composite
def batches(draw, num_labels=None):
    """Draw (labels, preds, scores) of one shape; scores take few values, −∞ among them."""
    shape = (draw(st.integers(1, 16)), num_labels or draw(st.integers(1, 6)))
    cells = hnp.arrays(bool, shape)
    scores = hnp.arrays(np.float32, shape, elements=st.sampled_from([-np.inf, -8.0, -2.0, -0.5, -0.25, 0.0]))
    return draw(cells), draw(cells), draw(scores)


@given(batch=batches(), cuts=st.lists(st.integers(0, 16), max_size=4), data=st.data())
def test_any_split_into_batches_gives_the_same(batch, cuts, data):
    labels, preds, scores = batch
    edges = (np.array([labels.shape[1] - 1]), np.array([0]))
    mask = data.draw(hnp.arrays(bool, len(labels)).filter(np.any))
    bounds = [0, *sorted(min(cut, len(labels)) for cut in cuts), len(labels)]
    parts = [slice(start, stop) for start, stop in itertools.pairwise(bounds)]

    whole = LabelCounts.of(preds, labels, mask, edges)
    states = [LabelCounts.of(preds[part], labels[part], mask[part], edges) for part in parts]
    left = right = LabelCounts.zeros(labels.shape[1])
    for state in states:
        left = left.merge(state)
    for state in reversed(states):
        right = state.merge(right)
    for merged in (left, right):
        for field, (actual, expected) in enumerate(zip(jax.tree.leaves(merged), jax.tree.leaves(whole), strict=True)):
            tolerance = TOLERANCE if field >= 8 else 0  # the last three are sums of ratios, the others counts
            np.testing.assert_allclose(actual, expected, rtol=tolerance)

    parts = [part for part in parts if part.start < part.stop]
    tops = [ExampleRanks.of(scores[part], labels[part]) for part in parts]
    kept = functools.reduce(Positives.merge, [Positives.of(scores[part], labels[part]) for part in parts])
    ranks = [Ranks.of(kept, scores[part], labels[part]) for part in reversed(parts)]
    merged = functools.reduce(ExampleRanks.merge, tops).compute() | functools.reduce(Ranks.merge, ranks).compute()
    assert merged == pytest.approx(ranking_metrics(scores, labels), rel=TOLERANCE)


@jax.jit
def count_on_device(preds, labels, mask, edges):
    return LabelCounts.of(preds, labels, mask, edges)


@given(batch=batches(num_labels=5), rubbish=hnp.arrays(bool, (2, 16, 5)), data=st.data())
def test_padding_rows_change_nothing(batch, rubbish, data):
    labels, preds, _ = batch
    edges = np.array([1, 2, 4], np.int32), np.array([0, 0, 3], np.int32)
    expected = label_metrics(preds, labels, edges)

    at = np.sort(data.draw(st.permutations(range(16)))[: len(labels)])
    mask = np.zeros(16, bool)
    mask[at] = True
    padded_labels, padded_preds = rubbish.copy()
    padded_labels[at], padded_preds[at] = labels, preds
    on_device = (jnp.asarray(padded_preds), jnp.asarray(padded_labels), jnp.asarray(mask))
    counts = count_on_device(*on_device, tuple(map(jnp.asarray, edges)))
    assert counts.compute() == pytest.approx(expected, rel=DEVICE_TOLERANCE)


@given(batch=batches(), data=st.data())
def test_the_order_of_examples_and_labels_is_immaterial(batch, data):
    labels, preds, scores = batch
    rows = data.draw(st.permutations(range(labels.shape[0])))
    columns = np.array(data.draw(st.permutations(range(labels.shape[1]))))
    edges = (np.array([labels.shape[1] - 1]), np.array([0]))
    place = np.argsort(columns)  # the new id of each label
    shuffled = split_metrics(
        scores[rows][:, columns],
        preds[rows][:, columns],
        labels[rows][:, columns],
        (place[edges[0]], place[edges[1]]),
    )
    expected = split_metrics(scores, preds, labels, edges)
    for metrics in (shuffled, expected):
        for k in (1, 3, 5):
            metrics.pop(f"precision_at_{k}", None)  # which break ties by label order
            metrics.pop(f"ndcg_at_{k}", None)
        metrics.pop("r_precision", None)
    assert shuffled == pytest.approx(expected, rel=TOLERANCE)


@given(preds=hnp.arrays(bool, st.tuples(st.integers(1, 12), st.just(7))), dag=hnp.arrays(bool, (7, 7)))
def test_violation_rate_is_that_of_a_search_over_all_edges(preds, dag):
    edges = np.argwhere(np.tril(dag, -1))  # children have larger ids than parents: no cycle
    metrics = label_metrics(preds, preds, (edges[:, 0], edges[:, 1]))
    broken = sum(any(row[child] and not row[parent] for child, parent in edges) for row in preds)
    assert metrics["violation_rate"] == broken / len(preds)


def test_violation_rate_is_left_out_without_a_hierarchy():
    cells = np.ones((2, 3), bool)
    assert "violation_rate" not in label_metrics(cells, cells, None)
    no_edges = np.zeros(0, np.int32)
    assert label_metrics(cells, cells, (no_edges, no_edges))["violation_rate"] == 0


def test_counts_of_a_scan_and_of_a_vmap_add_up():
    rng = np.random.default_rng(4)
    preds, labels = jnp.asarray(rng.random((2, 6, 8, 5)) < 0.4)
    mask = jnp.asarray(rng.random((6, 8)) < 0.7)
    edges = (jnp.array([3, 4]), jnp.array([0, 1]))
    expected = LabelCounts.of(
        *(np.asarray(cells).reshape(48, 5) for cells in (preds, labels)),
        np.asarray(mask).ravel(),
        tuple(map(np.asarray, edges)),
    ).compute()

    def step(total, batch):
        state = LabelCounts.of(*batch, edges)
        return total.merge(state), state

    start = jax.tree.map(jnp.asarray, LabelCounts.zeros(5))
    total, stacked = jax.jit(lambda xs: jax.lax.scan(step, start, xs))((preds, labels, mask))
    parallel = jax.vmap(LabelCounts.of, in_axes=(0, 0, 0, None))(preds, labels, mask, edges)
    for state in (total, stacked, parallel):
        assert state.compute() == pytest.approx(expected, rel=DEVICE_TOLERANCE)
        assert jax.eval_shape(lambda state=state: state).tp.dtype == jnp.int32


def test_host_counts_do_not_overflow():
    # Eight states of 2³⁰ examples each are more than int32 holds.
    huge = jax.tree.map(lambda field: np.full_like(field, 2**30), LabelCounts.zeros(2)).to_host()
    total = huge
    for _ in range(7):
        total = total.merge(huge)
    assert total.tp.tolist() == [2**33, 2**33]
    assert total.compute()["micro_precision"] == 0.5


def test_nothing_to_evaluate_is_refused():
    cells = np.zeros((0, 3), bool)
    with pytest.raises(UserError, match="no examples"):
        label_metrics(cells, cells, None)


@given(batch=batches())
def test_ranks_are_those_of_a_search_over_all_cells(batch):
    labels, _, scores = batch
    ranks = ranks_of(scores, labels)
    positives = ranks.positives
    ids, values = positives.labels[positives.group].tolist(), positives.scores.tolist()
    assert sorted(zip(ids, values, strict=True)) == list(zip(ids, values, strict=True))
    assert sorted(zip(ids, values, strict=True)) == sorted(
        (label, float(scores[row, label])) for row, label in np.argwhere(labels).tolist()
    )
    for at, (label, value) in enumerate(zip(ids, values, strict=True)):
        column, true = scores[:, label], labels[:, label]
        assert ranks.hits[at] == (true & (column >= value)).sum()
        assert ranks.alarms[at] == (~true & (column >= value)).sum()
        assert ranks.next_lower[at] == max([-np.inf, *column[column < value]])
    for alarms, value in zip(ranks.all_alarms, positives.ranked, strict=True):
        assert alarms == (~labels & (scores >= value)).sum()


def test_zeros_of_both_signs_are_equal_and_infinite_scores_are_ranked():
    scores = np.array([[0.0, np.inf], [-0.0, np.inf], [-np.inf, 1.0], [-np.inf, -np.inf]], np.float32)
    labels = np.array([[1, 1], [0, 0], [1, 1], [0, 0]], bool)
    ranks = ranks_of(scores, labels)
    # First label: of 0, −0, −∞, −∞ the first and the third are true; second: of ∞, ∞, 1, −∞.
    assert ranks.alarms.tolist() == [2, 1, 1, 1]
    assert ranks.compute()["macro_average_precision"] == ((2 / 4 + 1 / 2) / 2 + (2 / 3 + 1 / 2) / 2) / 2
