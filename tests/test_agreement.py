"""A study that is made again agrees with its records, within the tolerance."""

import numpy as np
import pytest
from small_tables import ACCURACY, make_results

from mlresearch.tables import Table
from mlresearch.tables.agreement import compare


def test_means_made_again_agree_within_the_tolerance():
    table = Table([ACCURACY])
    committed = make_results({"a": [0.50, 0.52, 0.54], "b": [0.5] * 3})
    deviation = 2 * np.std([0.50, 0.52, 0.54], ddof=1) / np.sqrt(3)
    a, b = compare(make_results({"a": [0.52, 0.54, 0.56], "b": [0.5] * 3}), committed, table)
    assert a.tolerance == pytest.approx(deviation)
    assert a.within
    assert b.tolerance < deviation
    assert b.within
    assert "agrees" in str(a)
    for shift, within in ((0.9, True), (1.1, False)):
        values = [value + shift * deviation for value in (0.50, 0.52, 0.54)]
        assert compare(make_results({"a": values}), committed, table)[0].within is within
    [line] = compare(make_results({"a": [0.53]}), committed, table)  # one seed made again: compared with itself
    assert (line.committed, line.n, line.within) == (0.50, 1, False)
    assert "DIFFERS" in str(line)
    [line] = compare(make_results({"a": [0.53]}), committed, Table([ACCURACY], tolerance={ACCURACY: 0.04}))
    assert line.within


def test_a_run_without_a_committed_record_agrees_with_nothing():
    committed = make_results({"a": [0.5]})
    for values in ({"a": [0.5, 0.5]}, {"b": [0.5]}):
        [line] = compare(make_results(values), committed, Table([ACCURACY]))
        assert not line.within
        assert "no number committed" in str(line)
    missing = make_results({"a": [None]}, "test.loss.mean")
    assert compare(missing, missing, Table(["test.loss.mean"])) == []  # infinite then, infinite now
