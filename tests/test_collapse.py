"""A run whose predictions on validation are all empty, or all full, says so once: as it trains, and in its record."""

import json

import pytest
from small_runs import lines, make_config

from mlresearch.config import replicas, resolve
from mlresearch.data.pipeline import Feed
from mlresearch.fit import MetricsLog, Stopped
from mlresearch.train import train_replicas

EMPTY = "every prediction on validation was empty: no label was on"
FULL = "every prediction on validation was full: all labels were on"


@pytest.fixture
def config(data_dir):
    """Three runs, validated at each of two epochs: what is on counts nothing, as much as what is off, or alone."""
    config = make_config(data_dir)
    config.head.name = "independent"
    config.evaluate.every_epochs = 1.0
    config.optim.learning_rate = 0.03
    config.train.replicas = 3
    config.train.replica_overrides = tuple(
        f"seed=0,loss.binary_cross_entropy.positive_weight={weight}" for weight in ("1e-4", "2", "1e5")
    )
    return config


@pytest.mark.parametrize("select", ["", "loss.mean"])  # watched by modes, or by marginals over ½
def test_a_collapse_is_told_once(config, tmp_path, capsys, select):
    config.train.select = select
    records = train_replicas(config, tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "every prediction" in line]
    assert [record["remarks"] for record in records] == [[f"after epoch 1 {EMPTY}"], [], [f"after epoch 1 {FULL}"]]
    folders = [tmp_path / name for name, _ in replicas(resolve(config))]
    assert said == [f"{folders[0]}: after epoch 1 {EMPTY}", f"{folders[2]}: after epoch 1 {FULL}"]
    validations = [[line["validation"] for line in lines(each) if "validation" in line] for each in folders]
    shares = [[validation["predicted.share"] for validation in own] for own in validations]
    assert (shares[0], shares[2]) == ([0, 0], [1, 1])
    assert 0 < shares[1][0] < 1


def test_a_run_that_goes_on_remembers_and_does_not_repeat_it(config, tmp_path, capsys, monkeypatch):
    chunk, reached = Feed.chunk, []

    def watched(self, first, number, size):
        reached.append(first)
        return chunk(self, first, number, size)

    monkeypatch.setattr(Feed, "chunk", watched)
    with pytest.raises(Stopped):
        train_replicas(config, tmp_path, stop=lambda: reached[-1] >= 11)
    assert capsys.readouterr().err.count("every prediction") == 2
    records = train_replicas(config, tmp_path)
    assert "every prediction" not in capsys.readouterr().err
    assert [record["remarks"] for record in records] == [[f"after epoch 1 {EMPTY}"], [], [f"after epoch 1 {FULL}"]]


def test_the_first_collapse_of_a_log_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    shares = [0.5, 0.0, 1.0, 0.3]
    path.write_text(
        "".join(
            json.dumps({"step": step, "epoch": step / 2, "validation": {"predicted.share": share}}) + "\n"
            for step, share in enumerate(shares)
        )
    )
    for first, expected in ((0, None), (1, f"after epoch 0.5 {EMPTY}"), (3, f"after epoch 0.5 {EMPTY}")):
        other = tmp_path / f"{first}" / "metrics.jsonl"
        other.parent.mkdir()
        other.write_text(path.read_text())
        log = MetricsLog(other, first)
        assert log.collapse == expected
        log.close()
