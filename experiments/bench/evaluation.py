"""What an evaluation of 98,505 labels takes: memory, which grows with the positives alone, and time."""

import resource
import sys
import time
from collections.abc import Iterator

import numpy as np

from experiments.bench.constraints import random_hierarchy
from mlresearch.decisions import Rules
from mlresearch.evaluate import evaluate, evaluate_validation
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets
from mlresearch.scored import Said, ScoredSplit

ICD_LEVELS = (22, 290, 1_925, 10_900, 18_600, 17_800, 17_000, 31_968)
"""Labels by level, about those of ICD-10-CM down to seventh-character extensions."""

SIZES = (500, 1_000, 2_000)
LONG = 100_000
BATCH = 64
LEAVES = 3
"""Most specific labels an example."""


def bench_evaluation() -> None:
    """Print what it takes to evaluate made scores of validation and test splits, of several sizes one after the other.

    Nothing of the scores is kept from one pass to the next.
    """
    hierarchy = random_hierarchy(ICD_LEVELS, 0.0)
    _ = hierarchy.closure, hierarchy.root
    for _ in made_split(BATCH, hierarchy, "validation")[0]:
        pass
    start = peak_bytes()
    print(f"evaluation: {hierarchy.num_labels:,} labels in {len(ICD_LEVELS)} levels, made scores, on one core\n")
    print(
        f"{'examples':>8} {'positives':>10} {'memory over start':>18} {'validation':>11} {'test':>8} {'an example':>11}"
    )
    example = 0.0
    for size in SIZES:
        example = bench_size(size, hierarchy, start)
    print(f"\na test split of {LONG:,} examples, scores at hand: {LONG * example / 60:.0f} minutes\n")


def bench_size(size: int, hierarchy: LabelHierarchy, start: int) -> float:
    """Print a line, and return the seconds that an example of a test split takes; start: bytes held before."""
    validation, labels = made_split(size, hierarchy, "validation")
    test, _ = made_split(size, hierarchy, "test")
    frequencies = labels.frequencies(hierarchy.num_labels)
    times = [time.process_time()]
    for _ in test:
        pass
    times.append(time.process_time())
    [fitted] = evaluate_validation(validation, 1, hierarchy, Rules(), frequencies)
    assert fitted is not None
    times.append(time.process_time())
    [found] = evaluate(test, [fitted[1]], hierarchy, frequencies)
    assert found is not None
    found.metrics()
    times.append(time.process_time())
    made, on_validation, on_test = np.diff(times).tolist()
    example = (on_test - 2 * made) / size  # two passes, of which each makes the scores
    print(
        f"{size:8,} {len(labels.ids):10,} {(peak_bytes() - start) / 1e6:15,.0f} MB {on_validation:9.1f} s "
        f"{on_test:6.1f} s {1e3 * example:8.1f} ms",
        flush=True,
    )
    return float(example)


def made_split(size: int, hierarchy: LabelHierarchy, name: str) -> tuple[ScoredSplit, LabelSets]:
    """Return a split, whose scores are made as they are asked for, and its truth.

    Marginals are low for most labels, and higher for what is true.
    """
    num_labels = hierarchy.num_labels
    rng = np.random.default_rng(size)
    leaves = np.flatnonzero(hierarchy.num_children == 0)
    drawn = [sorted(rng.choice(leaves, LEAVES, replace=False).tolist()) for _ in range(size)]
    labels = hierarchy.close_sets(LabelSets.from_rows(drawn))
    # Of a label that is off the logarithm is −9 ± 2.2, so that some eight of them pass ½; of one that is on, an eighth.
    noise = np.minimum(2.2 * rng.standard_normal(num_labels + size, np.float32) - 9, -0.01)

    def score() -> Iterator[Said]:
        for start in range(0, size, BATCH):
            rows = np.arange(start, min(start + BATCH, size))
            scores = np.stack([noise[row : row + num_labels] for row in rows])
            scores = np.where(labels.multi_hot(num_labels, rows), scores / 8, scores)[None]
            yield rows, scores, {"mode": scores > np.log(0.5)}, np.zeros((1, len(rows)), np.float32)

    return ScoredSplit(name, "", labels, num_labels, score), labels


def peak_bytes() -> int:
    """Return the most memory that the process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
