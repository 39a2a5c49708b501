"""One suite over every loss: a file added to mlresearch/losses is tested by existing, once it has a reference here.

References are the papers' formulas, label by label and pair by pair, in float64 with plain loops.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_losses import label_loss
from small_runs import inputs_of, lines, make_config
from test_heads import distribution, make_head, random_scores
from test_hierarchy import random_dag
from test_train import steps_under

import mlresearch
from mlresearch import workdir
from mlresearch.config import part_class, part_names, replicas, resolve
from mlresearch.ensemble import Ensemble
from mlresearch.errors import UserError
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies, LabelSets, LabelSpace
from mlresearch.losses import Examples, both_sides
from mlresearch.train import train

VARIANTS = {
    "binary_cross_entropy": [
        {"positive_weight": 2.5},
        {"class_weights": "balanced"},
        {"class_weights": "effective", "beta": 0.9, "positive_weight": 0.5},
    ],
    "smoothed_cross_entropy": [{"smoothing": 0.2, "decay": 0.7}],
    "focal": [{"gamma": 0.5, "alpha": 0.25}, {"gamma": 0.0}],
    "asymmetric": [
        {"gamma_positive": 1.0, "gamma_negative": 0.5, "shift": 0.0},
        {"gamma_positive": 0.5, "gamma_negative": 0.0, "shift": 0.2},
    ],
    "distribution_balanced": [{"alpha": 0.3, "beta": 3.0, "mu": 0.5, "kappa": 0.7, "tolerance": 5.0}],
    "two_way": [{"temperature": 1.0}],
    "soft_f1": [{"smoothing": 0.1}],
}
CASES = [
    pytest.param(name, options, id="-".join([name, *(str(value) for value in options.values())]))
    for name in part_names("loss")
    for options in [{}, *VARIANTS.get(name, [])]
]
every_loss = pytest.mark.parametrize("name", part_names("loss"))
every_variant = pytest.mark.parametrize(("name", "options"), CASES)

NUM_LABELS, BATCH = 5, 6
FREQUENCIES = Frequencies(np.array([40.0, 7.5, 0.0, 50.0, 1.0]), np.array([50, 40, 50, 50, 50]))
DIAMOND = LabelHierarchy.from_edges(tuple("abcde"), np.array([[1, 0], [2, 0], [3, 1], [3, 2]]))

LINEAR = ("binary_cross_entropy", "focal", "asymmetric", "smoothed_cross_entropy")
"""Those in which a soft label is the mean of what it would be on and off, smoothed ones between their doubts."""


def make(name, options=None, hierarchy=DIAMOND, frequencies=FREQUENCIES):
    options = (VARIANTS.get(name) or [{}])[0] if options is None else options
    loss = part_class("loss", name)(hierarchy, len(frequencies.on), **options)
    if hasattr(loss, "use_frequencies"):
        loss.use_frequencies(frequencies)
    return loss


def compiled(loss):
    """The loss of a batch that is all real, as one program."""
    return jax.jit(lambda logits, labels: loss(logits, labels, Examples(np.ones(len(labels), bool))))


def random_batch(seed, scale=2.0, num_labels=NUM_LABELS):
    """Logits, and labels on, off, soft and unknown; of the last row nothing is known, the first has none that is on."""
    rng = np.random.default_rng(seed)
    shape = (BATCH, num_labels)
    labels = np.where(rng.random(shape) < 0.3, rng.random(shape), rng.choice([0, 1, np.nan], shape, p=[0.5, 0.3, 0.2]))
    labels[0], labels[-1] = 0, np.nan
    return rng.normal(0, scale, shape), labels


# References


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def known_cells(labels):
    return [i for i, y in enumerate(labels) if not math.isnan(y)]


def counts_of(frequencies):
    """Of each label, examples on and off, half an example more on either side."""
    on = frequencies.on + 0.5
    return on, frequencies.known + 1 - on


def binary_cross_entropy(z, y, positive_weight=1.0, class_weights="none", beta=0.999):
    on, off = counts_of(FREQUENCIES)
    weights = np.ones(NUM_LABELS)
    if class_weights == "balanced":
        weights = off / on
    if class_weights == "effective":
        weights = (1 - beta) / (1 - beta**on)
        weights /= weights.mean()
    return sum(
        -positive_weight * weights[i] * y[i] * math.log(sigmoid(z[i])) - (1 - y[i]) * math.log(sigmoid(-z[i]))
        for i in known_cells(y)
    )


def smoothed_target(label, y, hierarchy, smoothing, decay):
    """By recursion, as the docstring has it; unknown labels carry doubt on, but begin none."""
    family = {"above": {}, "below": {}}
    for child, parent in zip(hierarchy.children.tolist(), hierarchy.parents.tolist(), strict=True):
        family["above"].setdefault(child, []).append(parent)
        family["below"].setdefault(parent, []).append(child)

    def doubt(at, side, value):
        """How far from `value` the target of a label is that has it, and what it hands on; None for nothing."""
        if y[at] == 1 - value:
            return None
        found = [d for other in family[side].get(at, []) if (d := doubt(other, side, value)) is not None]
        if found:
            return decay * min(found)
        return smoothing if y[at] == value else None

    if y[label] == 1:
        return 1 - doubt(label, "below", 1)
    if y[label] == 0:
        return doubt(label, "above", 0)
    return 0.5 + (1 - 2 * smoothing) * (y[label] - 0.5)


def smoothed_cross_entropy(z, y, smoothing=0.05, decay=0.5):
    total = 0.0
    for i in known_cells(y):
        target = smoothed_target(i, y, DIAMOND, smoothing, decay)
        total -= target * math.log(sigmoid(z[i])) + (1 - target) * math.log(sigmoid(-z[i]))
    return total


def focal(z, y, gamma=2.0, alpha=0.0):
    of_on, of_off = (alpha, 1 - alpha) if alpha else (1, 1)
    total = 0.0
    for i in known_cells(y):
        p = sigmoid(z[i])
        total -= of_on * y[i] * (1 - p) ** gamma * math.log(p)
        total -= of_off * (1 - y[i]) * p**gamma * math.log(1 - p)
    return total


def asymmetric(z, y, gamma_positive=0.0, gamma_negative=4.0, shift=0.05):
    total = 0.0
    for i in known_cells(y):
        p = sigmoid(z[i])
        shifted = max(p - shift, 0)
        total -= y[i] * (1 - p) ** gamma_positive * math.log(p)
        total -= (1 - y[i]) * shifted**gamma_negative * math.log(1 - shifted)
    return total


def distribution_balanced(z, y, alpha=0.1, beta=10.0, mu=0.2, kappa=0.05, tolerance=2.0):
    on, off = counts_of(FREQUENCIES)
    repeats = sum(y[i] / on[i] for i in known_cells(y))
    total = 0.0
    for i in known_cells(y):
        ratio = 1 / on[i] / repeats if repeats else math.inf
        weight = alpha + 1 / (1 + math.exp(-beta * (ratio - mu)))
        prior = on[i] / (on[i] + off[i])
        nu = kappa * math.log(1 / prior - 1)  # −κ b̂
        total += weight * y[i] * math.log(1 + math.exp(-(z[i] - nu)))
        total += weight * (1 - y[i]) / tolerance * math.log(1 + math.exp(tolerance * (z[i] - nu)))
    return total


def zlpr(z, y):
    cells = known_cells(y)
    high = 1 + sum((1 - y[i]) * math.exp(z[i]) for i in cells)
    low = 1 + sum(y[i] * math.exp(-z[i]) for i in cells)
    return math.log(high) + math.log(low)


def pairwise_logsumexp(z, y):
    pairs = itertools.product(known_cells(y), repeat=2)
    return math.log(1 + sum((1 - y[i]) * y[j] * math.exp(z[i] - z[j]) for i, j in pairs))


def soft_f1(z, y, smoothing=1.0):
    cells = known_cells(y)
    hits = sum(y[i] * sigmoid(z[i]) for i in cells)
    sizes = sum(y[i] + sigmoid(z[i]) for i in cells)
    return 1 - (2 * hits + smoothing) / (sizes + smoothing)


def softplus_of_sums(z, y, temperature):
    """ℓ of one list of cells."""
    high = sum((1 - y[i]) * math.exp(z[i]) for i in known_cells(y))
    low = sum(y[i] * math.exp(-z[i] / temperature) for i in known_cells(y))
    return math.log(1 + high * low**temperature)


def two_way(z, y, temperature=4.0):
    of_examples = [softplus_of_sums(*row, temperature) for row in zip(z, y, strict=True)]
    columns = [column for column in zip(z.T, y.T, strict=True) if (column[1] > 0).any()]
    of_labels = [softplus_of_sums(*column, temperature) for column in columns]
    informed = ~np.isnan(y).all(1)
    mean = np.mean(of_labels) if of_labels else 0.0
    return of_examples + np.where(informed, mean * len(y) / max(informed.sum(), 1), 0)


def reference(name, options, logits, labels):
    formula = globals()[name]
    if name == "two_way":
        return formula(logits, labels, **options)
    return [formula(*row, **options) for row in zip(logits.tolist(), labels.tolist(), strict=True)]


@every_variant
def test_the_formula_of_the_paper(name, options):
    with jax.enable_x64(True):
        loss = compiled(make(name, options))
        for seed in range(4):
            logits, labels = random_batch(seed)
            found = loss(jnp.asarray(logits), jnp.asarray(labels))
            np.testing.assert_allclose(found, reference(name, options, logits, labels), rtol=1e-11, atol=1e-14)
        hard = np.nan_to_num(labels) > 0.5
        found = loss(jnp.asarray(logits), jnp.asarray(hard))
        np.testing.assert_allclose(found, reference(name, options, logits, hard.astype(float)), rtol=1e-11, atol=1e-14)
    # In float32, and of logits of less precision, which are computed in float32.
    single = jnp.asarray(logits, jnp.bfloat16)
    found = compiled(make(name, options))(single, jnp.asarray(labels, jnp.float32))
    assert found.dtype == jnp.float32
    expected = reference(name, options, np.asarray(single, np.float64), np.float32(labels).astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


@every_variant
def test_gradients_equal_finite_differences(name, options):
    with jax.enable_x64(True):
        loss = make(name, options)
        logits, labels = map(jnp.asarray, random_batch(7))
        weights = jnp.asarray(np.random.default_rng(1).normal(size=BATCH))
        logits = jnp.stack([logits, logits[::-1]])  # as of max_constraint: one for each side

        def total(logits):
            return (weights * loss(tuple(logits), labels, Examples(np.ones(BATCH, bool)))).sum()

        gradient = jax.jit(jax.grad(total))(logits)
        steps = 1e-6 * jnp.eye(logits.size).reshape(-1, *logits.shape)
        differences = jax.jit(jax.vmap(lambda step: total(logits + step) - total(logits - step)))(steps)
        np.testing.assert_allclose(gradient.ravel(), differences / 2e-6, rtol=1e-5, atol=1e-8)
        assert (gradient[:, -1] == 0).all()
        np.testing.assert_array_equal(np.where(np.isnan(labels), gradient, 0), 0)


@every_variant
def test_large_logits_give_finite_numbers(name, options):
    loss = make(name, options)

    @jax.jit
    def both(logits, labels):
        losses, pull = jax.vjp(lambda logits: loss(logits, labels, Examples(np.ones(BATCH, bool))), logits)
        return losses, pull(jnp.ones_like(losses))[0]

    for scale, seed in itertools.product([1e2, 1e4], range(3)):
        _, labels = random_batch(seed)
        signs = np.random.default_rng(seed).choice([-1, 1], labels.shape)
        losses, gradient = both(jnp.asarray(scale * signs, jnp.bfloat16), jnp.asarray(labels, jnp.float32))
        assert losses.dtype == jnp.float32
        assert np.isfinite(losses).all()
        assert (losses >= 0).all()
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
        assert losses[-1] == 0
        # What is right for sure costs nothing to speak of beside what is wrong for sure.
        hard = jnp.asarray(signs > 0)
        right, _ = both(jnp.asarray(scale * signs, jnp.bfloat16), hard)
        wrong, slope = both(jnp.asarray(-scale * signs, jnp.bfloat16), hard)
        assert (np.asarray(right) < np.asarray(wrong))[hard.any(1) & ~hard.all(1)].all()
        assert name == "soft_f1" or np.abs(np.asarray(slope, np.float32)).max() > 0


@every_variant
def test_an_unknown_label_is_as_if_it_were_not_there(name, options):
    """Whose frequency is not there either; of a label without parents, since others carry doubt on."""
    if options.get("class_weights") == "effective":
        pytest.skip("weights are normalised over all labels")
    logits, labels = random_batch(3)
    gone = 4
    labels[:, gone] = np.nan
    kept = np.arange(NUM_LABELS) != gone
    fewer = LabelHierarchy(DIAMOND.names[:gone], DIAMOND.children, DIAMOND.parents)
    rest = Frequencies(*(counts[kept] for counts in FREQUENCIES))
    with jax.enable_x64(True):
        found = compiled(make(name, options))(jnp.asarray(logits), jnp.asarray(labels))
        expected = compiled(make(name, options, fewer, rest))(
            jnp.asarray(logits[:, kept]), jnp.asarray(labels[:, kept])
        )
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_soft_labels_enter_linearly(name):
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0.01, 0.99, (2, BATCH, NUM_LABELS))
    logits = jnp.asarray(rng.normal(size=one.shape))
    with jax.enable_x64(True):
        loss = compiled(make(name, {}))
        ends = [loss(logits.astype(float), jnp.asarray(labels)) for labels in (one, other)]
        between = loss(logits.astype(float), jnp.asarray(0.3 * one + 0.7 * other))
        np.testing.assert_allclose(between, 0.3 * ends[0] + 0.7 * ends[1], rtol=1e-10)


@every_loss
def test_padding_and_the_rest_of_the_batch_do_not_matter(name):
    """But what is real of it, to the loss that is of the whole batch."""
    logits, labels = random_batch(5)
    with jax.enable_x64(True):
        loss = make(name)
        expected = compiled(loss)(jnp.asarray(logits), jnp.asarray(labels))
        padded = [np.concatenate([x, x[::-1][:3]]) for x in (logits, labels)]
        padded[0][BATCH:] *= 100
        order = np.random.default_rng(0).permutation(BATCH + 3)
        rows = Examples((np.arange(BATCH + 3) < BATCH)[order])
        found = jax.jit(lambda logits, labels: loss(logits, labels, rows))(*(jnp.asarray(x[order]) for x in padded))
        np.testing.assert_allclose(found[np.argsort(order)][:BATCH], expected, rtol=1e-12)
        if name != "two_way":
            halves = (slice(0, 3), slice(3, BATCH))
            parts = [compiled(loss)(jnp.asarray(logits[half]), jnp.asarray(labels[half])) for half in halves]
            np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-12)


@every_loss
def test_devices_that_share_a_batch_give_its_loss_and_gradient(name):
    logits, labels = random_batch(6)
    mask = np.arange(BATCH) != 3
    with jax.enable_x64(True):
        loss = make(name)

        def share(logits, labels, mask, axis_name=None):
            return jnp.where(mask, loss(logits, labels, Examples(mask, axis_name)), 0).sum()

        whole = jax.jit(jax.value_and_grad(share))(*map(jnp.asarray, (logits, labels, mask)))
        parts = [jnp.asarray(np.stack(np.split(x, 3))) for x in (logits, labels, mask)]
        divided = jax.pmap(jax.value_and_grad(lambda *part: share(*part, "data")), axis_name="data")(*parts)
        np.testing.assert_allclose(divided[0].sum(), whole[0], rtol=1e-12)
        np.testing.assert_allclose(divided[1].reshape(logits.shape), whole[1], rtol=1e-10, atol=1e-14)


@every_loss
@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
def test_the_order_of_labels_does_not_matter(name, forest):
    rng = np.random.default_rng(9)
    size = 12
    hierarchy = random_dag(rng, size, forest=forest)
    frequencies = Frequencies(rng.integers(20, size=size).astype(float), rng.integers(20, 30, size))
    logits, labels = random_batch(1, num_labels=size)
    order = rng.permutation(size)
    place = np.argsort(order)
    names = tuple(hierarchy.names[label] for label in order)
    permuted = LabelHierarchy.from_edges(names, np.stack([place[hierarchy.children], place[hierarchy.parents]], 1))
    with jax.enable_x64(True):
        expected = compiled(make(name, None, hierarchy, frequencies))(jnp.asarray(logits), jnp.asarray(labels))
        loss = make(name, None, permuted, Frequencies(*(counts[order] for counts in frequencies)))
        found = compiled(loss)(jnp.asarray(logits[:, order]), jnp.asarray(labels[:, order]))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


@every_loss
@pytest.mark.parametrize("head", ["conditional", "mixture", "max_constraint"])
def test_gradients_flow_through_marginals(name, head):
    """Along one direction, of the joint heads' own log-odds and of the two sides of max_constraint."""
    with jax.enable_x64(True):
        share = {} if head == "max_constraint" else {"marginal_share": 1.0}
        made = make_head(head, share, DIAMOND)
        scores = random_scores(made, DIAMOND, 3, 2, scale=1.0, dtype=jnp.float64)
        direction = random_scores(made, DIAMOND, 3, 3, scale=1.0, dtype=jnp.float64)
        labels = jnp.asarray([[1, 0.5, 0, 0, 0.0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]])
        of_labels = label_loss(name, DIAMOND, NUM_LABELS)

        def total(scores):
            return distribution(made, scores).loss(labels if head == "max_constraint" else labels == 1, of_labels).sum()

        gradient = jax.jit(jax.grad(total))(scores)
        ends = [jax.jit(total)(scores + step * direction) for step in (1e-6, -1e-6)]
        np.testing.assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-6)
        assert (jnp.abs(gradient).sum((1, 2)) > 0).all()


@every_loss
@pytest.mark.parametrize("head", ["independent", "max_constraint"])
def test_labels_that_are_on_or_off_have_one_loss_in_both_forms(name, head):
    made = make_head(head, {}, DIAMOND)
    dist = distribution(made, random_scores(made, DIAMOND, 3, 2))
    labels = jnp.asarray([[1, 0, 0, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]])
    of_labels = label_loss(name, DIAMOND, NUM_LABELS)
    found = [jax.jit(dist.loss, static_argnums=1)(form, of_labels) for form in (labels == 1, labels.astype(float))]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


# Smoothing along a hierarchy


@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_smoothed_targets_are_coherent_and_those_of_the_recursion(forest, decay):
    """Of coherent labels, some of which are soft or unknown; and of any, they are those of the recursion."""
    rng = np.random.default_rng(forest)
    for smoothing in (0.05, 0.5):
        hierarchy = random_dag(rng, 20, forest=forest, density=0.15)
        loss = part_class("loss", "smoothed_cross_entropy")(hierarchy, 20, smoothing=smoothing, decay=decay)
        labels = np.zeros((30, 20))
        for row, leaves in zip(labels, rng.integers(20, size=(30, 3)), strict=True):
            row[hierarchy.close(leaves)] = 1
        for row in range(10, 20):  # no child above a parent, nor a soft one
            for label in np.argsort(hierarchy.levels):
                above = hierarchy.parents[hierarchy.children == label]
                labels[row, label] *= rng.choice([1, rng.random()]) * labels[row, above].min(initial=1)
        labels[20:] = rng.choice([0, 1, 0.4, np.nan], labels[20:].shape)
        labels[5:15][rng.random((10, 20)) < 0.2] = np.nan
        targets = np.asarray(loss.targets(both_sides(jnp.zeros((30, 20)), jnp.asarray(labels))))
        for row, label in zip(*np.nonzero(~np.isnan(labels)), strict=True):
            expected = smoothed_target(label, labels[row], hierarchy, smoothing, decay)
            assert targets[row, label] == pytest.approx(expected, rel=1e-6)
        children, parents = hierarchy.children, hierarchy.parents
        known = ~np.isnan(labels[:, children] + labels[:, parents])
        assert (targets[:, children] <= targets[:, parents] + 1e-7)[:20][known[:20]].all()
        assert known[:20].sum() > 200


def test_flat_labels_are_smoothed_as_usual():
    labels = jnp.asarray([[1.0, 0.0, 0.25, 1.0]])
    loss = part_class("loss", "smoothed_cross_entropy")(None, 4, smoothing=0.1)
    np.testing.assert_allclose(loss.targets(both_sides(labels, labels)), [[0.9, 0.1, 0.3, 0.9]], rtol=1e-6)


# Training counts


@pytest.mark.parametrize("weights", ["balanced", "effective"])
def test_class_weights_are_finite_at_both_ends(weights):
    """A label that is never on, one that always is, and β as near to 1 as a fraction can be."""
    ends = Frequencies(np.array([0.0, 1000.0, 3.0]), np.array([1000, 1000, 1000]))
    labels = jnp.ones((1, 3), bool)
    for beta in (0.0, 0.999, math.nextafter(1.0, 0.0)):
        loss = make("binary_cross_entropy", {"class_weights": weights, "beta": beta}, None, ends)
        slopes = jax.grad(lambda z, loss=loss: loss(z, labels, Examples(np.ones(1, bool))).sum())(jnp.zeros((1, 3)))
        found = -2 * np.asarray(slopes[0])  # of logits 0, each slope is half the weight
        assert np.isfinite(found).all()
        assert (found > 0).all()
        if weights == "effective":
            # In the limits all alike, and by 1/n.
            limits = {0.0: np.ones(3), math.nextafter(1.0, 0.0): 1 / (ends.on + 0.5)}
            if beta in limits:
                np.testing.assert_allclose(found, limits[beta] / limits[beta].mean(), rtol=1e-4)
        else:
            np.testing.assert_allclose(found, [1000.5 / 0.5, 0.5 / 1000.5, 997.5 / 3.5], rtol=1e-5)


def test_frequencies_of_soft_and_unknown_labels():
    labels = LabelSets.from_rows([(0, 2), (), (1, 2)], [(1.0, np.nan), (), (0.75, 0.5)])
    found = labels.frequencies(4)
    np.testing.assert_array_equal(found.on, [1, 0.75, 0.5, 0])
    np.testing.assert_array_equal(found.known, [3, 3, 2, 3])
    found = LabelSets.from_rows([(0, 1), (1,)]).frequencies(3)
    np.testing.assert_array_equal(found, [[1, 2, 0], [2, 2, 2]])


def test_labels_of_a_folder_come_back_with_their_counts(tmp_path):
    space = LabelSpace(tuple("abcde"), ("one\tthing", *"BCDE"))
    frequencies = Frequencies(np.array([3.0, 0.1 + 0.2, 0.0, 1e9, 2.5]), np.array([9, 8, 7, 10**9, 5]))
    workdir.write_labels(tmp_path, space, frequencies, DIAMOND)
    assert (tmp_path / "labels.txt").read_text().splitlines()[:2] == ["a\tone thing\t3\t9", f"b\tB\t{0.1 + 0.2!r}\t8"]
    found, counts, hierarchy = workdir.read_labels(tmp_path)
    assert (found.names, found.descriptions[0]) == (space.names, "one thing")
    np.testing.assert_array_equal(counts, frequencies)
    np.testing.assert_array_equal(hierarchy.parents, DIAMOND.parents)


@pytest.mark.parametrize("line", ["b\tB", "b\tB\t3", "b\tB\t3\tmany", "b\tB\tx\t3", "b\tB\t3\t4\t5", ""])
def test_a_damaged_file_of_labels_is_refused_by_its_line(tmp_path, line):
    (tmp_path / "labels.txt").write_text(f"a\tA\t1\t2\n{line}\n")
    with pytest.raises(
        UserError, match=r"labels\.txt is damaged: line 2 is not a name, a description, and in how many"
    ):
        workdir.read_labels(tmp_path)
    (tmp_path / "labels.txt").write_text("")
    with pytest.raises(UserError, match=r"labels\.txt is damaged: line 1 "):
        workdir.read_labels(tmp_path)


# Options and runs


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("binary_cross_entropy", {"positive_weight": -1.0}, "positive_weight is -1.0; it must not be negative"),
        ("binary_cross_entropy", {"beta": 1.0}, "beta is 1.0; it is a share"),
        ("smoothed_cross_entropy", {"smoothing": 0.6}, "smoothing is 0.6; it is a doubt, 0 to ½"),
        ("smoothed_cross_entropy", {"decay": 0.0}, "decay is 0.0; it is a share, above 0 to 1"),
        ("focal", {"gamma": -0.1}, "gamma is -0.1; it must not be negative"),
        ("focal", {"alpha": 1.0}, "alpha is 1.0; it is a share"),
        ("asymmetric", {"gamma_positive": -1.0}, "gamma_positive is -1.0; it must not be negative"),
        ("asymmetric", {"gamma_negative": -1.0}, "gamma_negative is -1.0; it must not be negative"),
        ("asymmetric", {"shift": 1.0}, "shift is 1.0; it is a probability below 1"),
        ("distribution_balanced", {"mu": -1.0}, "mu is -1.0; it must not be negative"),
        ("distribution_balanced", {"tolerance": 0.0}, "tolerance is 0.0; it must be above 0"),
        ("two_way", {"temperature": 0.0}, "temperature is 0.0; it must be above 0"),
        ("soft_f1", {"smoothing": 0.0}, "smoothing is 0.0; it must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(UserError, match=f"config.loss.{name}.{message}"):
        make(name, options)


def test_replicas_differ_in_fractions_of_a_loss_and_not_in_its_words(data_dir):
    config = make_config(data_dir)
    config.loss.name = "focal"
    config.train.replicas, config.train.replica_overrides = 2, ("loss.focal.gamma=0", "loss.focal.alpha=0.3")
    assert [own.loss.focal.gamma for _, own in replicas(resolve(config))] == [0, 2]
    config.loss.name = "binary_cross_entropy"
    config.train.replica_overrides = ("loss.binary_cross_entropy.class_weights=balanced", "")
    with pytest.raises(UserError, match=r"replicas cannot differ in config.loss.binary_cross_entropy.class_weights"):
        replicas(resolve(config))


@pytest.fixture
def config(data_dir):
    config = make_config(data_dir)
    config.head.conditional.marginal_share = 1.0
    config.evaluate.batch_size = 16
    return config


@pytest.mark.parametrize("name", ["binary_cross_entropy", "two_way"])
def test_a_run_learns_and_is_loaded_with_its_loss(config, tmp_path, name):
    """The loss of the loaded run, and of an ensemble of it, is that of the record: they know the training counts."""
    config.loss.name = name
    config.loss.binary_cross_entropy.class_weights = "balanced" if name == "binary_cross_entropy" else "none"
    config.train.num_epochs = 4.0
    record = train(config, tmp_path)
    losses = [line["train_loss"] for line in lines(tmp_path)]
    assert losses[-1] < 0.9 * losses[0]
    run = mlresearch.load(str(tmp_path))
    found = run.evaluate("test")["loss"]["mean"]
    assert found == pytest.approx(record["metrics"]["test"]["loss"]["mean"], rel=1e-6)
    dataset, _, batches = inputs_of(resolve(config))
    _, frequencies, _ = workdir.read_labels(tmp_path)
    np.testing.assert_array_equal(frequencies.on, dataset.train.labels.multi_hot(9).sum(0))
    for batch in batches["test"].once():
        scores = (run.score, Ensemble([run, run]).score)
        of_run, of_ensemble = (np.asarray(score(batch).loss)[0, batch.mask] for score in scores)
        np.testing.assert_allclose(of_ensemble, of_run, rtol=1e-4)


def test_layouts_train_by_the_whole_batch_alike(config):
    """As `test_train` has it of other losses: SGD shows a gradient of the wrong scale."""
    config.loss.name = "two_way"
    config.encoder.bag.dropout = 0.5
    config.optim.name, config.optim.learning_rate = "sgd", 0.1
    config.optim.clip_norm, config.optim.momentum = 0.0, 0.0
    config = resolve(config)
    expected_losses, expected = steps_under(config, "jit", 1, 10)
    for mode in ("jit", "pmap"):
        losses, params = steps_under(config, mode, 4, 10)
        np.testing.assert_allclose(losses, expected_losses, rtol=2e-5)
        for got, wanted in zip(params, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)
