"""Several trained runs as one: the mean of their distributions, evaluated where they were trained."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from mlresearch import environment, workdir
from mlresearch.calibration import Method
from mlresearch.calibration.maps import ScoreMaps
from mlresearch.calibration.of_runs import Calibrations
from mlresearch.config import to_dict
from mlresearch.data.pipeline import Batch
from mlresearch.decisions import Rules
from mlresearch.errors import UserError
from mlresearch.evaluate import evaluate, evaluate_validation, score_split, write_evaluations
from mlresearch.files import write_json
from mlresearch.heads import LabelDistribution, LabelLoss, Labels, labels_first
from mlresearch.heads.conditional import BayesianNetwork
from mlresearch.heads.independent import ProductOfBernoullis
from mlresearch.heads.mixture import Mixture
from mlresearch.hierarchy_index import HierarchyIndex, index_hierarchy
from mlresearch.inputs import load_dataset, make_batches
from mlresearch.losses import Examples
from mlresearch.model_card import write_model_card
from mlresearch.predict import Run
from mlresearch.propagation import settle
from mlresearch.pytree import pytree_dataclass
from mlresearch.step import Numbers, Scored, multi_hot


@pytree_dataclass
class MeanMarginals(LabelDistribution):
    """P(label = 1) = the mean over members, where these have no joint distribution that could be mixed.

    members: log-marginals of each. index: of the hierarchy, None where labels need not be coherent.
    """

    normalised: ClassVar[bool] = False

    members: Float[Array, "members batch labels"]
    index: HierarchyIndex | None

    @property
    def log_marginals(self) -> Float[Array, "batch labels"]:
        """Return the logarithm of the mean, settled."""
        mean = jnp.minimum(jax.nn.logsumexp(self.members, axis=0) - math.log(self.members.shape[0]), 0.0)
        return mean if self.index is None else labels_first(settle(labels_first(mean), self.index))

    def loss(self, labels: Labels, label_loss: LabelLoss) -> Float[Array, "batch"]:
        """Return `label_loss` on the marginals."""
        return label_loss(self.logits, labels)

    def take(self, rows: Int[Array, "rows"]) -> "MeanMarginals":
        """Return the distributions of some examples of the batch."""
        return dataclasses.replace(self, members=self.members[:, rows])

    def mode(self) -> Bool[Array, "batch labels"]:
        """Return marginals over ½."""
        return self.log_marginals > -jnp.log(2.0)


def combine(members: LabelDistribution, index: HierarchyIndex | None) -> LabelDistribution:
    """Return p(y) = (1/R) Σᵣ pᵣ(y): a mixture of all components of all members where they have likelihoods.

    members: a distribution whose arrays have a leading axis of R members. index: of the hierarchy, None where labels
    need not be coherent.
    """
    count = jax.tree.leaves(members)[0].shape[0]
    if isinstance(members, Mixture):
        _, batch, num_components = members.log_gates.shape
        log_gates = members.log_gates.swapaxes(0, 1).reshape(batch, -1) - math.log(count)
        return Mixture(log_gates, _join(members.components, batch, num_components), members.marginal_share)
    if isinstance(members, BayesianNetwork | ProductOfBernoullis):
        batch = members.scores.shape[2 if isinstance(members, BayesianNetwork) else 1]
        log_gates = jnp.full((batch, count), -math.log(count), members.scores.dtype)
        share = members.marginal_share if isinstance(members, BayesianNetwork) else 0.0
        return Mixture(log_gates, _join(members, batch, 1), share)
    return MeanMarginals(jax.vmap(lambda member: member.log_marginals)(members), index)


def _join(
    members: BayesianNetwork | ProductOfBernoullis, batch: int, num_components: int
) -> BayesianNetwork | ProductOfBernoullis:
    """Return components of members as one batch, those of an example together."""
    scores = members.scores
    count = scores.shape[0]
    if isinstance(members, BayesianNetwork):

        def join(columns: Float[Array, "members rows columns"]) -> Float[Array, "rows all_columns"]:
            joined = columns.reshape(count, -1, batch, num_components).transpose(1, 2, 0, 3)
            return joined.reshape(joined.shape[0], -1)

        index, families = jax.tree.map(lambda leaf: leaf[0], (members.index, members.families))
        of_families = None if members.family_scores is None else join(members.family_scores)
        return dataclasses.replace(
            members, scores=join(scores), family_scores=of_families, index=index, families=families
        )
    joined = scores.reshape(count, batch, num_components, -1).swapaxes(0, 1)
    return ProductOfBernoullis(joined.reshape(-1, joined.shape[-1]))


def evaluate_ensemble(
    folders: Sequence[Path], config: ConfigDict, folder: Path, sources: Sequence[Path] = ()
) -> dict[str, Any]:
    """Evaluate the ensemble of trained runs and record it in `folder`; returns the run record.

    folders: of the members, whose configs differ in their seeds alone. config: resolved, of the first. Decisions are
    fitted on validation, by what members were before a refit, and applied once to test, as in `train`. A finished
    record is returned as it is. A member that is not trained is a `UserError`.
    """
    own_config = ConfigDict(to_dict(config) | {"ensemble": [member.name for member in folders]})
    workdir.refuse_other(folder, own_config)
    finished = workdir.finished_record(folder)
    dataset = load_dataset(config)
    if finished is not None:
        workdir.refuse_changed(folder, finished, dataset)
        return finished
    began = time.time()
    members = [Run(member) for member in folders]
    if any(member.record["data"]["fingerprint"] != dataset.fingerprint for member in members):
        raise UserError(f"members of the ensemble in {folder} were trained on other data than today's: train them anew")
    workdir.claim(folder, own_config)
    num_labels = dataset.label_space.num_labels
    frequencies = dataset.train.labels.frequencies(num_labels)
    workdir.write_labels(folder, dataset.label_space, frequencies, dataset.hierarchy)
    splits = members[0].preprocessing.encode_splits(dataset)
    batches = make_batches(config, splits, num_labels)
    rules = Rules.of(config)
    stored = config.evaluate.predictions

    before = Ensemble(members if not config.train.refit else [Run(member, refit=False) for member in folders])
    of_validation = score_split(before.score, batches["validation"], "validation", dataset.fingerprint)
    calibrations = Calibrations.of_marginals(of_validation, Method.of(config))
    calibrated = calibrations.apply(of_validation)
    [on_validation] = evaluate_validation(calibrated, 1, dataset.hierarchy, rules, frequencies, predictions=stored)
    assert on_validation is not None, "members did not diverge"
    validation, decisions = on_validation
    ensemble = Ensemble(members)
    of_test = score_split(ensemble.score, batches["test"], "test", dataset.fingerprint)
    [test] = evaluate(calibrations.apply(of_test), [decisions], dataset.hierarchy, frequencies, predictions=stored)
    assert test is not None

    first = members[0].record
    shared = ("name", "data", "label_space", "identity", "inputs", "examples", "truncated_token_share", "num_steps")
    record = {
        "status": "finished",
        **{key: first[key] for key in shared},
        **environment.describe(sources),
        "seed": config.seed,
        "members": [member.name for member in folders],
        "num_parameters": sum(member.record["num_parameters"] for member in members),
        "mode_is_exact": ensemble.mode_is_exact(next(batches["test"].once())),
        "replicas": 1,
        "resumed_at": None,
        "selected": None,
        "remarks": [f"an ensemble of {len(members)} runs"],
        "seconds": {"evaluate": time.time() - began},
        "metrics": write_evaluations(folder, dataset, decisions, {"validation": validation, "test": test}),
    }
    for plain in (of_validation, of_test):
        calibrations.note([record], plain, calibrations.apply(plain))
    calibrations.write(folder)
    write_model_card(folder, record, own_config, dataset)
    write_json(folder / "run.json", record)
    return record


class Ensemble:
    """What scores a batch by the ensemble of members, as one run; maps of their scores act in each of them."""

    def __init__(self, members: Sequence[Run]) -> None:
        first = members[0]
        states = [(member.params, member.numbers, member.score_maps) for member in members]
        params, numbers, maps = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        head = nnx.merge(first.graphdef, first.params, first.numbers.rates, first.structure).head
        index = None
        if first.hierarchy is not None and head.coherent:
            index = index_hierarchy(first.hierarchy, closure=False)
        self._state = (params, numbers, maps, first.structure, index)
        num_labels, choosers = first.label_space.num_labels, Rules.of(first.config).choosers

        def distribution(
            params: PyTree,
            numbers: Numbers,
            maps: ScoreMaps | None,
            structure: PyTree,
            index: HierarchyIndex | None,
            batch: Batch,
        ) -> LabelDistribution:
            def member(params: PyTree, numbers: Numbers, maps: ScoreMaps | None) -> LabelDistribution:
                return nnx.merge(first.graphdef, params, numbers.rates, structure)(batch.inputs, maps=maps)

            return combine(jax.vmap(member)(params, numbers, maps), index)

        @jax.jit
        def score(
            params: PyTree,
            numbers: Numbers,
            maps: ScoreMaps | None,
            structure: PyTree,
            index: HierarchyIndex | None,
            batch: Batch,
        ) -> Scored:
            dist = distribution(params, numbers, maps, structure, index, batch)
            labels = multi_hot(batch.label_ids, batch.label_values, num_labels)
            own = jax.tree.map(lambda leaf: leaf[0], (params, numbers.rates))  # members have one loss
            loss = nnx.merge(first.graphdef, *own, structure).loss
            label_loss = functools.partial(loss, examples=Examples(batch.mask))
            scored = Scored.of(dist, labels, label_loss, choosers)
            return jax.tree.map(lambda leaf: leaf[None], scored)

        self._distribution, self._score = distribution, score

    def score(self, batch: Batch) -> Scored:
        """Return what is said of a batch."""
        return self._score(*self._state, batch)

    def mode_is_exact(self, batch: Batch) -> bool:
        """Return whether the most probable label set is surely found; shapes alone tell."""
        return jax.eval_shape(self._distribution, *self._state, batch).mode_is_exact
