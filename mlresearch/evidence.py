"""Labels of an input that are known when the others are to be predicted."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlresearch.errors import UserError, suggest
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets, LabelSpace


def parse_known(text: str) -> dict[str, int]:
    """Return what a text such as ``label=1,other label=0`` says: 1 for labels that are on, 0 for those that are off.

    A label's name may hold commas and equals signs. Another text is a `UserError`.
    """
    found = re.findall(r"(.+?)=([01])(?:,|$)", text)
    if not found or ",".join(f"{name}={value}" for name, value in found) != text:
        raise UserError(f"--known={text!r} is no list of labels and of whether they are on, such as 'label=1,other=0'")
    known: dict[str, int] = {}
    for name, value in found:
        if known.setdefault(name, int(value)) != int(value):
            raise UserError(f"--known={text!r} says that {name!r} is on and that it is off")
    return known


def close_evidence(
    known: Mapping[str, Any], label_space: LabelSpace, hierarchy: LabelHierarchy | None, where: str
) -> dict[int, bool]:
    """Return what is known by label id, with ancestors of what is on and descendants of what is off.

    Labels that there are not, values other than 0 and 1, and what contradicts the hierarchy are `UserError`s that say
    `where`.
    """
    given: dict[int, bool] = {}
    for name, value in known.items():
        if name not in label_space.index:
            raise UserError(f"{where}: there is no label {name!r}{suggest(str(name), label_space.names)}")
        if value not in (0, 1):
            raise UserError(f"{where}: the label {name!r} is known to be 1 (on) or 0 (off), not {value!r:.40}")
        given[label_space.index[name]] = bool(value)
    if hierarchy is None:
        return given
    on = hierarchy.close(np.array([label for label, value in given.items() if value], np.int32))
    ancestors = hierarchy.ancestors
    off = np.array([label for label, value in given.items() if not value], np.int32)
    below = ancestors.rows[np.isin(ancestors.ids, off)]
    wrong = np.intersect1d(on, np.union1d(off, below)).tolist()
    if wrong:
        above = [label for label in off.tolist() if label in {*ancestors.row(wrong[0]).tolist(), wrong[0]}]
        raise UserError(
            f"{where}: what is known contradicts the hierarchy: {label_space.names[wrong[0]]!r} would be on, and "
            f"{label_space.names[above[0]]!r} is known to be off"
        )
    return dict.fromkeys(on.tolist(), True) | dict.fromkeys([*off.tolist(), *below.tolist()], False)


def evidence_sets(evidence: Sequence[Mapping[int, bool]], num_labels: int) -> LabelSets:
    """Return what is known of some inputs as label sets, in which all other labels are unknown."""
    listed = [[label for label in range(num_labels) if known.get(label, True)] for known in evidence]
    values = [
        [1.0 if label in known else np.nan for label in labels] for labels, known in zip(listed, evidence, strict=True)
    ]
    return LabelSets.from_rows(listed, values)
