"""A trained run, loaded: ``mlresearch.load(workdir).predict(inputs)``."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from mlresearch import workdir
from mlresearch.calibration.maps import MarginalMap, ScoreMaps
from mlresearch.calibration.of_runs import MappedSplit
from mlresearch.checkpoint import Checkpoints
from mlresearch.data import Records
from mlresearch.data.pipeline import Batch, Batches, length_buckets
from mlresearch.data.reading import LARGEST_FLOAT32
from mlresearch.decisions import Decision, Rules
from mlresearch.decoders.label_attention import AttentionWeights
from mlresearch.decoders.label_attention import Decoder as LabelAttention
from mlresearch.encoders import Inputs, InputSpec
from mlresearch.errors import UserError, suggest
from mlresearch.evaluate import evaluate, score_split
from mlresearch.evidence import close_evidence, evidence_sets
from mlresearch.fit import Program, stack
from mlresearch.inputs import load_dataset, make_batches
from mlresearch.label_space import LabelSets
from mlresearch.model import create_model
from mlresearch.parallel import Parallel
from mlresearch.scored import ScoredRows, ScoredSplit
from mlresearch.step import Scored, init_state, multi_hot


@dataclasses.dataclass(frozen=True)
class LabelPrediction:
    """One label of one input: its marginal probability, and whether the decision switches it on."""

    name: str
    description: str
    probability: float
    on: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Attention:
    """How much each query of the decoder `label_attention` reads of one input, layer by layer, and of other queries.

    queries: the labels of each query, one where every label has its own. places: what is read: ``input`` for all of it
    in one vector, columns, and pieces of the text. tokens, labels: the mean over heads; they add up to 1.
    """

    queries: tuple[tuple[str, ...], ...]
    places: tuple[str, ...]
    tokens: Float[np.ndarray, "layers queries places"]
    labels: Float[np.ndarray, "layers queries queries"]


class Run:
    """A trained run: its config, labels, hierarchy, decisions and model, ready to score.

    refit: with the parameters of its refit, if it had one, and not with those that its decisions were fitted by. A
    folder that holds no trained run is a `UserError`.
    """

    def __init__(self, folder: str | Path, *, refit: bool = True) -> None:
        self.folder = Path(folder)
        self.config: ConfigDict = workdir.read_config(self.folder)
        if "baseline" in self.config:
            raise UserError(f"{self.folder} holds a baseline, of which only results are kept")
        if "ensemble" in self.config:
            raise UserError(f"{self.folder} holds an ensemble, of which only results are kept: load its members")
        self.record = workdir.read_record(self.folder)
        if self.record["status"] != "finished":
            raise UserError(
                f"{self.folder}: the run is {self.record['status']}; train it to its end with the same command"
            )
        self.label_space, self.frequencies, self.hierarchy = workdir.read_labels(self.folder)
        self.decisions = workdir.read_decisions(self.folder)
        self.calibration = workdir.read_calibration(self.folder, self.config)
        spec = InputSpec(**self.record["inputs"])
        self.preprocessing = workdir.read_preprocessing(self.folder, spec, self.config.text.max_length)
        num_labels = self.label_space.num_labels
        self.graphdef, params, rates, self.structure = create_model(
            self.config, spec, num_labels, self.hierarchy, frequencies=self.frequencies
        )
        train, num_steps = self.config.train, self.record["num_steps"]
        refit = refit and train.refit
        template = init_state(self.config, params, rates, num_steps, select=bool(train.select) and not refit)
        # The data set need not be there any more, so its fingerprint is taken as recorded.
        identity = {
            "data set": self.record["data"]["fingerprint"],
            **workdir.label_identity(self.label_space, self.hierarchy),
            **self.preprocessing.identity,
        }
        phase = workdir.REFIT if refit else ""
        with contextlib.closing(Checkpoints(self.folder, f"{phase}checkpoints")) as checkpoints:
            _, state, _ = checkpoints.restore(template, identity)
        # Prediction needs no particular layout: as many devices as there are here and as divide the batch.
        size = self.config.evaluate.batch_size
        count = max(n for n in range(1, len(jax.devices()) + 1) if size % n == 0)
        self.params, self.numbers = state.chosen_params, state.numbers
        parallel = Parallel("jit", count, 1, size)
        state = parallel.put_runs(stack([state]))
        program = Program(self.config, self.graphdef, self.structure, num_labels, parallel)
        self.score_maps = self.calibration if isinstance(self.calibration, ScoreMaps) else None
        maps = [] if self.score_maps is None else [self.score_maps]
        self.score = program.scorer(state.chosen_params, state.numbers, maps=maps)

    def decision(self, name: str) -> Decision:
        """Return one of `decisions` by name; an unknown name is a `UserError`."""
        if name not in self.decisions:
            raise UserError(f"there is no decision {name!r}{suggest(name, self.decisions)}")
        return self.decisions[name]

    def records(self, inputs: Sequence[str | Mapping[str, Any]]) -> Records:
        """Return inputs as examples without labels.

        An input is a text, or an object with what the run was trained on: ``text``; ``features``, an object of the
        numeric columns' values (None = missing); ``categories``, one of the categorical columns' values. Columns that
        are left out are missing; other fields are not read. A mistake is a `UserError` that names the input by its
        number.
        """
        if isinstance(inputs, str) or not inputs:
            raise UserError("give a list of inputs, at least one")
        columns = self.preprocessing.columns
        feature_names = () if columns is None else columns.feature_names
        category_names = () if columns is None else columns.category_names
        expected = {
            "text": self.preprocessing.tokenizer is not None,
            "features": bool(feature_names),
            "categories": bool(category_names),
        }
        texts: list[str] = []
        features = np.full((len(inputs), len(feature_names)), np.nan, np.float32)
        categories: list[tuple[str, ...]] = []
        for row, given in enumerate(inputs):
            where = f"input {row + 1}"
            fields = {"text": given} if isinstance(given, str) else given
            if not isinstance(fields, Mapping):
                raise UserError(f"{where} is neither a text nor an object")
            for name, there in expected.items():
                if name in fields and not there:
                    wanted = [known for known in expected if expected[known]]
                    raise UserError(f"{where}: the run does not read {name!r}; it reads {', '.join(wanted)}")
            if expected["text"]:
                texts.append(_text(fields.get("text"), where))
            numbers = _columns(fields.get("features"), feature_names, where)
            for place, name in enumerate(feature_names):
                features[row, place] = _number(numbers.get(name), f"{where}: feature {name!r}")
            values = _columns(fields.get("categories"), category_names, where)
            categories.append(
                tuple(_category(values.get(name), f"{where}: category {name!r}") for name in category_names)
            )
        return Records(
            labels=LabelSets.from_rows([()] * len(inputs)),
            keys=("",) * len(inputs),
            texts=tuple(texts) if expected["text"] else None,
            features=features if feature_names else None,
            categories=tuple(zip(*categories, strict=True)) if category_names else None,
        )

    def _evidence(self, inputs: Sequence[str | Mapping[str, Any]], known: Mapping[str, int]) -> list[dict[int, bool]]:
        """Return what is known of each input by label id, closed under the hierarchy."""
        shared = close_evidence(known, self.label_space, self.hierarchy, "known") if known else {}
        evidence = []
        for row, given in enumerate(inputs):
            own = given.get("known") if isinstance(given, Mapping) else None
            if own is not None and not isinstance(own, Mapping):
                raise UserError(f"input {row + 1}: known labels are an object of names and 0 or 1, not {own!r:.60}")
            where = f"input {row + 1}"
            evidence.append(
                close_evidence({**known, **own}, self.label_space, self.hierarchy, where) if own else shared
            )
        return evidence

    def evaluate(self, split: str) -> dict[str, dict[str, float | None]]:
        """Return the metrics of a split of the run's data set, under the decisions that the run has fitted."""
        [found] = evaluate(self.scored(split), [self.decisions], self.hierarchy, self.frequencies)
        if found is None:
            raise self._diverged()
        return found.metrics()

    def scored(self, split: str) -> ScoredSplit:
        """Return what the run says of a split of its data set; a split that it was trained by may be a `UserError`."""
        if self.config.train.refit and split == "validation":
            raise UserError(f"{self.folder}: the run was refitted on train and validation; its record has the numbers")
        if split == "train" and self.preprocessing.linear is not None:
            raise UserError(
                f"{self.folder}: the linear classifiers whose scores the run reads have seen the training split, so "
                "its metrics would say nothing"
            )
        dataset = load_dataset(self.config)
        workdir.refuse_changed(self.folder, self.record, dataset)
        splits = self.preprocessing.encode_splits(dataset)
        batches = make_batches(self.config, splits, self.label_space.num_labels)[split]
        batches = dataclasses.replace(batches, batch_size=self.config.evaluate.batch_size)
        return self._calibrate(score_split(self.score, batches, split, dataset.fingerprint))

    def _calibrate(self, scored: ScoredSplit) -> ScoredSplit:
        """Return what was scored under the run's map of marginals, if it has one; maps of scores have acted by then."""
        return MappedSplit(scored, [self.calibration]) if isinstance(self.calibration, MarginalMap) else scored

    def _diverged(self) -> UserError:
        return UserError(f"{self.folder}: the model's probabilities are NaN for some of these inputs")

    @functools.cached_property
    def conditioning(self) -> str:
        """How predictions are conditioned on known labels: ``label states`` or ``exact``.

        By label states where the model was trained with them; else exactly where the head allows it. Where neither is
        so, it is a `UserError`.
        """
        model = nnx.merge(self.graphdef, self.params, self.numbers.rates, self.structure)
        if model.label_states:
            return "label states"
        split = self.preprocessing.encode(self.records([self._any_input()]))
        batch = next(Batches(split, self.label_space.num_labels, 1, length_buckets(split.lengths, 1)).once())
        if jax.eval_shape(lambda model, inputs: model(inputs), model, batch.inputs).tiltable:
            return "exact"
        raise UserError(
            f"{self.folder}: the head {self.config.head.name!r} has no exact conditioning on known labels here, and "
            "the decoder was not trained with label states (decoder.label_attention.label_states)"
        )

    def attention(self, inputs: Sequence[str | Mapping[str, Any]]) -> list[Attention]:
        """Return what each label reads of each input; see `records` for what that is.

        A run whose decoder is not `label_attention` is a `UserError`.
        """
        model = nnx.merge(self.graphdef, self.params, self.numbers.rates, self.structure)
        if not isinstance(model.decoder, LabelAttention):
            raise UserError(f"{self.folder}: the decoder {self.config.decoder.name!r} has no attention to look at")
        records = self.records(inputs)
        split, num_labels = self.preprocessing.encode(records), self.label_space.num_labels
        batches = Batches(split, num_labels, self.config.evaluate.batch_size, length_buckets(split.lengths, 1))

        @jax.jit
        def read(model: Any, inputs: Inputs) -> tuple[AttentionWeights, Array]:
            encoded = model.encoder(inputs, None)
            return model.decoder.weights(encoded), encoded.token_mask

        num_queries = len(model.decoder.queries[...])
        queries = tuple(tuple(part.tolist()) for part in np.array_split(self.label_space.names, num_queries))
        found: dict[int, Attention] = {}
        for batch in batches.once():
            weights, masks = jax.device_get(read(model, batch.inputs))
            for at in np.flatnonzero(batch.mask).tolist():
                row, real = int(batch.rows[at]), np.append(True, masks[at])
                tokens = weights.tokens[at][:, :, real]
                places = ("input", *self._places(records, row, tokens.shape[2] - 1))
                found[row] = Attention(queries, places, tokens, weights.labels[at])
        return [found[row] for row in range(len(records))]

    def _places(self, records: Records, row: int, count: int) -> tuple[str, ...]:
        """Return what the tokens of an example are: columns, numbered where they are not one by one, and pieces."""
        tokenizer, columns = self.preprocessing.tokenizer, self.preprocessing.columns
        pieces: tuple[str, ...] = ()
        if tokenizer is not None and records.texts is not None and self.config.encoder.name != "mlp":
            pieces = tokenizer.pieces(records.texts[row], self.preprocessing.max_length)
        categories = () if columns is None else columns.category_names
        num_others = count - len(pieces)
        names = (*["features"] * (num_others - len(categories)), *categories)
        if num_others - len(categories) > 1:
            names = (*(f"features {at + 1}" for at in range(num_others - len(categories))), *categories)
        return (*(names if len(names) == num_others else ["input"] * num_others), *pieces)

    def _any_input(self) -> str | Mapping[str, Any]:
        return {} if self.preprocessing.tokenizer is None else {"text": ""}

    @functools.cached_property
    def _score_given(self) -> Callable[[Batch], Scored]:
        """What scores a batch given its labels, those that are known; its loss is −log P(what is known)."""
        choosers, num_labels = Rules.of(self.config).choosers, self.label_space.num_labels
        by_states = self.conditioning == "label states"

        @jax.jit
        def score(params: PyTree, rates: PyTree, structure: PyTree, batch: Batch, maps: ScoreMaps | None) -> Scored:
            model = nnx.merge(self.graphdef, params, rates, structure)
            known = multi_hot(batch.label_ids, batch.label_values, num_labels)
            if by_states:
                dist, loss = model(batch.inputs, None, known, maps), jnp.zeros(len(known))
            else:
                prior = model(batch.inputs, maps=maps)
                dist, loss = prior.given(known), -prior.log_prob_known(known)
            scored = Scored(dist.log_marginals, {name: choose(dist) for name, choose in choosers.items()}, loss)
            return jax.tree.map(lambda leaf: leaf[None], scored)

        return lambda batch: score(self.params, self.numbers.rates, self.structure, batch, self.score_maps)

    def predict(
        self,
        inputs: Sequence[str | Mapping[str, Any]],
        *,
        decision: str = "mode",
        min_probability: float = 0.05,
        known: Mapping[str, int] | None = None,
    ) -> list[list[LabelPrediction]]:
        """Return for each input the labels that `decision` switches on or that are at least `min_probability` probable.

        See `records` for what an input is. Labels stand in the order of the label space, so that with a hierarchy in
        that order parents come first.

        known: labels, by name, that are known to be on (1) or off (0) for all inputs; an input that is an object may
        have a field ``known`` of its own beside. The others are then predicted given these (`conditioning`), and what
        is known is returned as it is. What cannot be so is a `UserError`.
        """
        split = self.preprocessing.encode(self.records(inputs))
        num_labels, size = self.label_space.num_labels, self.config.evaluate.batch_size
        score, evidence = self.score, self._evidence(inputs, known or {})
        if any(evidence):
            score, split = self._score_given, dataclasses.replace(split, labels=evidence_sets(evidence, num_labels))
        batches = Batches(split, num_labels, size, length_buckets(split.lengths, self.config.text.num_buckets))
        names, descriptions = self.label_space.names, self.label_space.descriptions
        chosen = self.decision(decision)
        predictions: list[list[LabelPrediction]] = [[] for _ in inputs]
        for [scores] in self._calibrate(score_split(score, batches, "inputs", fingerprint="")):
            if np.isnan(scores.log_marginals).any():
                raise self._diverged()
            if any(evidence):
                scores = _with_evidence(scores, [evidence[row] for row in scores.rows])
            on, probabilities = chosen.apply(scores), np.exp(scores.log_marginals)
            for at, label in np.argwhere(on | (probabilities >= min_probability)).tolist():
                predictions[scores.rows[at]].append(
                    LabelPrediction(
                        names[label], descriptions[label], float(probabilities[at, label]), bool(on[at, label])
                    )
                )
        return predictions


def _with_evidence(scores: ScoredRows, evidence: Sequence[Mapping[int, bool]]) -> ScoredRows:
    """Return scores in which what is known is certain; what is impossible under the model is a `UserError`."""
    impossible = np.flatnonzero(np.isposinf(scores.loss))
    if len(impossible):
        raise UserError(
            f"input {scores.rows[impossible[0]] + 1}: what is known of its labels is impossible under the model"
        )
    log_marginals, sets = scores.log_marginals.copy(), {name: on.copy() for name, on in scores.sets.items()}
    for row, known in enumerate(evidence):
        for label, value in known.items():
            log_marginals[row, label] = 0.0 if value else -np.inf
            for on in sets.values():
                on[row, label] = value
    return scores._replace(log_marginals=log_marginals, sets=sets)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: the text is {'missing' if value is None else f'no string: {value!r:.60}'}")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"{where}: the text is not Unicode: {value[:40]!r}")
    return value


def _columns(value: Any, names: Sequence[str], where: str) -> Mapping[str, Any]:
    """Return the values of columns by name; a column that the run does not have is a `UserError`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: columns are given as an object of names and values, not as {value!r:.60}")
    for name in value:
        if name not in names:
            raise UserError(f"{where}: there is no column {name!r}{suggest(str(name), names)}")
    return value


def _category(value: Any, where: str) -> str:
    """Return a category as a string; an integer stands for its digits, as in a table."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where} is {value!r:.60}, not a string, an integer or null")
    return str(value)


def _number(value: Any, where: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_FLOAT32:
        raise UserError(f"{where} is {value!r:.60}, not a finite number or null")
    return float(value)
