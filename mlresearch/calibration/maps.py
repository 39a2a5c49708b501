"""Maps that calibrate: of the log-odds of all labels alike, and of each label's scores before the head."""

import abc
import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float, Float32, Float64

from mlresearch.calibration import PLACES
from mlresearch.errors import UserError, suggest
from mlresearch.logspace import CERTAIN, LOGIT_BOUND, at_least_float32
from mlresearch.pytree import pytree_dataclass

STEEPEST = 100.0
"""The largest slope of a map; the least of a temperature, and of a map of scores, is 1 over it."""


class MarginalMap(abc.ABC):
    """A map of log-odds that never falls."""

    @abc.abstractmethod
    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return the mapped log-odds, by operations that are monotone in floating point, too."""

    def __call__(self, log_marginals: Float32[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
        """Return the log-marginals under the map: of two, the larger one never becomes the smaller one, bit for bit.

        Log-odds of different float32 numbers differ by far more than float64 rounds, and so does log σ of float32
        numbers; between the two there are the map's operations and rounding, which are monotone.
        """
        narrow = self.of_log_odds(log_odds_of(log_marginals)).astype(np.float32)
        return -softplus(-narrow.astype(np.float64)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Temperature(MarginalMap):
    """Log-odds divided by one number, above 0; a half stays a half. fitted_on: fingerprint of the split."""

    kind: ClassVar[str] = "temperature"

    temperature: float
    fitted_on: str

    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return z / t."""
        return log_odds / self.temperature

    def to_json(self) -> dict[str, Any]:
        """Return the map in JSON's types."""
        return {"kind": self.kind, "of": "marginals"} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Platt(MarginalMap):
    """An affine map of log-odds, with a slope of at least 0. fitted_on: fingerprint of the split."""

    kind: ClassVar[str] = "platt"

    slope: float
    intercept: float
    fitted_on: str

    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return a z + b."""
        return self.slope * log_odds + self.intercept

    def to_json(self) -> dict[str, Any]:
        """Return the map in JSON's types."""
        return {"kind": self.kind, "of": "marginals"} | dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Isotonic(MarginalMap):
    """Log-odds by a curve that never falls: straight between its points, level beyond them.

    log_odds: where the points lie, ascending; values: the mapped ones. fitted_on: fingerprint of the split. Levels end
    where cells of validation lie: rounding, which devices do each in its way, may tell apart there what ties.
    """

    kind: ClassVar[str] = "isotonic"

    log_odds: Float64[np.ndarray, "points"]
    values: Float64[np.ndarray, "points"]
    fitted_on: str

    def of_log_odds(self, log_odds: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
        """Return the curve's value."""
        after = np.minimum(np.searchsorted(self.log_odds, log_odds, side="right"), len(self.log_odds) - 1)
        # What rounding adds to a straight line would lie above the next one's beginning.
        return np.minimum(np.interp(log_odds, self.log_odds, self.values), self.values[after])

    def to_json(self) -> dict[str, Any]:
        """Return the map in JSON's types."""
        points = {"log_odds": self.log_odds.tolist(), "values": self.values.tolist()}
        return {"kind": self.kind, "of": "marginals", **points, "fitted_on": self.fitted_on}


@pytree_dataclass
class ScoreMaps:
    """Of each label's scores s before the head a s + b, a > 0; where a head asks for several scores, they share it.

    kind: ``temperature``, where b = 0, or ``platt``. fitted_on: fingerprint of the split. Those of several runs are one
    with a leading axis.
    """

    scale: Float[Array | np.ndarray, "*runs labels"]
    shift: Float[Array | np.ndarray, "*runs labels"]
    kind: str = dataclasses.field(metadata={"static": True})
    fitted_on: str = dataclasses.field(metadata={"static": True})

    def __call__(
        self, label_scores: Float[Array, "batch labels scores_per_label"]
    ) -> Float[Array, "batch labels scores_per_label"]:
        """Return the scores under the maps, float32 or wider."""
        scores = at_least_float32(label_scores)
        return scores * self.scale.astype(scores.dtype)[:, None] + self.shift.astype(scores.dtype)[:, None]

    def to_json(self) -> dict[str, Any]:
        """Return the maps in JSON's types; float32 values come back bit for bit."""
        numbers = {"scale": self.scale.tolist(), "shift": self.shift.tolist()}
        return {"kind": self.kind, "of": "scores", **numbers, "fitted_on": self.fitted_on}


Calibration = Temperature | Platt | Isotonic | ScoreMaps


def calibration_from_json(data: dict[str, Any]) -> Calibration:
    """Return the calibration that `to_json` wrote; an unknown kind or fields of another are a `UserError`."""
    fields = dict(data)
    kind, place = fields.pop("kind", None), fields.pop("of", None)
    classes: dict[str, Any] = {of.kind: of for of in (Temperature, Platt, Isotonic)}
    if place == "scores":
        classes = dict.fromkeys(("temperature", "platt"), ScoreMaps)
    if kind not in classes or place not in PLACES:
        raise UserError(f"unknown calibration {kind!r} of {place!r}{suggest(str(kind), classes)}")
    made = classes[kind]
    expected = {field.name for field in dataclasses.fields(made)} - {"kind"}
    if fields.keys() != expected:
        raise UserError(f"calibration {kind!r} of {place!r}: has the fields {sorted(fields)}, needs {sorted(expected)}")
    dtype = np.float32 if made is ScoreMaps else np.float64
    values = {name: np.asarray(of, dtype) if isinstance(of, list) else of for name, of in fields.items()}
    found: Calibration = made(**values, **({"kind": kind} if made is ScoreMaps else {}))
    return found


def log_odds_of(log_marginals: Float32[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return log p − log(1 − p), at most `LOGIT_BOUND` and at least −`CERTAIN`."""
    wide = log_marginals.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(wide - np.log(-np.expm1(wide)), -CERTAIN, LOGIT_BOUND)


def softplus(x: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Return log(1 + eˣ); of NaN it is NaN, without a warning."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
