"""An ensemble is the mean of its members' distributions, and one run of a study."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_losses import label_loss
from small_study import write_study
from test_heads import distribution, make_head, random_scores
from test_hierarchy import random_dag
from test_model_card import same
from test_sweep import records, run

from mlresearch import workdir
from mlresearch.cli import main
from mlresearch.ensemble import MeanMarginals, combine
from mlresearch.errors import UserError
from mlresearch.hierarchy_index import index_hierarchy
from mlresearch.inputs import load_dataset, make_batches
from mlresearch.intervals import run_intervals
from mlresearch.predict import Run
from mlresearch.study import Study
from mlresearch.sweep import plan

HEADS = [
    ("independent", {}, True),
    ("conditional", {"siblings": "any"}, False),
    ("conditional", {"siblings": "at_most_one"}, True),
    ("conditional", {"siblings": "hurdle"}, True),
    ("mixture", {"components": 2, "of": "conditional", "siblings": "any"}, True),
    ("mixture", {"components": 2, "of": "independent", "siblings": "any"}, True),
]


@pytest.mark.parametrize(("name", "options", "forest"), HEADS)
def test_the_mean_of_distributions(name, options, forest):
    """Every label set of two examples, three members."""
    hierarchy = random_dag(np.random.default_rng(0), 6, forest=forest)
    head = make_head(name, options, hierarchy)
    members = [distribution(head, random_scores(head, hierarchy, 2, seed)) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    ensemble = combine(stacked, index_hierarchy(hierarchy, closure=False))
    sets = jnp.asarray(list(itertools.product([False, True], repeat=6)))

    def log_probs(dist):
        return np.stack([dist.log_prob(jnp.broadcast_to(labels, (2, 6))) for labels in sets])

    probs = np.exp(np.stack([log_probs(member) for member in members])).mean(0)
    np.testing.assert_allclose(np.exp(log_probs(ensemble)), probs, rtol=1e-4, atol=1e-7)
    marginals = np.mean([np.exp(member.log_marginals) for member in members], axis=0)
    np.testing.assert_allclose(np.exp(ensemble.log_marginals), marginals, rtol=1e-4)
    found = ensemble.log_prob(ensemble.mode())
    for member in members:
        assert (found >= ensemble.log_prob(member.mode()) - 1e-5).all()


def test_the_mean_of_marginals():
    hierarchy = random_dag(np.random.default_rng(1), 30)
    index = index_hierarchy(hierarchy, closure=False)
    head = make_head("max_constraint", {}, hierarchy)
    members = [distribution(head, random_scores(head, hierarchy, 50, seed)) for seed in range(4)]
    ensemble = combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *members), index)
    assert isinstance(ensemble, MeanMarginals)
    marginals = np.mean([np.exp(member.log_marginals) for member in members], axis=0)
    np.testing.assert_allclose(np.exp(ensemble.log_marginals), marginals, rtol=1e-4)
    log_marginals = np.asarray(ensemble.log_marginals)
    assert (log_marginals[:, hierarchy.children] <= log_marginals[:, hierarchy.parents]).all()
    np.testing.assert_array_equal(ensemble.mode(), marginals > 0.5)
    labels = jnp.asarray(np.random.default_rng(0).random((50, 30)) < 0.5)
    expected = -np.where(labels, np.log(marginals), np.log1p(-marginals)).sum(1)
    np.testing.assert_allclose(ensemble.loss(labels, label_loss()), expected, rtol=1e-3)


ONE = {"head.name": "conditional", "row": "one", "train.refit": True}
DIVERGES = {"head.name": "independent", "optim.learning_rate": 1e38, "row": "diverges"}


def test_a_study_evaluates_it_after_its_members(tmp_path, data_dir, capsys):
    """The ensemble is first in the study; with a refit, validation is scored by what members were before it."""
    members = [ONE | {"seed": seed} for seed in range(3)]
    folder = write_study(tmp_path, data_dir, [ONE | {"ensemble": 3}, *members])
    assert main(["sweep", str(folder), "--dry-run"]) == 0
    assert "one ×3" in capsys.readouterr().out
    assert run(folder, tmp_path / "runs") == []
    made = records(folder)
    assert {*made} == {("one ×3", 0), ("one", 0), ("one", 1), ("one", 2)}
    ensemble = made["one ×3", 0]
    assert ensemble["members"] == [made["one", seed]["run_id"] for seed in range(3)]
    assert (ensemble["mode_is_exact"], made["one", 0]["mode_is_exact"]) == (False, True)
    planned = {each.run_id: each for each in plan(Study.load(folder), tmp_path / "runs")}
    for split, refitted in (("validation", False), ("test", True)):
        marginals = []
        for name in ensemble["members"]:
            member = Run(planned[name].folder, refit=refitted)
            records_of = load_split(member, split)
            marginals.append(np.exp(member.score(records_of).log_marginals[0][np.asarray(records_of.mask)]))
        with np.load(planned[ensemble["run_id"]].folder / f"predictions_{split}.npz") as stored:
            np.testing.assert_allclose(np.exp(stored["log_marginals"]), np.mean(marginals, 0), rtol=1e-4)
    again = workdir.read_record(planned[ensemble["run_id"]].folder)
    assert again["metrics"] == ensemble["metrics"]
    card = (planned[ensemble["run_id"]].folder / "MODEL_CARD.md").read_text()
    assert "the mean of the distributions of 3 runs" in card
    assert f"members: {', '.join(ensemble['members'])}, " in card
    same(card, planned[ensemble["members"][0]].run.config, data_dir)
    for run_id in (ensemble["run_id"], ensemble["members"][0]):
        for split in ("validation", "test"):  # that of validation is from before the refit
            metrics, intervals = run_intervals(planned[run_id].folder, split, 39, 0.95, 0)
            assert metrics == workdir.read_record(planned[run_id].folder)["metrics"][split]
            assert not intervals.left_out
        assert (planned[run_id].folder / "per_label.csv").exists()
    with pytest.raises(UserError, match="holds an ensemble"):
        Run(planned[ensemble["run_id"]].folder)


def load_split(member, split):
    """A split as one batch."""
    dataset = load_dataset(member.config)
    splits = {name: member.preprocessing.encode(rows) for name, rows in dataset.splits.items()}
    with member.config.unlocked():
        member.config.evaluate.batch_size = 32
    return next(iter(make_batches(member.config, splits, dataset.label_space.num_labels)[split].once()))


def test_it_fails_with_its_members(tmp_path, data_dir):
    folder = write_study(tmp_path, data_dir, [DIVERGES, DIVERGES | {"seed": 1}, DIVERGES | {"ensemble": 2}])
    failed = run(folder, tmp_path / "runs")
    assert {failure.run.run.row for failure in failed} == {"diverges", "diverges ×2"}
    assert [failure.error for failure in failed if failure.run.run.ensemble] == ["a run that it is made of failed"]


def test_members_are_runs_of_the_study(tmp_path, data_dir):
    others = [ONE, ONE | {"seed": 1, "optim.learning_rate": 0.5, "row": "other"}]
    folder = write_study(tmp_path, data_dir, [*others, ONE | {"ensemble": 2}])
    with pytest.raises(UserError, match=r"run 3, .* the same runs with the seeds 0 to 1, are not all runs"):
        Study.load(folder)


@pytest.mark.parametrize("number", [1, -2, "3"])
def test_a_number_that_cannot_be_is_refused(tmp_path, data_dir, number):
    folder = write_study(tmp_path, data_dir, [{"ensemble": number}])
    with pytest.raises(UserError, match="it is a number of runs of a config's model, two or more"):
        Study.load(folder)
