"""What a data set is like, in figures: inputs, label sets, imbalance, hierarchy, labels that come together.

A label is *on* in an example where its value is over ½ (`LabelSets.on`); a label of which nothing is known is not on.
The label set of an example is the set of labels that are on in it, the empty set among them.
"""

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.markup
import rich.table
import scipy.sparse
import scipy.special

from mlresearch.data.records import Dataset, Records
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets, LabelSpace

FEW = 10
"""A label with fewer training examples than this counts as rare."""

NUM_FREQUENT = 10
NUM_PAIRS = 20
BLOCK = 256  # labels whose co-occurrences are counted at once


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return the figures of a data set, JSON-able and without NaN: None is what is not defined or not there.

    - ``examples``: by split. ``inputs``: see `describe_inputs`; ``label_values``: see `describe_label_values`. Both are
      over all splits.
    - ``label_sets``: by split, see `describe_label_sets`.
    - ``imbalance``, ``cooccurrence``: of the training split, see `describe_imbalance` and `cooccurring_pairs`.
    - ``hierarchy``: see `describe_hierarchy`; None where labels are flat. ``overlaps``: rows of one split whose input
      stands in another. ``notes``: all facts that the source and its preparation state; ``about``:
      what the source says of itself.
    """
    num_labels, train = dataset.label_space.num_labels, dataset.splits["train"].labels
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "num_labels": num_labels,
        "label_space_hash": dataset.label_space.hash,
        "examples": {split: len(records) for split, records in dataset.splits.items()},
        "inputs": describe_inputs(dataset),
        "label_values": describe_label_values(dataset),
        "label_sets": {
            split: describe_label_sets(records.labels, None if split == "train" else train, num_labels)
            for split, records in dataset.splits.items()
        },
        "imbalance": describe_imbalance(train, dataset.label_space),
        "hierarchy": None if dataset.hierarchy is None else describe_hierarchy(dataset),
        "overlaps": dataset.notes.get("overlaps"),
        "cooccurrence": cooccurring_pairs(train, dataset.label_space, dataset.hierarchy),
        "notes": dataset.notes,
        "about": dataset.about,
    }


def describe_inputs(dataset: Dataset) -> dict[str, Any]:
    """Return the figures of texts, numeric features and categorical columns, each None where there are none.

    ``text``: mean, median and maximum of a text's length in characters and in words, which are what white space
    divides. ``features``, ``categories``: their number and the share of cells that are missing; for each categorical
    column how many values it takes, the missing one not among them.
    """
    splits: list[Records] = list(dataset.splits.values())
    texts = [text for records in splits for text in records.texts or ()]
    numbers = [records.features for records in splits if records.features is not None]
    columns: list[list[str]] = [[] for _ in dataset.category_names]
    for records in splits:
        for column, values in zip(columns, records.categories or (), strict=records.categories is not None):
            column.extend(values)
    return {
        "text": {
            "characters": _lengths([len(text) for text in texts]),
            "words": _lengths([len(text.split()) for text in texts]),
        }
        if texts
        else None,
        "features": {
            "number": numbers[0].shape[1],
            "missing_share": _ratio(sum(int(np.isnan(part).sum()) for part in numbers), sum(map(np.size, numbers))),
        }
        if numbers
        else None,
        "categories": {
            "number": len(columns),
            "missing_share": _ratio(sum(column.count("") for column in columns), sum(map(len, columns))),
            "num_values": {
                name: len(set(column) - {""}) for name, column in zip(dataset.category_names, columns, strict=True)
            },
        }
        if columns
        else None,
    }


def describe_label_values(dataset: Dataset) -> dict[str, Any]:
    """Return how many labels rows list, over all splits, and the shares of these that are soft and that are unknown.

    A soft label has a probability below 1; labels that a row does not list are off and in no share.
    """
    labels = [records.labels for records in dataset.splits.values()]
    values = np.concatenate([np.ones(len(part.ids)) if part.values is None else part.values for part in labels])
    return {
        "listed": len(values),
        "soft_share": _ratio(int((values < 1).sum()), len(values)),
        "unknown_share": _ratio(int(np.isnan(values).sum()), len(values)),
    }


def describe_label_sets(labels: LabelSets, train: LabelSets | None, num_labels: int) -> dict[str, Any]:
    """Return the figures of one split's label sets; what compares them with `train` is None where that is None.

    - ``label_cardinality``: mean labels an example; ``label_density``: cardinality / num_labels. Source: Tsoumakas and
      Katakis, "Multi-label classification: an overview", 2007.
    - ``max_labels``: of the largest label set. ``labels``: labels on in some example.
    - ``distinct_label_sets``; ``label_sets_in_train_share``: share of examples whose label set also stands in train.
    - ``not_in_train``: the labels that are on in this split and never in train, and their occurrences: number and share
      of all occurrences of labels in this split.
    - ``unlabelled``: examples without a label that is on.
    """
    counts, label_sets = labels.counts(num_labels), _label_sets(labels)
    sizes = np.bincount(labels.rows[labels.on], minlength=len(labels))
    cardinality = _ratio(int(sizes.sum()), len(labels))
    found: dict[str, Any] = {
        "label_cardinality": cardinality,
        "label_density": None if cardinality is None else cardinality / num_labels,
        "max_labels": int(sizes.max(initial=0)),
        "labels": int((counts > 0).sum()),
        "unlabelled": int((sizes == 0).sum()),
        "distinct_label_sets": len(set(label_sets)),
        "label_sets_in_train_share": None,
        "not_in_train": None,
    }
    if train is not None:
        known = set(_label_sets(train))
        found["label_sets_in_train_share"] = _ratio(sum(row in known for row in label_sets), len(labels))
        new = np.where(train.counts(num_labels) == 0, counts, 0)
        found["not_in_train"] = {
            "labels": int((new > 0).sum()),
            "occurrences": int(new.sum()),
            "occurrences_share": _ratio(int(new.sum()), int(counts.sum())),
        }
    return found


def describe_imbalance(labels: LabelSets, label_space: LabelSpace) -> dict[str, Any]:
    """Return how unevenly examples are spread over labels.

    - ``mean_irlbl``, ``max_irlbl``: IRLbl of a label is the count of the most frequent label over its own; the mean is
      over labels that occur, since IRLbl of any other is infinite. ``cvir``: standard deviation (n − 1) of IRLbl over
      its mean. Source: Charte, Rivera, del Jesus and Herrera, "Addressing imbalance in multilabel classification:
      measures and random resampling algorithms", 2015.
    - ``gini``: Gini coefficient of the counts x₁ ≤ … ≤ xₙ of all labels, Σᵢ (2i − n − 1) xᵢ / (n Σᵢ xᵢ): 0 where all
      are as frequent, (n − 1) / n where one has all. Source: Gini, "Variabilità e mutabilità", 1912.
    - ``labels_never``, ``labels_rare``: labels without an example, and with fewer than `FEW`, those without included.
    - ``most_frequent``: names and counts of `NUM_FREQUENT` labels.
    """
    counts = np.sort(labels.counts(label_space.num_labels))
    occurring = counts[counts > 0]
    irlbl = occurring.max(initial=0) / occurring
    weights = 2 * np.arange(1, len(counts) + 1) - len(counts) - 1
    names = sorted(zip((-labels.counts(label_space.num_labels)).tolist(), label_space.names, strict=True))
    return {
        "mean_irlbl": float(irlbl.mean()) if len(irlbl) else None,
        "max_irlbl": float(irlbl.max()) if len(irlbl) else None,
        "cvir": float(irlbl.std(ddof=1) / irlbl.mean()) if len(irlbl) > 1 else None,
        "gini": _ratio(int(weights @ counts), int(len(counts) * counts.sum())),
        "labels_never": int((counts == 0).sum()),
        "labels_rare": int((counts < FEW).sum()),
        "most_frequent": [{"label": name, "count": -count} for count, name in names[:NUM_FREQUENT] if count],
    }


def describe_hierarchy(dataset: Dataset) -> dict[str, Any]:
    """Return the figures of a hierarchy and of how label sets lie in it; of label sets over all splits.

    - ``shape``: "tree" (or several, one a root), or "dag" where ``labels_with_several_parents`` is not 0.
    - ``num_levels``, ``labels_per_level``: the level of a label is the length of the longest path to it from a root.
    - ``mean_branching_factor``: mean number of children over labels that have any.
    - ``single_path_share``: share of labelled examples with one most specific label, which is one none of whose
      children is on: on a tree such a label set is one path from a root.
    - ``leaf_share``: share of most specific labels, counted in each example, that are leaves of the hierarchy: 1 where
      all paths end at leaves.
    """
    hierarchy = dataset.hierarchy
    if hierarchy is None:
        raise ValueError("a data set with flat labels has no hierarchy")
    is_leaf, num_edges = hierarchy.num_children == 0, len(hierarchy.children)
    size = hierarchy.num_labels
    parent_of = scipy.sparse.csr_array(
        (np.ones(num_edges, np.int64), (hierarchy.children, hierarchy.parents)), (size, size)
    )
    labelled = single = specific = at_leaves = 0
    for records in dataset.splits.values():
        on = records.labels.sparse(size)
        # A label that is on and has no child that is on stays 1, since it is no parent of any.
        most_specific = (on - on.multiply(on @ parent_of > 0)).tocsr()
        number = most_specific.sum(1)
        labelled += int((number > 0).sum())
        single += int((number == 1).sum())
        specific += int(number.sum())
        at_leaves += int((most_specific @ is_leaf.astype(np.int64)).sum())
    return {
        "shape": "tree" if hierarchy.is_forest else "dag",
        "edges": num_edges,
        "roots": int((hierarchy.num_parents == 0).sum()),
        "leaves": int(is_leaf.sum()),
        "labels_with_several_parents": int((hierarchy.num_parents > 1).sum()),
        "num_levels": int(hierarchy.levels.max(initial=-1)) + 1,
        "labels_per_level": np.bincount(hierarchy.levels).tolist(),
        "mean_branching_factor": _ratio(num_edges, int((~is_leaf).sum())),
        "single_path_share": _ratio(single, labelled),
        "leaf_share": _ratio(at_leaves, specific),
    }


def cooccurring_pairs(
    labels: LabelSets, label_space: LabelSpace, hierarchy: LabelHierarchy | None, number: int = NUM_PAIRS
) -> list[dict[str, Any]]:
    """Return the pairs of labels that tell most of each other among those that come together more than by chance.

    With n examples, of which a have the one label, b the other and c both:

    - ``count`` is c; ``lift`` is c n / (a b), over 1 for all pairs returned. Source: Brin, Motwani, Ullman and Tsur,
      "Dynamic itemset counting and implication rules for market basket data", 1997, who call it interest.
    - ``phi`` is (c n − a b) / √(a b (n − a) (n − b)), the correlation of the two.
    - ``mutual_information`` is that of the two, in bits, by which pairs are ranked: lift and phi would put pairs of
      labels first that occur once. It is the likelihood ratio G² over 2 n ln 2. Source: Dunning, "Accurate methods for
      the statistics of surprise and coincidence", 1993.

    A label and its ancestor come together by definition and are left out. The more frequent label of a pair comes
    first; names decide between equals. Pairs are counted `BLOCK` labels at a time, so that memory is bounded.
    """
    counts = labels.counts(label_space.num_labels)
    occurring = np.flatnonzero(counts)  # columns from here on, in the order of their names
    occurring = occurring[sorted(range(len(occurring)), key=lambda at: label_space.names[occurring[at]])]
    names, counts, num_examples = [label_space.names[label] for label in occurring], counts[occurring], len(labels)
    on = labels.sparse(label_space.num_labels)[:, occurring]
    related = scipy.sparse.csr_array((len(occurring), len(occurring)), dtype=np.int64)
    if hierarchy is not None:
        above = hierarchy.ancestors.sparse(label_space.num_labels)[occurring][:, occurring]
        related = (above + above.T).tocsr()

    best = np.zeros((0, 4))  # the negatives of mutual information and of count, and the two columns
    columns = on.T.tocsr()
    for start in range(0, len(occurring), BLOCK):
        together = columns[start : start + BLOCK] @ on
        together = (together - together.multiply(related[start : start + BLOCK])).tocoo()
        left, right, both = together.row + start, together.col, together.data
        kept = (left < right) & (both * num_examples > counts[left] * counts[right])
        left, right, both = left[kept], right[kept], both[kept]
        information = _mutual_information(both, counts[left], counts[right], num_examples)
        best = np.concatenate([best, np.stack([-information, -both, left, right], 1)])
        if len(best) > number:  # what is below the last that can be kept need not be sorted
            best = best[best[:, 0] <= np.partition(best[:, 0], number - 1)[number - 1]]
        best = best[np.lexsort(best.T[::-1])][:number]

    pairs = []
    for score, minus_count, left, right in best.tolist():
        one, other = sorted((int(left), int(right)), key=lambda column: -counts[column])
        a, b, c = float(counts[one]), float(counts[other]), -minus_count
        excess = c * num_examples - a * b
        pairs.append(
            {
                "labels": [names[one], names[other]],
                "count": int(c),
                "lift": c * num_examples / (a * b),
                "phi": excess / (a * b * (num_examples - a) * (num_examples - b)) ** 0.5,
                "mutual_information": -score,
            }
        )
    return pairs


def _mutual_information(both: np.ndarray, one: np.ndarray, other: np.ndarray, number: int) -> np.ndarray:
    """Mutual information of two binary variables, in bits, from the counts of 1 in both, in either and of all."""
    # The same additions in the same order whichever label comes first, so that equal pairs are equal bit for bit.
    low, high = np.minimum(one, other), np.maximum(one, other)
    total = np.zeros(len(both))
    for joint, left, right in (
        (both, low, high),
        (low - both, low, number - high),
        (high - both, number - low, high),
        (number - low - high + both, number - low, number - high),
    ):
        total += scipy.special.rel_entr(joint / number, left / number * (right / number))
    return total / np.log(2)


def _label_sets(labels: LabelSets) -> list[bytes]:
    """Return the label set of each example as bytes that are equal where label sets are."""
    on = labels.on
    ids, offsets = labels.ids[on], np.concatenate([[0], np.cumsum(on)])[labels.offsets].tolist()
    return [ids[start:stop].tobytes() for start, stop in itertools.pairwise(offsets)]


def _lengths(lengths: Sequence[int]) -> dict[str, float | int]:
    return {"mean": float(np.mean(lengths)), "median": float(np.median(lengths)), "max": max(lengths)}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def print_description(description: dict[str, Any], console: rich.console.Console | None = None) -> None:
    """Print what `describe` returns as tables, on standard output unless a console is given."""
    console = rich.console.Console() if console is None else console
    inputs, values, imbalance = description["inputs"], description["label_values"], description["imbalance"]
    facts = [
        ("fingerprint", description["fingerprint"]),
        ("labels", _number(description["num_labels"])),
        ("label space", description["label_space_hash"]),
    ]
    for unit, lengths in (inputs["text"] or {}).items():
        figures = f"mean {lengths['mean']:,.1f}, median {lengths['median']:,.1f}, max {lengths['max']:,}"
        facts.append((f"{unit} a text", figures))
    for kind in ("features", "categories"):
        if inputs[kind]:
            missing = _share(inputs[kind]["missing_share"])
            facts.append((f"{kind}", f"{inputs[kind]['number']:,}, {missing} of cells missing"))
    if values["soft_share"]:
        facts.append(("soft labels", f"{_share(values['soft_share'])} of the labels that rows list"))
    if values["unknown_share"]:
        facts.append(("unknown labels", f"{_share(values['unknown_share'])} of the labels that rows list"))
    _print_facts(console, description["name"], facts)

    by_split = description["label_sets"]
    rows = [("examples", [_number(number) for number in description["examples"].values()])]
    for title, key, written in (
        ("label cardinality", "label_cardinality", lambda value: "-" if value is None else f"{value:.3f}"),
        ("label density", "label_density", lambda value: "-" if value is None else f"{value:.3g}"),
        ("labels of the largest set", "max_labels", _number),
        ("examples without labels", "unlabelled", _number),
        ("labels that occur", "labels", _number),
        ("distinct label sets", "distinct_label_sets", _number),
        ("examples whose set is in train", "label_sets_in_train_share", _share),
    ):
        rows.append((title, [written(figures[key]) for figures in by_split.values()]))
    for title, key, written in (
        ("labels not in train", "labels", _number),
        ("their occurrences", "occurrences", _number),
        ("their share of occurrences", "occurrences_share", _share),
    ):
        new = [figures["not_in_train"] for figures in by_split.values()]
        rows.append((title, ["-" if found is None else written(found[key]) for found in new]))
    _print_table(console, "Label sets", ["", *by_split], [[title, *cells] for title, cells in rows])

    _print_facts(
        console,
        "Imbalance in train",
        [
            ("mean imbalance ratio (IRLbl)", _number(imbalance["mean_irlbl"])),
            ("largest imbalance ratio", _number(imbalance["max_irlbl"])),
            ("its coefficient of variation (CVIR)", _number(imbalance["cvir"])),
            ("Gini coefficient", _number(imbalance["gini"])),
            ("labels without an example", _number(imbalance["labels_never"])),
            (f"labels with fewer than {FEW}", _number(imbalance["labels_rare"])),
            *((f"most frequent: {found['label']}", _number(found["count"])) for found in imbalance["most_frequent"]),
        ],
    )
    hierarchy = description["hierarchy"]
    if hierarchy is None:
        _print_facts(console, "Hierarchy", [("shape", "none: labels are flat")])
    else:
        _print_facts(
            console,
            "Hierarchy",
            [
                ("shape", hierarchy["shape"]),
                ("edges", _number(hierarchy["edges"])),
                ("roots", _number(hierarchy["roots"])),
                ("leaves", _number(hierarchy["leaves"])),
                ("labels with several parents", _number(hierarchy["labels_with_several_parents"])),
                ("labels a level", "  ".join(map(_number, hierarchy["labels_per_level"]))),
                ("mean branching factor", _number(hierarchy["mean_branching_factor"])),
                ("label sets that are one path", _share(hierarchy["single_path_share"])),
                ("paths that end at a leaf", _share(hierarchy["leaf_share"])),
            ],
        )
    if not description["cooccurrence"]:
        console.print("No labels come together in train more often than by chance.\n")
    else:
        pairs = [
            [*pair["labels"], _number(pair["count"]), f"{pair['lift']:.3g}", f"{pair['phi']:.2f}"]
            for pair in description["cooccurrence"]
        ]
        title = "Labels that come together in train more often than by chance, by mutual information"
        _print_table(console, title, ["label", "label", "examples", "lift", "phi"], pairs, texts=2)
    if description["overlaps"] is not None:
        overlaps = [(where, _number(number)) for where, number in description["overlaps"].items()]
        _print_facts(console, "Rows whose input stands in another split", overlaps)
    notes = {name: note for name, note in description["notes"].items() if name != "overlaps"}
    _print_facts(console, "Notes", [(name, shortened(note)) for name, note in notes.items()])
    about = {name: " ".join(text.split()) for name, text in description["about"].items() if name != "citation"}
    _print_facts(console, "About", [(name, text) for name, text in about.items() if text])


def _print_facts(console: rich.console.Console, title: str, facts: Iterable[tuple[str, str]]) -> None:
    _print_table(console, title, [], [list(fact) for fact in facts], texts=2)


def _print_table(
    console: rich.console.Console, title: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1
) -> None:
    """Print rows of cells under a title; the first `texts` columns are aligned left, the numbers after them right."""
    if not rows:
        return
    table = rich.table.Table(box=None, pad_edge=False, show_header=bool(header), padding=(0, 3, 0, 0))
    for number in range(len(rows[0])):
        name = rich.markup.escape(header[number]) if header else ""
        table.add_column(name, justify="left" if number < texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(rich.markup.escape, row))
    console.print(f"[bold]{rich.markup.escape(title)}[/bold]")
    console.print(table)
    console.print()


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def shortened(note: Any) -> str:
    """Return a note on a data set as text, the beginning of a long one."""
    text = note if isinstance(note, str) else json.dumps(note, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:180]}… (--json shows all)"
