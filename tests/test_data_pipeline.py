"""Batches: parts of several processes, values of labels, columns; what is in a batch is what is in the split."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from mlresearch.data.pipeline import Batches, EncodedSplit, Feed, length_buckets
from mlresearch.errors import UserError
from mlresearch.label_space import LabelSets


def make_split(rows=53, values=False, seed=0):
    rng = np.random.default_rng(seed)
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


def test_runs_of_all_seeds_have_batches_of_one_length_at_every_step():
    """Which examples stand together differs, and so one program can train them all without longer padding."""
    batches = Batches(make_split(), 7, 8, (8, 16, 32))
    for number in range(5):
        orders = [batches.order(seed, number) for seed in range(4)]
        rows, buckets = [rows for rows, _ in orders], [buckets for _, buckets in orders]
        assert all(np.array_equal(each, buckets[0]) for each in buckets)
        assert not any(np.array_equal(each, rows[0]) for each in rows[1:])
        for each in rows:
            assert sorted(each[each >= 0]) == list(range(53))
            longest = np.where(each >= 0, batches.split.lengths[each], 0).max(axis=1)
            assert (longest <= np.array(batches.buckets)[buckets[0]]).all()
    assert len(set(buckets[0].tolist())) == 3
    assert not np.array_equal(batches.order(0, 0)[1], batches.order(0, 1)[1])


@pytest.mark.parametrize("values", [False, True])
def test_a_feed_stacks_the_batches_of_every_run(values):
    """Of any steps, over the end of an epoch too; what is beyond them holds no example."""
    batches = Batches(make_split(values=values), 7, 8, (8, 16, 32))  # seven steps an epoch
    alone = {seed: [batch for epoch in range(3) for batch in batches.epoch(seed, epoch)] for seed in (3, 4)}
    feed = Feed(batches, [3, 4])
    for first, number, size in ((0, 4, 4), (4, 6, 9), (10, 0, 2), (5, 9, 9), (0, 1, 1)):
        chunk, buckets = feed.chunk(first, number, size)
        assert chunk.rows.shape == (size, 2, 8)
        assert chunk.inputs.tokens.shape == (size, 2, 8, 32)
        assert not chunk.mask[number:].any()
        for place in range(number):
            one = jax.tree.map(lambda leaf, place=place: leaf[place], chunk).cut(batches.buckets[buckets[place]])
            for run, seed in enumerate((3, 4)):
                got = jax.tree.leaves(jax.tree.map(lambda leaf, run=run: leaf[run], one))
                for left, right in zip(got, jax.tree.leaves(alone[seed][first + place]), strict=True):
                    assert np.array_equal(left, right, equal_nan=left.dtype == np.float32)
    assert feed.bytes_per_step == sum(leaf.nbytes for leaf in jax.tree.leaves(feed.chunk(0, 1, 1)[0]))


def same_examples(joined, places, split):
    """Assert that the examples of `joined` at some places are those of another split, in order."""
    assert np.array_equal(joined.lengths[places], split.lengths)
    width = split.tokens.shape[1]
    assert np.array_equal(joined.tokens[places, :width], split.tokens)
    assert not joined.tokens[places, width:].any()
    assert np.array_equal(joined.features[places], split.features)
    assert np.array_equal(joined.categories[places], split.categories)
    for row, place in enumerate(places.tolist()):
        assert np.array_equal(joined.labels.row(place), split.labels.row(row))
    wanted = split.labels.multi_hot(7), split.labels.known(7)
    got = joined.labels.select(places)
    assert np.array_equal(got.multi_hot(7), wanted[0])
    known = got.known(7)
    assert (known is None or known.all()) if wanted[1] is None else np.array_equal(known, wanted[1])
    values = np.ones(len(split.labels.ids), np.float32) if split.labels.values is None else split.labels.values
    np.testing.assert_array_equal(np.ones(len(got.ids)) if got.values is None else got.values, values)


@pytest.mark.parametrize("values", [(False, False), (True, False), (False, True), (True, True)])
def test_joined_splits_hold_what_both_hold(values):
    """Texts of different lengths, and labels with and without values: a listed label without one is on."""
    one = dataclasses.replace(make_split(31, values[0]), num_tokens=100, num_truncated_tokens=3)
    other = dataclasses.replace(make_split(17, values[1], seed=1), num_tokens=50, num_truncated_tokens=1)
    other = dataclasses.replace(other, lengths=np.minimum(other.lengths, 9), tokens=other.tokens[:, :9])
    for left, right in ((one, other), (other, one)):
        joined = left.join(right)
        assert len(joined) == len(joined.labels) == 48
        assert (joined.num_tokens, joined.num_truncated_tokens) == (150, 4)
        assert (joined.labels.values is None) == (values == (False, False))
        same_examples(joined, np.arange(len(left)), left)
        same_examples(joined, np.arange(len(left), 48), right)


def test_columns_that_a_data_set_lacks_stay_absent_when_joined():
    bare = [dataclasses.replace(make_split(rows), tokens=None, categories=None) for rows in (5, 6)]
    joined = bare[0].join(bare[1])
    assert joined.tokens is None
    assert joined.categories is None
    assert np.array_equal(joined.features, np.concatenate([split.features for split in bare]))


def test_buckets_have_the_least_padding():
    """Against every choice of so many multiples of 8."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        lengths = rng.integers(0, rng.integers(2, 90), rng.integers(0, 60))
        number = int(rng.integers(1, 5))
        buckets = length_buckets(lengths, number)
        last = max(-(-int(lengths.max(initial=1)) // 8) * 8, 8)
        assert buckets[-1] == last
        assert list(buckets) == sorted(set(buckets))
        choices = [
            (*chosen, last) for count in range(number) for chosen in itertools.combinations(range(8, last, 8), count)
        ]
        assert buckets in choices
        padded = [sum(min(end for end in choice if end >= length) for length in lengths) for choice in choices]
        assert padded[choices.index(buckets)] == min(padded)
