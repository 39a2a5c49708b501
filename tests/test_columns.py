"""What is learnt from the training split before the model, and that nothing is learnt from another."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import QuantileTransformer, StandardScaler

from mlresearch.baselines import linear_svm, nearest_description, one_vs_rest
from mlresearch.config import base_config, resolve
from mlresearch.data.columns import SCALES, Columns
from mlresearch.data.records import SPLITS, Dataset, Records, require_training
from mlresearch.errors import UserError
from mlresearch.inputs import Preprocessing
from mlresearch.label_space import LabelSets, LabelSpace
from mlresearch.vectors import Vectors

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


def numbers(features):
    """Examples with numeric columns alone."""
    features = np.asarray(features, np.float32)
    return Records(LabelSets.from_rows([[]] * len(features)), tuple(map(str, range(len(features)))), features=features)


def learn(features, scale):
    """The columns that training rows of these numbers teach."""
    features = np.asarray(features, np.float32)
    splits = dict.fromkeys(SPLITS, numbers(features))
    names = tuple(f"column {place}" for place in range(features.shape[1]))
    dataset = Dataset("small", splits, LabelSpace(NAMES, NAMES), None, "", {}, names)
    return Columns.learn(dataset.train, scale=scale, min_count=1)


@pytest.fixture
def config():
    config = base_config()
    config.text.vocab_size = 60
    return config


def test_scales_and_imputation_are_those_of_scikit_learn():
    dataset = make_dataset(1)
    columns = Columns.learn(dataset.train, scale="standard", min_count=1)
    imputer, scaler = SimpleImputer(), StandardScaler()
    scaler.fit(dataset.train.features.astype(np.float64))  # which leaves missing values out
    imputer.fit(dataset.train.features.astype(np.float64))
    for split in SPLITS:
        expected = scaler.transform(imputer.transform(dataset.splits[split].features.astype(np.float64)))
        np.testing.assert_allclose(columns.features(dataset.splits[split]), expected, atol=1e-6)
    plain = Columns.learn(dataset.train, scale="none", min_count=1)
    np.testing.assert_allclose(
        plain.features(dataset.splits["test"]), imputer.transform(dataset.splits["test"].features), rtol=1e-6
    )


@pytest.mark.parametrize("scale", ["standard", "quantile"])
def test_a_column_without_numbers_and_a_constant_one_become_zero(scale):
    features = [[np.nan, 3], [np.nan, 3], [np.nan, np.nan]]
    assert learn(features, scale).features(numbers(features)).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("scale", SCALES)
def test_no_number_overflows(scale):
    """A scale near the smallest number that float32 has, and a value near the largest."""
    columns = learn([[0], [1e-45], [0]], scale)
    assert np.isfinite(columns.features(numbers([[3e38], [-3e38], [1]]))).all()


@pytest.mark.parametrize("scale", SCALES)
def test_a_missing_number_counts_as_the_mean_of_the_numbers_before_they_are_scaled(scale):
    columns = learn([[1], [2], [9], [np.nan]], scale)
    missing, mean, median = columns.features(numbers([[np.nan], [4], [2]]))
    assert missing == mean != median


@pytest.mark.parametrize("rows", [1, 2, 3, 50, 999, 1000])
def test_quantiles_are_those_of_ranks(rows):
    """By the ranks of SciPy, from ½, with and without ties and missing values."""
    rng = np.random.default_rng(rows)
    features = np.stack([rng.normal(size=rows), rng.integers(0, 7, rows), rng.gamma(0.1, size=rows)], 1)
    features[rng.random((rows, 3)) < 0.2] = np.nan
    features = features.astype(np.float32)
    got = learn(features, "quantile").features(numbers(features))
    for column, known, inputs in zip(features.T, ~np.isnan(features.T), got.T, strict=True):
        ranks = stats.rankdata(column[known]) - 0.5
        np.testing.assert_allclose(inputs[known], stats.norm.ppf(ranks / known.sum()), rtol=1e-6, atol=1e-7)


def test_quantiles_agree_with_scikit_learn():
    """Whose ranks of n values run from 0 to 1 in steps of 1 / (n − 1), not from 1 / 2n in steps of 1 / n."""
    rng = np.random.default_rng(0)
    training, others = rng.gamma(2, size=(400, 2)).astype(np.float32), rng.gamma(2, size=(300, 2)).astype(np.float32)
    reference = QuantileTransformer(n_quantiles=400).fit(training)
    columns = learn(training, "quantile")
    for features, step in ((training, 0), (others, 1)):  # between values, the two interpolate in different scales
        shares = stats.norm.cdf(columns.features(numbers(features)))
        assert np.abs(shares - reference.transform(features)).max() <= (step + 0.5) / 400 + 1e-6


def test_of_many_values_a_thousand_are_kept_evenly_by_rank():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5000, 2)).astype(np.float32)
    features[:2500, 1] = 0.25
    columns = learn(features, "quantile")
    kept = [len(values) for values, _ in columns.to_json()["quantiles"]]
    assert kept[0] == 1000
    assert 500 <= kept[1] <= 502  # a value that half the rows have is kept once
    got = columns.features(numbers(features))
    shares = (stats.rankdata(features, axis=0) - 0.5) / 5000
    assert np.abs(stats.norm.cdf(got[:, 0]) - shares[:, 0]).max() <= 1 / 999 + 1 / 5000
    exact = [np.argmin(features[:, 0]), np.argmax(features[:, 0])]
    np.testing.assert_allclose(got[exact, 0], stats.norm.ppf([1 / 10000, 1 - 1 / 10000]), rtol=1e-6)
    np.testing.assert_allclose(got[:2500, 1], stats.norm.ppf(shares[0, 1]), rtol=1e-5, atol=1e-7)


def test_quantiles_rise_with_the_number_and_end_with_the_training_values():
    rng = np.random.default_rng(0)
    training = rng.integers(-40, 40, (100, 1)) / 8
    training[:2, 0] = -6, 6  # once each
    columns = learn(training, "quantile")
    got = columns.features(numbers(np.linspace(-9, 9, 3001)[:, None]))[:, 0]
    inside = np.abs(np.linspace(-9, 9, 3001)) < 6
    assert (np.diff(got[inside]) > 0).all()
    low, high = columns.features(numbers([[-6], [6]]))[:, 0]
    assert set(got[~inside]) == {low, high}
    np.testing.assert_allclose([low, high], stats.norm.ppf([0.005, 0.995]), rtol=1e-6)


@pytest.mark.parametrize("ones", [1, 5, 9])
def test_a_binary_column_has_two_quantiles_symmetric_in_rank(ones):
    zero, one = stats.norm.cdf(learn([[0]] * (10 - ones) + [[1]] * ones, "quantile").features(numbers([[0], [1]])))[
        :, 0
    ]
    assert zero == pytest.approx((10 - ones) / 20, abs=1e-6)
    assert 1 - one == pytest.approx(ones / 20, abs=1e-6)


def test_a_column_constant_in_training_is_zero_for_every_number():
    columns = learn([[3, np.nan]] * 4, "quantile")
    assert columns.features(numbers([[-7, -7], [3, 3], [7, np.nan]])).tolist() == [[0, 0]] * 3


def test_quantiles_do_not_depend_on_the_order_of_rows_nor_on_a_rising_map_of_numbers():
    rng = np.random.default_rng(0)
    training = rng.integers(0, 2000, (3000, 2)).astype(np.float32)  # whole numbers: their mean is exact in any order
    training[rng.random((3000, 2)) < 0.1] = np.nan
    seen = numbers(training)
    got = learn(training, "quantile").features(seen)
    assert np.array_equal(learn(rng.permutation(training), "quantile").features(seen), got)
    few = training[:900]
    cubes = few**3 - 5
    one, other = (learn(rows, "quantile").features(numbers(rows)) for rows in (few, cubes))
    known = ~np.isnan(few)
    assert np.array_equal(one[known], other[known])


@pytest.mark.parametrize(("scale", "said"), [("quantil", "did you mean 'quantile'"), ("x", "none, quantile, standard")])
def test_an_unknown_scale_is_an_error_that_names_the_choices(config, scale, said):
    config.columns.scale = scale
    with pytest.raises(UserError, match=f"config.columns.scale is '{scale}'.*{said}"):
        resolve(config)


def test_categories_are_numbered_by_the_training_split():
    dataset = make_dataset(1)
    columns = Columns.learn(dataset.train, scale="standard", min_count=1)
    assert columns.vocabularies == (("x", "y", "z"), ("p", "q"))
    assert columns.category_sizes == (4, 3)
    unseen = dataclasses.replace(
        dataset.splits["test"].take(np.arange(3)), categories=(("z", "", "new"), ("q", "p", "x"))
    )
    assert columns.categories(unseen).tolist() == [[3, 2], [0, 1], [0, 0]]
    times = dataset.train.categories[0].count("y")
    rarer = Columns.learn(dataset.train, scale="standard", min_count=times + 1)
    assert "y" not in rarer.vocabularies[0]


@pytest.mark.parametrize("scale", SCALES)
def test_columns_come_back_from_json_bit_for_bit(scale):
    dataset = make_dataset(1)
    columns = Columns.learn(dataset.train, scale=scale, min_count=1)
    again = Columns.from_json(json.loads(json.dumps(columns.to_json())))
    assert again.to_json() == columns.to_json()
    for records in dataset.splits.values():
        assert again.features(records).tobytes() == columns.features(records).tobytes()
    with pytest.raises(UserError, match="ranks"):
        Columns.from_json(columns.to_json() | {"scale": "ranks"})
    for damage in ("means", "deviations", "vocabularies", "feature_names", *["quantiles"] * (scale == "quantile")):
        stored = columns.to_json()
        stored[damage] = stored[damage][:-1]
        with pytest.raises(UserError, match="damaged"):
            Columns.from_json(stored)
        del stored[damage]
        with pytest.raises(UserError, match="damaged"):
            Columns.from_json(stored)


@pytest.mark.parametrize("scale", ["standard", "quantile"])
def test_nothing_is_learnt_from_validation_or_test(config, scale):
    """Subwords, scales, vocabularies and baselines are the same bytes, whatever the other splits hold."""
    config.columns.scale = scale
    learnt = []
    for seed in (1, 2):
        dataset = make_dataset(seed)
        preprocessing = Preprocessing.learn(config, dataset.train)
        rows = dataset.train.take(np.arange(20))
        made = (linear_svm, nearest_description, one_vs_rest)
        baselines = [each.Baseline(dataset, config).score(rows)[:2] for each in made]
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
        lambda: Columns.learn(records, scale="standard", min_count=1),
        lambda: Vectors.learn(config.columns, 1, records),
    ):
        with pytest.raises(TypeError):  # by annotation under jaxtyping, by `require_training` without
            learn()
    with pytest.raises(TypeError, match="learnt from TrainingRecords only, not from Records"):
        require_training(records)
