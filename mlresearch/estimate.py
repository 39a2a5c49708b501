"""What a run will cost, before it starts: one step traced without computing, and this machine's speed."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Var
from jaxtyping import PyTree
from ml_collections import ConfigDict

from mlresearch.config import part_class, to_dict, together
from mlresearch.data import Dataset
from mlresearch.data.pipeline import Batch, Batches, EncodedSplit
from mlresearch.dropout import Hyperparameter
from mlresearch.encoders import InputSpec
from mlresearch.fit import CHUNK_BYTES
from mlresearch.heads import Structure, check_label_values
from mlresearch.inputs import Preprocessing, dataset_key, load_dataset, make_batches
from mlresearch.linear_scores import check_labels
from mlresearch.model import Model
from mlresearch.scored import CELL_BYTES, KEPT_BYTES
from mlresearch.step import TrainState, init_state, make_train_step
from mlresearch.train import num_steps_of

PROCESS_BYTES = 500e6
"""What Python and the libraries take."""

START_SECONDS = 10.0
"""What starting a program takes, evaluation of a small data set included and compilation aside."""

COMPILE_SECONDS = 3e-3
"""What compiling an equation of a step takes, for each padded length."""

COMPILE_BYTES = 1e5
"""What the compiler keeps of an equation of a step, for each padded length: measured .08 to .13 MB."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """How fast this machine is: floating-point operations a second in a product of matrices, bytes a second copied."""

    flops: float
    bandwidth: float

    @classmethod
    def measure(cls) -> "Machine":
        """Measure it, in about a second."""
        left = jnp.ones((1024, 1024), jnp.float32)
        long = jnp.ones(1 << 24, jnp.float32)
        product = _seconds(jax.jit(lambda x: x @ x), left)
        copy = _seconds(jax.jit(lambda x: x + 1), long)
        return cls(2 * 1024**3 / product, 2 * long.nbytes / copy)


def _seconds(function: Any, argument: jax.Array) -> float:
    jax.block_until_ready(function(argument))
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(function(argument))
        taken.append(time.perf_counter() - began)
    return min(taken)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run takes: its parameters and steps, and those of its program that it adds, in seconds and bytes."""

    num_parameters: int
    num_steps: int
    seconds: float
    run_bytes: float
    shared_bytes: float


@dataclasses.dataclass(frozen=True)
class Traced:
    """A program of one run: its step as a function of what is only shapes, and the data that it is to see."""

    step: Callable[..., Any]
    arguments: tuple[TrainState, PyTree, Batch]
    splits: dict[str, EncodedSplit]
    batches: Batches
    num_labels: int
    num_steps: int


class Estimator:
    """Traces runs of a study; what they have in common is read and traced once."""

    def __init__(self) -> None:
        self._datasets: dict[str, Dataset] = {}
        self._preprocessed: dict[str, tuple[InputSpec, dict[str, EncodedSplit]]] = {}
        self._traced: dict[str, Traced] = {}
        self._costs: dict[str, Cost] = {}

    @functools.cached_property
    def _machine(self) -> Machine:
        return Machine.measure()

    def check(self, config: ConfigDict) -> None:
        """Raise `UserError` if a run cannot work: nothing is computed but what is learnt of texts and columns."""
        if "baseline" in config:
            part_class("baseline", config.baseline.name).refuse(self._dataset(config))
        else:
            self._trace(config)

    def _dataset(self, config: ConfigDict) -> Dataset:
        key = dataset_key(config)
        if key not in self._datasets:
            self._datasets[key] = load_dataset(config)
        return self._datasets[key]

    def _trace(self, config: ConfigDict) -> Traced:
        """Return the program of a run by itself, whose step has been traced."""
        program = json.dumps(together(config), sort_keys=True)
        if program in self._traced:
            return self._traced[program]
        dataset, sections = self._dataset(config), to_dict(config)
        key = json.dumps([sections[name] for name in ("data", "text", "columns", "linear_scores")], sort_keys=True)
        if key not in self._preprocessed:
            self._preprocessed[key] = _inputs(config, dataset)
        spec, splits = self._preprocessed[key]
        num_labels = dataset.label_space.num_labels
        batches = make_batches(config, splits, num_labels)
        num_steps = num_steps_of(config, batches["train"])

        def make() -> Model:
            return Model(config, spec, num_labels, dataset.hierarchy, nnx.Rngs(config.seed))

        model = nnx.eval_shape(make)
        for split in splits.values():
            check_label_values(
                model.head, config.head.name, has_soft=split.labels.has_soft, has_unknown=split.labels.has_unknown
            )
        graphdef, params, rates, structure = nnx.split(model, nnx.Param, Hyperparameter, Structure)  # type: ignore[misc]
        state = jax.eval_shape(
            lambda params, rates: init_state(config, params, rates, num_steps, select=bool(config.train.select)),
            params,
            rates,
        )
        longest = batches["train"].gather(np.zeros(config.train.batch_size, np.int32), batches["train"].buckets[-1])
        step = make_train_step(config, graphdef, num_labels, num_steps, None)
        jax.eval_shape(step, state, structure, longest)
        traced = Traced(step, (state, structure, longest), splits, batches["train"], num_labels, num_steps)
        self._traced[program] = traced
        return traced

    def cost(self, config: ConfigDict) -> Cost:
        """Return what a run costs by itself; a config that cannot work is a `UserError`.

        Seconds: those of compiling; the operations of the longest step at half the speed of a product of matrices, and
        the parameters and moments moved 4 times. Bytes of a run: its parameters and moments 4 times, what its longest
        step holds at once (`peak_bytes`), one set of batches, and the scores of the validation and test splits that are
        kept. All of it is right within a factor of 2 or 3.
        """
        program = json.dumps(together(config), sort_keys=True)
        if program not in self._costs:
            self._costs[program] = self._cost(config, self._trace(config))
        return self._costs[program]

    def _cost(self, config: ConfigDict, traced: Traced) -> Cost:
        state, _, longest = traced.arguments
        batches, splits, num_steps = traced.batches, traced.splits, traced.num_steps
        program = jax.jit(traced.step).trace(*traced.arguments)
        operations = float((program.lower().cost_analysis() or {}).get("flops", 0.0))
        compiled = num_equations(program.jaxpr.jaxpr) * len(batches.buckets)
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        lengths = batches.split.lengths
        share = float(lengths.mean() / max(batches.buckets[-1], 1)) if lengths.any() else 1.0
        step_seconds = 2 * operations * share / self._machine.flops + 4 * state_bytes / self._machine.bandwidth
        cells = [len(splits[name]) * traced.num_labels for name in ("validation", "test")]
        scores = float(sum(min(CELL_BYTES * each, KEPT_BYTES) for each in cells))
        batch_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(longest))
        chunk = min(config.train.chunk_steps * batch_bytes, CHUNK_BYTES)
        arrays = [array for split in splits.values() for array in (split.tokens, split.features) if array is not None]
        return Cost(
            num_parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            num_steps=num_steps,
            seconds=START_SECONDS + COMPILE_SECONDS * compiled + num_steps * step_seconds,
            run_bytes=4 * state_bytes + peak_bytes(program.jaxpr.jaxpr) + chunk + scores,
            shared_bytes=PROCESS_BYTES + COMPILE_BYTES * compiled + sum(array.nbytes for array in arrays),
        )


def num_equations(jaxpr: Jaxpr) -> int:
    """Return the number of equations of a program, those of its parts included."""
    return sum(1 + sum(map(num_equations, _parts(equation))) for equation in jaxpr.eqns)


def peak_bytes(jaxpr: Jaxpr) -> int:
    """Return the most bytes that a program's values hold at once, arguments aside, in its order and unless fused."""
    last_use = {var: place for place, equation in enumerate(jaxpr.eqns) for var in equation.invars if _is_var(var)}
    last_use |= {var: len(jaxpr.eqns) for var in jaxpr.outvars if _is_var(var)}
    made: set[Var] = set()
    held = peak = 0
    for place, equation in enumerate(jaxpr.eqns):
        inside = max(map(peak_bytes, _parts(equation)), default=0)
        size = sum(_num_bytes(var) for var in equation.outvars)
        held += size
        peak = max(peak, held, held - size + inside)
        made |= set(equation.outvars)
        over = {var for var in (*equation.invars, *equation.outvars) if _is_var(var) and last_use.get(var, 0) <= place}
        held -= sum(_num_bytes(var) for var in over & made)
        made -= over
    return peak


def _parts(equation: Any) -> Iterator[Jaxpr]:
    """Yield the programs that an equation calls."""
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)):
        if isinstance(value, ClosedJaxpr | Jaxpr):
            yield value.jaxpr if isinstance(value, ClosedJaxpr) else value


def _is_var(atom: Any) -> bool:
    return isinstance(atom, Var)  # else it is a literal


def _num_bytes(var: Any) -> int:
    dtype = getattr(var.aval, "dtype", None)
    return math.prod(var.aval.shape) * getattr(dtype, "itemsize", 0) if dtype is not None else 0


def _inputs(config: ConfigDict, dataset: Dataset) -> tuple[InputSpec, dict[str, EncodedSplit]]:
    """Return what a model may read and the inputs of all splits, with zeros for linear scores, which take long."""
    own = ConfigDict(config.to_dict())
    own.linear_scores.classifier = ""
    preprocessing = Preprocessing.learn(own, dataset.train)
    spec, splits = preprocessing.spec, preprocessing.encode_splits(dataset)
    if config.linear_scores.classifier:
        check_labels(dataset.train)
        count = dataset.label_space.num_labels
        spec = dataclasses.replace(spec, num_features=(spec.num_features or 0) + count, num_linear_scores=count)
        for name, split in splits.items():
            zeros = np.zeros((len(split), count), np.float32)
            features = zeros if split.features is None else np.concatenate([split.features, zeros], axis=1)
            splits[name] = dataclasses.replace(split, features=features)
    return spec, splits
