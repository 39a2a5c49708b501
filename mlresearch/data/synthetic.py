"""Label sets drawn from a known distribution given made-up features or texts, so that what can be learnt is known.

**The distribution.** Given the input x of an example, its label set y is drawn from a mixture of K networks,

    p(y | x) = Σ_k g_k(x) p_k(y | x),        g(x) = softmax_k(h_k + u_k · x).

In each network a label with any parent off is off; where all its parents are on (always, for a root), it is on with
probability σ(s_ki(x)), independently of the rest. So with A(i) the label i and its ancestors, each once,
log P_k(y_i = 1 | x) = Σ_{j ∈ A(i)} log σ(s_kj(x)). The scores are

    s_ki(x) = a_i + w_i · x + dependence · (b_ki − mean over k of b_ki).

With d = num_features, all entries of a′, b and h are drawn from N(0, 1), those of w and u from N(0, 1/d). At dependence
0 the shared offsets are a = a′ + c, where the intercept c makes the mean number of labels an example ``cardinality``.
With dependence each a_i is shifted so that the label is on as often as it is at dependence 0, given that its parents
are, and all together once more to meet the cardinality (which is met already but for a DAG).

``dependence`` is thus how far apart the components are, in log-odds: the standard deviation of their own offsets,
before the mean over components is taken off. At 0 they are equal: given x, a label whose parents are on is independent
of the labels that are not below it; and so it is with one component, whatever ``dependence``. Otherwise labels of
different branches depend on each other given x, since it is not seen which component an example is from. What the best
network without components misses grows with it, from 0, until the components are as far apart as they get (in small
hierarchies it may then fall a little); how often a label is on hardly changes. What independent labels miss is
the same where labels are flat; else it has another part, which is due to the hierarchy, is above 0 at dependence 0, and
may shrink while the first grows.

**The hierarchy.** Of n labels the first max(1, n // 6) are roots. Each later one has a parent drawn uniformly among
those before it ("tree"); under "dag" it has with probability ½ a second one, uniform among those before it that are
neither above nor below the first. Under "flat" there is none: the networks have no edges, and only the mixture makes
labels depend on each other.

**features**: x is the vector of features, from N(0, I).

**text**: x is the mean of the vectors of the text's words. There are d topics, and word j is of topic j mod d. A text
has topic weights ∝ exp(2 z), z from N(0, I), a number of words uniform between half and one and a half of
``text_length``, and for each word draws the topic by its weight and a word uniformly among the topic's. Coordinate t of
a word's vector is 1 if the word is of topic t, plus ½ N(0, 1); all are shifted and scaled so that x has mean 0 and
variance 1 in every coordinate, over a sample of `PROBE` texts. Source of texts from logistic-normal topic weights: Blei
and Lafferty, "A correlated topic model of Science", 2007.

**What a seed guarantees.** Only doubles are drawn, from PCG64; normals are their inverse distribution function. All
parameters, word vectors and features are rounded to multiples of `GRID`, so that products and sums of them are exact in
float64, in whatever order they are added. What is left to a machine is the last bit of exp, log and the like; it could
show only where a number comes within about 1e-13 of a boundary: the middle between two multiples, or a probability and
the draw that is compared with it. The parameters do not depend on the sizes of the splits, and a larger split starts
with the examples of a smaller one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets.public_api as tfds
from scipy import special

from mlresearch.data import SPLITS, Source
from mlresearch.data.truth import Inputs, Truth, log_sigmoid
from mlresearch.errors import UserError, suggest
from mlresearch.label_space import LabelSpace
from mlresearch.progress import track

SHAPES = ("tree", "dag", "flat")
GRID = 2.0**-12
PROBE = 1024
"""Inputs, in no split, over which the intercept is fitted and word vectors are scaled."""

MAX_DEPENDENCE = 100.0
MAX_INTERCEPT = 2**12  # where it is searched for: offsets reach about 100 times 16
MAX_WORDS = 10_000
TOPIC_SPREAD = 2.0
WORD_SPREAD = 0.5
SYLLABLES = tuple(consonant + vowel for consonant in "bdklmnrtvz" for vowel in "aeiou")

# Every purpose has its own stream of random numbers.
STREAMS = (
    *("hierarchy", "parameters", "words", "probe"),
    *(f"{split} {part}" for split in SPLITS for part in ("inputs", "labels")),
)

DESCRIPTION = """\
Label sets drawn from a mixture of Bayesian networks on a random label hierarchy, given made-up features or texts. The
distribution comes with the examples, so that log-probabilities, marginals and modes of the truth are exact."""
LICENSE = "Made by the code of this project; no data of others."


class Builder(Source):
    """The data sets ``synthetic/features`` and ``synthetic/text``; the top of this file states the distribution.

    num_labels: labels. shape: "tree", "dag" or "flat". num_components: networks in the mixture. cardinality: mean
    number of labels an example, of the closed sets; the mean of the drawn distribution over `PROBE` inputs comes
    within num_labels / 10,000 of it. dependence: from 0 (none but that of the hierarchy) to `MAX_DEPENDENCE`.
    num_features: length of x, and in ``text`` the number of topics. num_words, text_length (``text`` only): words of
    the vocabulary, and of a text on average. num_train, num_validation, num_test: examples. seed: of everything.

    Notes hold, a split: the mean log-probability of its label sets under the truth ("true"), under the best network
    without components ("network") and under the best independent labels ("independent"), see
    `Truth.mean_log_likelihoods`; the subset accuracy of the true mode, None where it is too hard to find; and the
    label cardinality.
    """

    VERSION = tfds.core.Version("1.0.0")
    _ACTING = (
        *("num_labels", "shape", "num_components", "cardinality", "dependence", "num_features"),
        *("num_train", "num_validation", "num_test", "seed"),
    )
    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "features": _ACTING,
        "text": (*_ACTING, "num_words", "text_length"),
    }

    def __init__(
        self,
        *,
        subset: str,
        data_dir: str | Path,
        num_labels: int = 20,
        shape: str = "tree",
        num_components: int = 4,
        cardinality: float = 4.0,
        dependence: float = 4.0,
        num_features: int = 16,
        num_words: int = 1000,
        text_length: int = 40,
        num_train: int = 10_000,
        num_validation: int = 2_000,
        num_test: int = 2_000,
        seed: int = 0,
    ) -> None:
        counts = {"num_labels": num_labels, "num_components": num_components, "num_features": num_features}
        counts |= {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
        for name, count in (counts | {"text_length": text_length}).items():
            if count < 1:
                raise UserError(f"synthetic: {name} is {count}; it must be at least 1")
        if shape not in SHAPES:
            raise UserError(f"synthetic: unknown shape {shape!r}{suggest(shape, SHAPES)}")
        if not 0 < cardinality < num_labels:
            raise UserError(
                f"synthetic: cardinality is {cardinality}; it must lie between 0 and num_labels, {num_labels}"
            )
        if not 0 <= dependence <= MAX_DEPENDENCE:
            raise UserError(f"synthetic: dependence is {dependence}; it must be from 0 to {MAX_DEPENDENCE:g}")
        if subset == "text" and not max(2, num_features) <= num_words <= MAX_WORDS:
            raise UserError(
                f"synthetic: num_words is {num_words}; it must be from {max(2, num_features)} (a word for each of the "
                f"num_features topics, and no fewer than 2) to {MAX_WORDS}"
            )
        if seed < 0:
            raise UserError(f"synthetic: seed is {seed}; it must not be negative")
        self.subset, self.seed = subset, seed
        self.num_labels, self.shape, self.num_components = num_labels, shape, num_components
        self.cardinality, self.dependence, self.num_features = float(cardinality), float(dependence), num_features
        self.num_words, self.text_length = num_words, text_length
        self.sizes = dict(zip(SPLITS, (num_train, num_validation, num_test), strict=True))
        self.parents = draw_hierarchy(num_labels, shape, stream(seed, "hierarchy"))
        options = counts | {"shape": shape, "cardinality": cardinality, "dependence": dependence, "seed": seed}
        options |= {"num_words": num_words, "text_length": text_length}
        super().__init__(subset=subset, data_dir=data_dir, options=options)

    def _info(self) -> tfds.core.DatasetInfo:
        names = tuple(f"label {label:0{len(str(self.num_labels - 1))}}" for label in range(self.num_labels))
        return self.describe(
            label_space=LabelSpace(names, names),
            parents=None if self.shape == "flat" else self.parents,
            description=DESCRIPTION,
            citation="",
            homepage="",
            license=LICENSE,
            text=self.subset == "text",
            feature_names=[f"x{number}" for number in range(self.num_features)] if self.subset == "features" else None,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        words = word_vectors = None
        if self.subset == "text":
            words, word_vectors = draw_words(
                self.num_words, self.num_features, self.text_length, stream(self.seed, "words")
            )
        probe = self.draw_inputs(words, PROBE, stream(self.seed, "probe"))
        truth = draw_truth(
            self.parents,
            probe,
            num_labels=self.num_labels,
            num_components=self.num_components,
            cardinality=self.cardinality,
            dependence=self.dependence,
            num_features=self.num_features,
            words=words,
            word_vectors=word_vectors,
            rng=stream(self.seed, "parameters"),
        )
        examples = {}
        for split, size in self.sizes.items():
            inputs = self.draw_inputs(words, size, stream(self.seed, f"{split} inputs"))
            examples[split] = inputs, truth.sample(inputs, stream(self.seed, f"{split} labels"))
        self.info.metadata["truth"] = truth.to_json()
        self.info.metadata["notes"] = {
            "expected_label_cardinality": mean_cardinality(truth, probe),
            "label_cardinality": {split: float(labels.sum(1).mean()) for split, (_, labels) in examples.items()},
            "mean_log_likelihood": {split: truth.mean_log_likelihoods(*both) for split, both in examples.items()},
            "subset_accuracy_of_mode": {split: _accuracy_of_mode(truth, *both) for split, both in examples.items()},
        }
        return {split: self._generate_examples(split, *both) for split, both in examples.items()}

    def _generate_examples(self, split: str, inputs: Inputs, labels: np.ndarray) -> Iterator[tuple[int, dict]]:
        column = "text" if self.subset == "text" else "features"
        for number in track(range(len(labels)), f"prepare {split}", len(labels)):
            ids = np.flatnonzero(labels[number]).tolist()
            yield number, {column: inputs[number], "labels": ids, "key": f"{split} {number}"}

    def draw_inputs(self, words: tuple[str, ...] | None, size: int, rng: np.random.Generator) -> Inputs:
        """Draw what the model sees of `size` examples; `words` is the vocabulary of ``text``."""
        if words is None:
            return on_grid(normals(rng, (size, self.num_features))).astype(np.float32)  # the grid is float32's, too
        return [
            " ".join(words[word] for word in draw_text(self.num_words, self.num_features, self.text_length, rng))
            for _ in range(size)
        ]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """Return the random numbers of one of `STREAMS`."""
    return np.random.Generator(np.random.PCG64([seed, STREAMS.index(purpose)]))


def normals(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw from N(0, 1), float64, one double each, by the inverse of its distribution function."""
    return special.ndtri(np.maximum(rng.random(shape), 2.0**-54))  # a double may be 0, where that is -inf


def on_grid(x: np.ndarray) -> np.ndarray:
    """Return the nearest multiples of `GRID`."""
    return np.rint(x / GRID) * GRID


def draw_hierarchy(num_labels: int, shape: str, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw (child, parent) pairs, sorted, every parent the smaller id."""
    if shape == "flat":
        return []
    edges: list[tuple[int, int]] = []
    num_roots = max(1, num_labels // 6)
    closures = [{root} for root in range(num_roots)]  # each label with its ancestors
    for label in range(num_roots, num_labels):
        parents = [int(rng.random() * label)]
        if shape == "dag" and rng.random() < 0.5:
            first = parents[0]
            others = [other for other in range(label) if first not in closures[other] and other not in closures[first]]
            if others:
                parents.append(others[int(rng.random() * len(others))])
        closures.append({label}.union(*(closures[parent] for parent in parents)))
        edges += [(label, parent) for parent in sorted(parents)]
    return edges


def draw_truth(
    parents: Sequence[tuple[int, int]],
    probe: Inputs,
    *,
    num_labels: int,
    num_components: int,
    cardinality: float,
    dependence: float,
    num_features: int,
    words: tuple[str, ...] | None,
    word_vectors: np.ndarray | None,
    rng: np.random.Generator,
) -> Truth:
    """Draw the parameters of a distribution; `probe` holds the inputs over which its intercepts are fitted."""
    shared = normals(rng, (num_labels,))
    weights = normals(rng, (num_labels, num_features)) / math.sqrt(num_features)
    own = normals(rng, (num_components, num_labels))
    gate_offsets = normals(rng, (num_components,))
    gate_weights = normals(rng, (num_components, num_features)) / math.sqrt(num_features)
    equal = Truth(
        parents=np.array(parents, np.int64).reshape(-1, 2),
        weights=on_grid(weights),
        offsets=np.tile(on_grid(shared), (num_components, 1)),
        gate_weights=on_grid(gate_weights),
        gate_offsets=on_grid(gate_offsets),
        words=words,
        word_vectors=word_vectors,
    )
    equal = set_cardinality(equal, probe, cardinality)
    apart = dataclasses.replace(equal, offsets=equal.offsets + on_grid(dependence * (own - own.mean(0))))
    return set_cardinality(set_rates(apart, probe, equal), probe, cardinality)


def mean_cardinality(truth: Truth, inputs: Inputs) -> float:
    """Return the expected number of labels an example, exact given the inputs."""
    return float(np.exp(truth.log_marginals(inputs)).sum(1).mean())


def set_cardinality(truth: Truth, inputs: Inputs, cardinality: float) -> Truth:
    """Add to all offsets the smallest multiple of `GRID` that gives at least `cardinality` labels an example.

    With S = Σ (1 − σ) over a label and its ancestors, the derivative of its probability is at most S exp(−S) ≤ 1/e: a
    step of `GRID` changes the cardinality by less than num_labels / 10,000.
    """

    def shifted(intercept: float) -> Truth:
        return dataclasses.replace(truth, offsets=truth.offsets + intercept)

    return shifted(smallest(lambda intercept: mean_cardinality(shifted(intercept), inputs) >= cardinality))


def set_rates(truth: Truth, inputs: Inputs, like: Truth) -> Truth:
    """Shift each label's offsets: among inputs it is on as often, given that its parents are on, as under `like`."""
    log_gates, scores = truth.scores(inputs)
    log_gates_like, scores_like = like.scores(inputs)
    offsets = truth.offsets.copy()
    for label, above in enumerate(truth.ancestors):
        rate = log_rate(log_gates_like + log_sigmoid(scores_like[above]).sum(0), scores_like[label])
        shift = shift_to_rate(log_gates + log_sigmoid(scores[above]).sum(0), scores[label], rate)
        scores[label] += shift
        offsets[:, label] += shift
    return dataclasses.replace(truth, offsets=offsets)


def log_rate(log_reached: np.ndarray, scores: np.ndarray) -> float:
    """Return the log of the share of those reached for whom a label with these scores is on."""
    return float(special.logsumexp(log_reached + log_sigmoid(scores)) - special.logsumexp(log_reached))


def shift_to_rate(log_reached: np.ndarray, scores: np.ndarray, rate: float) -> float:
    """Return the smallest multiple of `GRID` that added to `scores` gives at least the log-rate `rate`."""
    return smallest(lambda shift: log_rate(log_reached, scores + shift) >= rate)


def smallest(enough: Callable[[float], bool]) -> float:
    """Return by bisection the smallest multiple of `GRID` within `MAX_INTERCEPT` that is enough, as all larger ones."""
    low, high = (int(bound / GRID) for bound in (-MAX_INTERCEPT, MAX_INTERCEPT))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle * GRID) else (middle, high)
    return high * GRID


def draw_words(
    num_words: int, num_topics: int, text_length: int, rng: np.random.Generator
) -> tuple[tuple[str, ...], np.ndarray]:
    """Draw distinct words of three syllables and their vectors, float64 [words, topics]."""
    base = len(SYLLABLES)
    # In random order, so that the spelling says nothing of the topic.
    numbers = np.argsort(rng.random(base**3), kind="stable")[:num_words].tolist()
    words = tuple(
        SYLLABLES[number // base**2] + SYLLABLES[number // base % base] + SYLLABLES[number % base] for number in numbers
    )
    vectors = WORD_SPREAD * normals(rng, (num_words, num_topics))
    vectors[np.arange(num_words), np.arange(num_words) % num_topics] += 1
    vectors = on_grid(vectors)
    texts = [draw_text(num_words, num_topics, text_length, rng) for _ in range(PROBE)]
    x = np.array([vectors[text].sum(0) / len(text) for text in texts])
    return words, on_grid((vectors - x.mean(0)) / x.std(0))


def draw_text(num_words: int, num_topics: int, text_length: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the word numbers of one text, int64."""
    bounds = np.cumsum(np.exp(TOPIC_SPREAD * normals(rng, (num_topics,))))
    shortest, longest = text_length - text_length // 2, text_length + text_length // 2
    length = shortest + int(rng.random() * (longest - shortest + 1))
    topics = np.searchsorted(bounds, rng.random(length) * bounds[-1], "right").clip(max=num_topics - 1)
    sizes = (num_words - 1 - topics) // num_topics + 1  # words of each topic
    return topics + num_topics * (rng.random(length) * sizes).astype(np.int64)


def _accuracy_of_mode(truth: Truth, inputs: Inputs, labels: np.ndarray) -> float | None:
    """Return the subset accuracy of the true mode, None where it is too hard to find."""
    try:
        return float((truth.mode(inputs) == labels).all(1).mean())
    except UserError:
        return None
