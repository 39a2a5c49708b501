"""One suite over every head: a file added to mlresearch/heads is tested by existing.

Small random hierarchies are enumerated, label set by label set, in float64 NumPy.
"""

import functools
import importlib
import inspect
import itertools
import pkgutil
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_losses import label_loss
from test_hierarchy import names, random_dag, reach

import mlresearch.heads
from mlresearch.decoders.causal import CausalScores, Links
from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.heads import NotNormalisedError

DIM, GIVEN = 4, {"param_dtype": jnp.float32}
HIDDEN = 8  # of causal scores
FEW = {"components": 3, "beam": 2, "num_samples": 16}
HEADS = sorted(module.name for module in pkgutil.iter_modules(mlresearch.heads.__path__))


def variants():
    """Every head with every value of its options that are a choice of names, and few components or samples."""
    for name in HEADS:
        head = importlib.import_module(f"mlresearch.heads.{name}").Head
        hints = typing.get_type_hints(head.__init__)
        choices = {
            option: typing.get_args(hints[option])
            for option, parameter in inspect.signature(head.__init__).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and typing.get_origin(hints[option]) is typing.Literal
        }
        few = {option: FEW[option] for option in hints if option in FEW}
        if "components" in few:  # rules of siblings are the components', and mixtures under each are in test_mixture
            del choices["siblings"]
        if "order" in choices:  # under the others no label has parents: test_chain looks at them
            choices["order"] = ("hierarchy",)
        for values in itertools.product(*choices.values()):
            yield pytest.param(name, dict(zip(choices, values, strict=True)) | few, id="-".join([name, *values]))


every_head = pytest.mark.parametrize(("name", "options"), list(variants()))


def randomise(head):
    """Give every parameter a random value."""
    rng = np.random.default_rng(1)
    params = nnx.state(head, nnx.Param)
    nnx.update(head, jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), params))
    return head


def make_head(name, options, hierarchy):
    make = functools.partial(
        importlib.import_module(f"mlresearch.heads.{name}").Head,
        *(hierarchy, hierarchy.num_labels, DIM),
        **(options | GIVEN),
        rngs=nnx.Rngs(0),
    )
    flat = options.get("of") == "independent"
    if options.get("siblings", "any") != "any" and (flat or not hierarchy.is_forest):
        with pytest.raises(UserError, match="of a hierarchy" if flat else "needs one parent a label, but 'label"):
            make()
        pytest.skip("refused by name, as it should be")
    return randomise(make())


def random_scores(head, hierarchy, batch, seed, scale=2.0, dtype=jnp.float32):
    shape = (batch, hierarchy.num_labels, head.scores_per_label)
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape), dtype)


def encoded_for(batch, dtype=jnp.float32):
    return Encoded(jnp.zeros((batch, 1, DIM), dtype), jnp.ones((batch, 1), bool), jnp.zeros((batch, DIM), dtype))


def causal_scores(scores):
    """Scores that depend on the labels before by random weights, beside what is given."""
    rng = np.random.default_rng(9)
    batch, num_labels, _ = scores.shape
    start, *rows = (jnp.asarray(rng.normal(size=(n, HIDDEN)), scores.dtype) for n in (1, num_labels, num_labels))
    return CausalScores(jnp.repeat(start, batch, axis=0), Links(scores[..., 0].T, *rows))


def distribution(head, scores):
    label_scores = causal_scores(scores) if getattr(head, "causal", False) else scores
    return head(label_scores, encoded_for(scores.shape[0], scores.dtype))


@jax.jit
def summary(dist):
    return dist.log_marginals, dist.mode()


def all_sets(num_labels):
    return np.array(list(itertools.product([False, True], repeat=num_labels)))


def hierarchies(forest, count=3, num_labels=7):
    rng = np.random.default_rng(forest)
    return [random_dag(rng, num_labels - i % 3, forest=forest) for i in range(count)]


def enumerate_log_probs(dist, batch, num_labels):
    """[sets, batch] log-probabilities of every label set, by the distribution's own log_prob."""
    sets = all_sets(num_labels)
    tiled = jnp.broadcast_to(jnp.asarray(sets)[:, None], (len(sets), batch, num_labels))
    return sets, np.asarray(jax.jit(jax.vmap(lambda dist, on: dist.log_prob(on), (None, 0)))(dist, tiled), np.float64)


@every_head
@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
@pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])
def test_enumeration(name, options, forest, x64):
    """Probabilities sum to 1; marginals, mode and loss are those of the enumerated distribution."""
    tolerance = 1e-10 if x64 else 1e-5
    with jax.enable_x64(x64):
        for seed, hierarchy in enumerate(hierarchies(forest)):
            head = make_head(name, options, hierarchy)
            scores = random_scores(head, hierarchy, 3, seed, dtype=jnp.float64 if x64 else jnp.float32)
            dist = distribution(head, scores)
            if not dist.normalised:
                with pytest.raises(NotNormalisedError):
                    dist.log_prob(jnp.ones((3, hierarchy.num_labels), bool))
                with pytest.raises(NotNormalisedError):
                    dist.sample(jax.random.key(0), 1)
                continue
            sets, log_probs = enumerate_log_probs(dist, 3, hierarchy.num_labels)
            probs = np.exp(log_probs)
            np.testing.assert_allclose(probs.sum(0), 1, atol=tolerance)
            log_marginals, mode = (np.asarray(x) for x in summary(dist))
            error = tolerance + 4 * dist.marginal_error
            np.testing.assert_allclose(np.exp(log_marginals), np.einsum("sb,sl->bl", probs, sets), atol=error)
            if dist.mode_is_exact:
                assert np.array_equal(mode, sets[log_probs.argmax(0)])
            else:
                over_half = dist.log_prob(jnp.asarray(log_marginals > -np.log(2.0)))
                mode_log_prob = dist.log_prob(jnp.asarray(mode))
                assert (np.asarray(mode_log_prob) >= np.asarray(over_half) - tolerance).all()
            if head.coherent:
                broken = (sets[:, hierarchy.children] & ~sets[:, hierarchy.parents]).any(1)
                assert (log_probs[broken] == -np.inf).all()


@every_head
@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
def test_samples_follow_the_distribution(name, options, forest):
    hierarchy = hierarchies(forest, count=3)[2]
    head = make_head(name, options, hierarchy)
    dist = distribution(head, random_scores(head, hierarchy, 2, 5, scale=1.5))
    if not dist.normalised:
        return
    n = 40_000
    drawn = np.asarray(jax.jit(lambda dist: dist.sample(jax.random.key(1), n))(dist))
    assert drawn.shape == (n, 2, hierarchy.num_labels)
    _, log_probs = enumerate_log_probs(dist, 2, hierarchy.num_labels)
    powers = 2 ** np.arange(hierarchy.num_labels)[::-1]
    for example in range(2):
        counts = np.bincount(drawn[:, example] @ powers, minlength=len(log_probs))
        expected = np.exp(log_probs[:, example])
        # Five standard errors of a binomial share, and one count for the rarest sets.
        assert (np.abs(counts / n - expected) < 5 * np.sqrt(expected / n) + 1 / n).all()


@every_head
@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_extreme_scores_stay_coherent_and_finite(name, options, forest, dtype):
    rng = np.random.default_rng(7)
    hierarchy = random_dag(rng, 120 if forest else 40, forest=forest, density=0.06)
    head = make_head(name, options, hierarchy)
    batch = 33

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})  # as users run it
    def outputs(scores):
        dist = distribution(head, scores)
        return dist.log_marginals, dist.logits, dist.mode()

    @jax.jit
    @jax.grad
    def gradient(scores, labels):
        dist = distribution(head, scores)
        loss = dist.loss(labels, label_loss())
        return loss.sum() + dist.logits.sum() + dist.log_marginals.sum()

    for scale in (1.0, 10.0, 30.0, 100.0, 300.0, 1e4):
        scores = random_scores(head, hierarchy, batch, 8, scale=scale, dtype=dtype)
        scores = scores.at[0].set(-scale).at[1].set(scale).at[2].set(0)
        log_marginals, logits, mode = (np.asarray(x) for x in outputs(scores))
        assert log_marginals.dtype == np.float32
        assert np.isfinite(log_marginals).all()
        assert (log_marginals <= 0).all()
        assert np.isfinite(logits).all()
        if head.coherent:
            for array in (log_marginals, mode):
                assert (array[:, hierarchy.children] <= array[:, hierarchy.parents]).all()
        # The modes of other inputs: sets that the head can give, and far from what it would choose.
        labels = jnp.asarray(np.roll(mode, 1, axis=0))
        loss = distribution(head, scores).loss(labels, label_loss())
        assert jnp.isfinite(loss).all()
        assert jnp.isfinite(gradient(scores, labels)).all()


@every_head
@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
def test_gradients_equal_finite_differences(name, options, forest):
    with jax.enable_x64(True):
        for seed, hierarchy in enumerate(hierarchies(forest, count=2, num_labels=6)):
            head = make_head(name, options, hierarchy)
            scores = random_scores(head, hierarchy, 2, seed, dtype=jnp.float64)
            dist = distribution(head, scores)
            labels = dist.mode()  # a set that every head can give
            weights = random_scores(head, hierarchy, 2, seed + 50, dtype=jnp.float64)[..., 0]

            def totals(scores, head=head, labels=labels, weights=weights):
                dist = distribution(head, scores)
                loss = dist.loss(labels, label_loss()).sum()
                if dist.marginal_error:
                    return loss  # what samples say has no gradient
                marginals = jnp.exp(dist.log_marginals)
                # The only root of a hierarchy may be certain: its log-odds are then the bound, or rounding.
                logits = jnp.where(marginals < 1 - 1e-6, dist.logits, 0.0)
                return loss + (weights * logits).sum() + (weights * marginals).sum()

            gradient = jax.jit(jax.grad(totals))(scores)
            steps = 1e-6 * jnp.eye(scores.size).reshape(-1, *scores.shape)
            differences = jax.jit(jax.vmap(lambda step, at=scores: totals(at + step) - totals(at - step)))(steps)
            np.testing.assert_allclose(gradient.ravel(), differences / 2e-6, rtol=1e-5, atol=1e-6)


@every_head
def test_log_prob_is_minus_loss_where_normalised(name, options):
    hierarchy = hierarchies(True, count=1)[0]
    head = make_head(name, options, hierarchy)
    dist = distribution(head, random_scores(head, hierarchy, 4, 0))
    if dist.normalised:
        labels = dist.mode()
        loss = dist.loss(labels, label_loss())
        np.testing.assert_allclose(loss, -dist.log_prob(labels), rtol=1e-5, atol=1e-6)


@every_head
@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
def test_neither_batch_split_nor_label_order_matters(name, options, forest):
    rng = np.random.default_rng(3)
    hierarchy = random_dag(rng, 20, forest=forest, density=0.15)
    head = make_head(name, options, hierarchy)
    scores = random_scores(head, hierarchy, 6, 4)
    whole = distribution(head, scores)
    part = distribution(head, scores[2:3])
    whole_marginals, whole_mode = summary(whole)
    part_marginals, part_mode = summary(part)
    np.testing.assert_allclose(part_marginals, whole_marginals[2:3], rtol=1e-5, atol=1e-6)
    assert np.array_equal(part_mode, whole_mode[2:3])
    if getattr(head, "causal", False):
        return  # the order is part of the model: test_chain moves it with the labels

    order = rng.permutation(20)  # the label at new place i was at place order[i]
    place = np.argsort(order)
    edges = np.stack([place[hierarchy.children], place[hierarchy.parents]], 1)
    renamed = type(hierarchy).from_edges([hierarchy.names[old] for old in order], edges)
    moved_head = make_head(name, options, renamed)
    own = getattr(moved_head, "component", moved_head)
    if getattr(own, "family_scores", None) is not None:  # in the order of parents, the roots first
        old_scores = getattr(head, "component", head).family_scores[...]
        old_parents, new_parents = (np.unique(each.parents) for each in (hierarchy, renamed))
        moved_family = 1 + np.searchsorted(old_parents, order[new_parents])
        own.family_scores[...] = old_scores[np.concatenate([[0], moved_family])]
    moved = distribution(moved_head, scores[:, order])
    moved_marginals, moved_mode = summary(moved)
    np.testing.assert_allclose(moved_marginals, whole_marginals[:, order], rtol=1e-5, atol=1e-5)
    assert np.array_equal(moved_mode, whole_mode[:, order])


# What follows checks single heads against their definitions, written out set by set.


def sibling_rule_log_prob(hierarchy, siblings, scores, on, of_family=None):
    """log p(on) of one label set under `conditional`, from the definition, in plain Python.

    of_family: the score of the family below each label, and below −1 that of the roots.
    """
    parents_of = [set(hierarchy.parents[hierarchy.children == label]) for label in range(hierarchy.num_labels)]
    sigmoid = 1 / (1 + np.exp(-scores))
    total = 0.0
    families = {frozenset(parents): [] for parents in parents_of}
    for label, parents in enumerate(parents_of):
        families[frozenset(parents)].append(label)
        if on[label] and not all(on[list(parents)]):
            return -np.inf
    for parents, members in families.items():
        if not all(on[list(parents)]):
            continue
        bernoulli = [sigmoid[m] if on[m] else 1 - sigmoid[m] for m in members]
        num_on = sum(on[m] for m in members)
        if siblings in ("one", "at_most_one"):
            if num_on > 1 or (siblings == "one" and num_on == 0):
                return -np.inf
            weights = np.exp(scores[members])
            rest = 1.0 if siblings == "at_most_one" else 0.0
            chosen = sum(w for w, m in zip(weights, members, strict=True) if on[m]) if num_on else rest
            total += np.log(chosen / (weights.sum() + rest))
        elif siblings == "hurdle" and num_on == 0:
            total -= np.log1p(np.exp(of_family[min(parents, default=-1)]))
        else:
            if siblings == "some" and num_on == 0:
                return -np.inf
            total += np.log(np.prod(bernoulli))
            if siblings in ("some", "hurdle"):
                total -= np.log(1 - np.prod(1 - sigmoid[members]))
            if siblings == "hurdle":
                total -= np.log1p(np.exp(-of_family[min(parents, default=-1)]))
    return total


@pytest.mark.parametrize(
    ("siblings", "forest"),
    [("any", True), ("any", False), ("some", True), ("one", True), ("at_most_one", True), ("hurdle", True)],
)
def test_conditional_equals_its_definition(siblings, forest):
    with jax.enable_x64(True):
        for seed, hierarchy in enumerate(hierarchies(forest)):
            head = make_head("conditional", {"siblings": siblings}, hierarchy)
            scores = random_scores(head, hierarchy, 2, seed, dtype=jnp.float64)
            sets, log_probs = enumerate_log_probs(distribution(head, scores), 2, hierarchy.num_labels)
            of_family = {}
            if siblings == "hurdle":  # families come in the order of their parents, the roots first
                parents = [-1, *np.unique(hierarchy.parents).tolist()]
                of_family = dict(zip(parents, np.asarray(head.family_scores[...], float), strict=True))
            for example in range(2):
                own = np.asarray(scores)[example, :, 0]
                expected = [sibling_rule_log_prob(hierarchy, siblings, own, on, of_family) for on in sets]
                np.testing.assert_allclose(log_probs[:, example], expected, rtol=1e-10, atol=1e-10)


def test_shared_ancestors_count_once():
    # 3 -> 1, 3 -> 2, 1 -> 0, 2 -> 0: label 3 is on when 0, 1, 2 and 3 all are, so its log marginal is the sum of four
    # terms; a recursion from parent to child would count label 0 twice.
    diamond = type(hierarchies(True)[0]).from_edges("abcd", np.array([(3, 1), (3, 2), (1, 0), (2, 0)]))
    dist = distribution(make_head("conditional", {}, diamond), jnp.zeros((1, 4, 1)))
    np.testing.assert_allclose(dist.log_marginals[0], np.log(0.5) * np.array([1, 2, 2, 4]), rtol=1e-6)


@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
def test_max_constraint_equals_its_definition(forest):
    for seed, hierarchy in enumerate(hierarchies(forest)):
        below = reach(hierarchy).T | np.eye(hierarchy.num_labels, dtype=bool)  # below[i, j]: j is i or under it
        head = make_head("max_constraint", {}, hierarchy)
        scores = random_scores(head, hierarchy, 4, seed)
        labels = np.random.default_rng(seed).random((4, hierarchy.num_labels)) < 0.4
        labels = np.stack([(below & row).any(1) for row in labels])
        dist = distribution(head, scores)
        sigmoid = 1 / (1 + np.exp(-np.asarray(scores[..., 0], np.float64)))
        expected = np.zeros(4)
        for row, label in itertools.product(range(4), range(hierarchy.num_labels)):
            marginal = sigmoid[row][below[label]].max()
            assert np.exp(dist.log_marginals[row, label]) == pytest.approx(marginal, rel=1e-5)
            if labels[row, label]:
                expected[row] -= np.log(sigmoid[row][below[label] & labels[row]].max())
            else:
                expected[row] -= np.log(1 - marginal)
        loss = dist.loss(jnp.asarray(labels), label_loss())
        np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_tied_maxima_share_the_gradient():
    chain = type(hierarchies(True)[0]).from_edges("abc", np.array([(1, 0), (2, 0)]))
    head = make_head("max_constraint", {}, chain)

    def root_logit(scores):
        return distribution(head, scores).logits[0, 0]

    gradient = jax.grad(root_logit)(jnp.array([[[-1.0], [2.0], [2.0]]]))
    np.testing.assert_allclose(gradient[0, :, 0], [0, 0.5, 0.5])


@pytest.mark.parametrize("name", ["conditional", "max_constraint", "flat_softmax", "mixture"])
def test_hierarchy_is_asked_for(name):
    with pytest.raises(UserError, match="needs a label hierarchy"):
        importlib.import_module(f"mlresearch.heads.{name}").Head(None, 3, DIM, **GIVEN, rngs=nnx.Rngs(0))


def sizes(jaxpr):
    """Sizes of all arrays that a program makes, inner programs included."""
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars if hasattr(variable.aval, "size"))
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from sizes(inner)


@every_head
@pytest.mark.parametrize("forest", [True, False], ids=["forest", "dag"])
def test_nothing_grows_with_the_square_of_the_labels(name, options, forest):
    """The largest array of a training step's program doubles with the labels; [labels, labels] would grow fourfold."""
    largest = {bool: [], jnp.float32: []}  # float labels may be soft or unknown
    for num_labels, dtype in itertools.product((400, 800), largest):
        child = np.arange(1, num_labels)
        edges = np.stack([child, (child - 1) // 3], 1)  # three children a label
        if not forest:
            edges = np.unique(np.concatenate([edges, np.stack([child, (child - 1) // 5], 1)[5::7]]), axis=0)
        hierarchy = type(hierarchies(True)[0]).from_edges(names(num_labels), edges)
        head = make_head(name, options, hierarchy)
        labels = jnp.zeros((2, num_labels), dtype)

        def everything(scores, head=head, labels=labels):
            dist = distribution(head, scores)
            return dist.loss(labels, label_loss()).sum() + dist.logits.sum() + dist.mode().sum().astype(jnp.float32)

        scores = random_scores(head, hierarchy, 2, 0)
        largest[dtype].append(max(sizes(jax.make_jaxpr(jax.grad(everything))(scores).jaxpr)))
        assert largest[dtype][-1] < 40 * num_labels * head.scores_per_label
    for of_400, of_800 in largest.values():
        assert of_800 < 2.6 * of_400  # closure lists grow by the depth as well
