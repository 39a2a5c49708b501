"""Known labels: what is read of them, what the hierarchy adds, and predictions of the others given these."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_runs import make_config
from test_hierarchy import random_dag, reach

import mlresearch
from mlresearch.cli import main
from mlresearch.encoders import Inputs
from mlresearch.errors import UserError
from mlresearch.evidence import close_evidence, evidence_sets, parse_known
from mlresearch.label_space import LabelSpace
from mlresearch.train import train


def test_what_is_known_is_read_whatever_names_look_like():
    assert parse_known("bird=1,owl=0") == {"bird": 1, "owl": 0}
    assert parse_known("a, b=1,c=d=0") == {"a, b": 1, "c=d": 0}
    for wrong in ("", "bird", "bird=2", "bird=1,", "bird=1,owl", "=1"):
        with pytest.raises(UserError, match="no list of labels"):
            parse_known(wrong)
    with pytest.raises(UserError, match="that 'a' is on and that it is off"):
        parse_known("a=1,b=1,a=0")


@pytest.mark.parametrize("forest", [True, False])
def test_evidence_is_closed_by_the_hierarchy(forest):
    hierarchy = random_dag(np.random.default_rng(forest), 8, forest=forest)
    space, above = LabelSpace(hierarchy.names, hierarchy.names), reach(hierarchy)
    refused = 0
    for on in range(8):
        for off in range(8):
            if on == off:
                continue
            known = {hierarchy.names[on]: 1, hierarchy.names[off]: 0}
            if above[on, off]:
                refused += 1
                with pytest.raises(UserError, match=rf"here: what is known contradicts.*{hierarchy.names[off]}"):
                    close_evidence(known, space, hierarchy, "here")
                continue
            expected = {label: True for label in range(8) if label == on or above[on, label]}
            expected |= {label: False for label in range(8) if label == off or above[label, off]}
            assert close_evidence(known, space, hierarchy, "here") == expected
    assert refused
    with pytest.raises(UserError, match="there is no label 'label'"):
        close_evidence({"label": 1}, space, hierarchy, "here")
    with pytest.raises(UserError, match="known to be 1"):
        close_evidence({hierarchy.names[0]: 2}, space, hierarchy, "here")


def test_all_else_is_unknown():
    sets = evidence_sets([{1: True, 3: False}, {}], 4)
    dense = sets.multi_hot(4)
    np.testing.assert_array_equal(dense[0], [False, True, False, False])
    np.testing.assert_array_equal(sets.known(4), [[False, True, False, True], [False] * 4])


@pytest.fixture(scope="module")
def config(data_dir):
    config = make_config(data_dir)
    config.train.num_epochs = 6.0
    config.evaluate.expected_f1_labels = 4
    return config


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "exact"
    train(config, folder)
    return folder


def as_inputs(run, texts):
    split = run.preprocessing.encode(run.records(texts))
    return Inputs(split.tokens, np.arange(split.tokens.shape[1]) < split.lengths[:, None])


def test_predictions_given_known_labels_follow_bayes_rule(trained):
    """P(label | known) = P(label and known) / P(known), of the model's own likelihoods."""
    run = mlresearch.load(str(trained))
    assert run.conditioning == "exact"
    names = run.label_space.names
    model = nnx.merge(run.graphdef, run.params, run.numbers.rates, run.structure)
    [found] = run.predict(["an old owl"], known={"bird": 1, "owl": 0}, min_probability=0.0)
    probabilities = {label.name: label.probability for label in found}
    assert (probabilities["bird"], probabilities["animal"], probabilities["owl"]) == (1, 1, 0)
    on = {label.name for label in found if label.on}
    assert {"animal", "bird"} <= on
    assert "owl" not in on
    dist = model(as_inputs(run, ["an old owl"]))
    known = np.full((1, 9), np.nan, np.float32)
    known[0, names.index("bird")], known[0, names.index("owl")] = 1, 0
    before = float(dist.log_prob_known(jnp.asarray(known))[0])
    for label, name in enumerate(names):
        if np.isnan(known[0, label]):
            both = known.copy()
            both[0, label] = 1
            expected = math.exp(float(dist.log_prob_known(jnp.asarray(both))[0]) - before)
            assert probabilities[name] == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_each_input_may_know_something_of_its_own(trained):
    run = mlresearch.load(str(trained))
    plain, of_its_own = {"text": "an old owl"}, {"text": "an old owl", "known": {"owl": 0}}
    together = run.predict([plain, of_its_own], min_probability=0.0)
    alone = [run.predict([each], min_probability=0.0)[0] for each in (plain, of_its_own)]
    for one, other in zip(together, alone, strict=True):
        assert [label.on for label in one] == [label.on for label in other]
        np.testing.assert_allclose(
            [label.probability for label in one], [label.probability for label in other], atol=1e-5
        )
    owl = run.label_space.names.index("owl")
    assert together[0][owl].probability > 0.1
    assert together[1][owl].probability == 0
    for decision in run.decisions:
        [labels] = run.predict([plain], decision=decision, known={"bird": 1}, min_probability=0.0)
        assert labels[run.label_space.names.index("bird")].on, decision
    with pytest.raises(UserError, match="input 2: known labels are an object"):
        run.predict([plain, {"text": "", "known": "owl"}])
    with pytest.raises(UserError, match="input 1: there is no label 'owls'; did you mean 'owl'"):
        run.predict([{"text": "", "known": {"owls": 1}}])


def test_the_command_says_how_it_conditions(trained, tmp_path, capsys):
    command = ["predict", f"--workdir={trained}"]
    assert main([*command, "--text=an old owl", "--known=owl=0"]) == 0
    said = capsys.readouterr()
    assert "conditioned on known labels: exactly" in said.err
    assert main([*command, "--text=an old owl", "--known=bird=0,owl=1"]) == 2
    assert "contradicts the hierarchy: 'bird' would be on" in capsys.readouterr().err
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "an old owl", "known": {"bird": 1}}\n{"text": "a tree"}\n')
    assert main([*command, f"--input={rows}", f"--output={tmp_path / 'labels.jsonl'}"]) == 0
    said = capsys.readouterr()
    assert "conditioned on known labels" in said.err
    assert "copied but not read" not in said.err
    first = json.loads((tmp_path / "labels.jsonl").read_text().splitlines()[0])
    assert {"bird", "animal"} <= {label["name"] for label in first["predicted"] if label["probability"] == 1}


def test_heads_that_cannot_are_refused_by_name(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.head.name, config.train.num_epochs = "max_constraint", 0.2
    train(config, tmp_path)
    run = mlresearch.load(str(tmp_path))
    with pytest.raises(UserError, match="head 'max_constraint' has no exact conditioning"):
        run.predict(["an old owl"], known={"owl": 0})
    assert run.predict(["an old owl"])


def test_label_states_condition_by_what_was_learnt(config, tmp_path):
    config = config.copy_and_resolve_references()
    config.decoder.name, config.train.num_epochs = "label_attention", 8.0
    config.decoder.label_attention.query_dim = 16
    config.decoder.label_attention.label_states = True
    train(config, tmp_path)
    run = mlresearch.load(str(tmp_path))
    assert run.conditioning == "label states"
    [free] = run.predict(["an old owl"], min_probability=0.0)
    [found] = run.predict(["an old owl"], known={"bird": 0}, min_probability=0.0)
    names = run.label_space.names
    assert {label.name: label.probability for label in found if label.name in ("bird", "owl")} == {"bird": 0, "owl": 0}
    others = [at for at, name in enumerate(names) if name not in ("bird", "owl")]
    change = [abs(free[at].probability - found[at].probability) for at in others]
    assert max(change) > 1e-3
    known = np.full((1, 9), np.nan, np.float32)
    for label in close_evidence({"bird": 0}, run.label_space, run.hierarchy, ""):
        known[0, label] = 0
    model = nnx.merge(run.graphdef, run.params, run.numbers.rates, run.structure)
    expected = np.exp(model(as_inputs(run, ["an old owl"]), None, jnp.asarray(known)).log_marginals)[0]
    unknown = np.isnan(known[0])
    np.testing.assert_allclose(np.array([label.probability for label in found])[unknown], expected[unknown], atol=1e-5)
