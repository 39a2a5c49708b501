"""What is learnt from the training split before the model, and that nothing is learnt from another."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from mlresearch.baselines import NearestDescription, OneVsRest
from mlresearch.config import base_config
from mlresearch.data.columns import Columns
from mlresearch.data.records import SPLITS, Dataset, Records, require_training
from mlresearch.errors import UserError
from mlresearch.inputs import Preprocessing
from mlresearch.label_space import LabelSets, LabelSpace

NAMES = ("a", "b", "c")


def draw(rng, rows):
    features = rng.normal(5, [1, 2, 3], (rows, 3)).astype(np.float32)
    features[rng.random((rows, 3)) < 0.2] = np.nan
    features[:, 2] = 7
    return Records(
        labels=LabelSets.from_rows([np.flatnonzero(rng.random(3) < 0.5).tolist() for _ in range(rows)]),
        keys=tuple(map(str, range(rows))),
        texts=tuple(" ".join(rng.choice(["owl", "wren", "oak", "fish", "herb"], 4)) for _ in range(rows)),
        features=features,
        categories=(tuple(rng.choice(["x", "y", "z", ""], rows)), tuple(rng.choice(["p", "q"], rows))),
    )


def make_dataset(seed):
    """Training rows are the same for every seed; all others, and how many they are, differ."""
    splits = {"train": draw(np.random.default_rng(0), 60)}
    for number, split in enumerate(SPLITS[1:]):
        splits[split] = draw(np.random.default_rng([seed, number]), 10 + seed)
    return Dataset("mixed", splits, LabelSpace(NAMES, NAMES), None, "", {}, ("f", "g", "h"), ("m", "n"))


@pytest.fixture
def config():
    config = base_config()
    config.text.vocab_size = 60
    return config


def test_scales_and_imputation_are_those_of_scikit_learn():
    dataset = make_dataset(1)
    columns = Columns.learn(dataset.train, standardise=True, min_count=1)
    imputer, scaler = SimpleImputer(), StandardScaler()
    scaler.fit(dataset.train.features.astype(np.float64))  # which leaves missing values out
    imputer.fit(dataset.train.features.astype(np.float64))
    for split in SPLITS:
        expected = scaler.transform(imputer.transform(dataset.splits[split].features.astype(np.float64)))
        np.testing.assert_allclose(columns.features(dataset.splits[split]), expected, atol=1e-6)
    plain = Columns.learn(dataset.train, standardise=False, min_count=1)
    np.testing.assert_allclose(
        plain.features(dataset.splits["test"]), imputer.transform(dataset.splits["test"].features), rtol=1e-6
    )


def test_a_column_without_numbers_and_a_constant_one_become_zero():
    features = np.array([[np.nan, 3], [np.nan, 3]], np.float32)
    records = Records(LabelSets.from_rows([[], []]), ("0", "1"), features=features)
    dataset = Dataset("small", dict.fromkeys(SPLITS, records), LabelSpace(NAMES, NAMES), None, "", {}, ("f", "g"))
    columns = Columns.learn(dataset.train, standardise=True, min_count=1)
    assert columns.features(records).tolist() == [[0, 0], [0, 0]]


def test_no_number_overflows():
    """A scale near the smallest number that float32 has, and a value near the largest."""
    features = np.array([[0, 1e-45, 0.0]], np.float32).T
    records = Records(LabelSets.from_rows([[]] * 3), ("0", "1", "2"), features=features)
    dataset = Dataset("small", dict.fromkeys(SPLITS, records), LabelSpace(NAMES, NAMES), None, "", {}, ("f",))
    columns = Columns.learn(dataset.train, standardise=True, min_count=1)
    far = dataclasses.replace(records, features=np.array([[3e38, -3e38, 1.0]], np.float32).T)
    assert np.isfinite(columns.features(far)).all()


def test_categories_are_numbered_by_the_training_split():
    dataset = make_dataset(1)
    columns = Columns.learn(dataset.train, standardise=True, min_count=1)
    assert columns.vocabularies == (("x", "y", "z"), ("p", "q"))
    assert columns.category_sizes == (4, 3)
    unseen = dataclasses.replace(
        dataset.splits["test"].take(np.arange(3)), categories=(("z", "", "new"), ("q", "p", "x"))
    )
    assert columns.categories(unseen).tolist() == [[3, 2], [0, 1], [0, 0]]
    times = dataset.train.categories[0].count("y")
    rarer = Columns.learn(dataset.train, standardise=True, min_count=times + 1)
    assert "y" not in rarer.vocabularies[0]


def test_columns_come_back_from_json_bit_for_bit():
    dataset = make_dataset(1)
    columns = Columns.learn(dataset.train, standardise=True, min_count=1)
    again = Columns.from_json(json.loads(json.dumps(columns.to_json())))
    assert again.to_json() == columns.to_json()
    for damage in ("means", "vocabularies", "feature_names"):
        stored = columns.to_json()
        stored[damage] = stored[damage][:-1]
        with pytest.raises(UserError, match="damaged"):
            Columns.from_json(stored)
        del stored[damage]
        with pytest.raises(UserError, match="damaged"):
            Columns.from_json(stored)


def test_nothing_is_learnt_from_validation_or_test(config):
    """Subwords, scales, vocabularies and baselines are the same bytes, whatever the other splits hold."""
    learnt = []
    for seed in (1, 2):
        dataset = make_dataset(seed)
        preprocessing = Preprocessing.learn(config, dataset.train)
        rows = dataset.train.take(np.arange(20))
        baselines = [made(dataset.train, 3, 0).score(rows.texts, "") for made in (NearestDescription, OneVsRest)]
        encoded = preprocessing.encode(rows)
        learnt.append((preprocessing.identity, encoded.tokens, encoded.features, encoded.categories, *baselines))
    for first, second in zip(*learnt, strict=True):
        assert first == second if isinstance(first, dict) else np.array_equal(first, second)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_to_learn_from_another_split_is_a_type_error(config, split):
    dataset = make_dataset(1)
    records = dataset.splits[split]
    for learn in (
        lambda: Preprocessing.learn(config, records),
        lambda: Columns.learn(records, standardise=True, min_count=1),
        lambda: NearestDescription(records, 3, 0),
        lambda: OneVsRest(records, 3, 0),
    ):
        with pytest.raises(TypeError):  # by annotation under jaxtyping, by `require_training` without
            learn()
    with pytest.raises(TypeError, match="learnt from TrainingRecords only, not from Records"):
        require_training(records)
