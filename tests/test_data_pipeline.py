"""Batches: parts of several processes, values of labels, columns; what is in a batch is what is in the split."""

import dataclasses

import jax
import numpy as np
import pytest

from mlresearch.data.pipeline import Batches, EncodedSplit
from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets


def make_split(rows=53, values=False):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, rows).astype(np.int32)
    ids = [np.flatnonzero(rng.random(7) < 0.3).tolist() for _ in range(rows)]
    probabilities = [rng.choice([0.25, 1, np.nan], len(row)).tolist() for row in ids]
    return EncodedSplit(
        labels=LabelSets.from_rows(ids, probabilities if values else None),
        lengths=lengths,
        tokens=rng.integers(1, 99, (rows, lengths.max())).astype(np.int32)
        * (np.arange(lengths.max()) < lengths[:, None]),
        features=rng.normal(size=(rows, 3)).astype(np.float32),
        categories=rng.integers(0, 5, (rows, 2)).astype(np.int32),
    )


@pytest.mark.parametrize("count", [2, 4])
def test_the_parts_of_processes_are_the_whole(count):
    whole = Batches(make_split(values=True), 7, 8, (8, 16, 32))
    parts = [dataclasses.replace(whole, process=(index, count)) for index in range(count)]
    for passing in (
        lambda batches: batches.once(),
        lambda batches: batches.epoch(3, 1),
        lambda batches: batches.epoch(3, 1, 4),
    ):
        for one, *several in zip(passing(whole), *map(passing, parts), strict=True):
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *several)
            # Rows under the mask hold no example; which ones they repeat may differ.
            for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(joined), strict=True):
                assert left.shape == right.shape
                np.testing.assert_array_equal(left[one.mask], right[one.mask])
            assert np.array_equal(one.mask, joined.mask)


def test_a_batch_that_processes_do_not_divide_is_refused():
    with pytest.raises(UserError, match="a batch of 8 cannot be shared by 3 processes"):
        Batches(make_split(), 7, 8, (32,), process=(0, 3))


@pytest.mark.parametrize("values", [False, True])
def test_a_batch_holds_what_the_split_holds(values):
    split = make_split(values=values)
    for batch in Batches(split, 7, 8, (8, 16, 32)).epoch(0, 0):
        assert (batch.label_values is None) == (not values)
        for place in np.flatnonzero(batch.mask):
            row = int(batch.rows[place])
            length = split.lengths[row]
            np.testing.assert_array_equal(batch.inputs.tokens[place, :length], split.tokens[row, :length])
            assert (batch.inputs.tokens[place, length:] == 0).all()
            assert batch.inputs.token_mask[place].sum() == length
            np.testing.assert_array_equal(batch.inputs.features[place], split.features[row])
            np.testing.assert_array_equal(batch.inputs.categories[place], split.categories[row])
            listed = batch.label_ids[place] < 7
            np.testing.assert_array_equal(batch.label_ids[place][listed], split.labels.row(row))
            if values:
                own = split.labels.values[split.labels.offsets[row] : split.labels.offsets[row + 1]]
                np.testing.assert_array_equal(batch.label_values[place][listed], own)
                assert (batch.label_values[place][~listed] == 0).all()


def test_going_on_in_the_middle_of_an_epoch_gives_the_batches_left():
    batches = Batches(make_split(), 7, 8, (16, 32))
    whole = list(batches.epoch(5, 2))
    for start in (0, 3, len(whole)):
        left = list(batches.epoch(5, 2, start))
        assert [batch.rows.tolist() for batch in left] == [batch.rows.tolist() for batch in whole[start:]]
