"""Whether marginals are as large as labels are frequent: calibration error, Brier score and log loss."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from mlresearch.errors import UserError
from mlresearch.metrics.counts import NO_EXAMPLES

NUM_BINS = 15
"""Bins of equal width over [0, 1]: ((m − 1) / 15, m / 15] for m = 1, …, 15, with 0 in the first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """The known cells of each label by the bin of their marginal, what a reliability diagram is drawn from.

    cells: how many; positives: how many of them are true; probabilities: the sum of their marginals, each
    [labels, `NUM_BINS`]. squares: Σ (marginal − truth)²; surprise: −Σ log P(truth), both over all known cells.
    """

    cells: Int[np.ndarray, "labels bins"]
    positives: Int[np.ndarray, "labels bins"]
    probabilities: Float[np.ndarray, "labels bins"]
    squares: float
    surprise: float

    @classmethod
    def of(
        cls,
        log_marginals: Float32[np.ndarray, "examples labels"],
        labels: Bool[np.ndarray, "examples labels"],
        known: Bool[np.ndarray, "examples labels"] | None = None,
    ) -> "Reliability":
        """Count some examples: O(cells), the first bin, which holds most cells, by sums. NaN gives no number."""
        num_examples, num_labels = labels.shape
        low = np.exp(log_marginals, order="C")  # so that `ravel` does not copy
        if known is not None:
            low[~known] = 0
        above = np.flatnonzero(low > 1 / NUM_BINS)
        high, true_above = low.ravel()[above].astype(np.float64), labels.ravel()[above]
        low.ravel()[above] = 0
        bins = np.ceil(high * NUM_BINS).astype(np.int64).clip(2, NUM_BINS) - 1 + above % num_labels * NUM_BINS
        true = labels if known is None else labels & known
        log_true = log_marginals[true].astype(np.float64)
        with np.errstate(divide="ignore"):  # where something has probability 1 and is not so
            log_false = np.log(-np.expm1(log_marginals.ravel()[above[~true_above]].astype(np.float64)))

        size = num_labels * NUM_BINS
        cells, positives, probabilities = (
            np.bincount(kept, weights, size).reshape(num_labels, NUM_BINS)
            for kept, weights in ((bins, None), (bins[true_above], None), (bins, high))
        )
        num_known = np.full(num_labels, num_examples) if known is None else known.sum(axis=0)
        cells[:, 0] = num_known - cells.sum(axis=1)
        positives[:, 0] = true.sum(axis=0) - positives.sum(axis=1)
        probabilities = probabilities.astype(np.float64)  # of no cells they are integers
        probabilities[:, 0] = low.sum(axis=0, dtype=np.float64)
        return cls(
            cells,
            positives,
            probabilities,
            float(np.einsum("ij,ij->", low, low, dtype=np.float64) + high @ high)
            + float((1 - 2 * np.exp(log_true)).sum()),
            float(np.log1p(-low[true]).sum(dtype=np.float64) - np.log1p(-low).sum(dtype=np.float64))
            - float(log_false.sum() + log_true.sum()),
        )

    def merge(self, other: "Reliability") -> "Reliability":
        """Return the state of both states' examples together."""
        return Reliability(
            self.cells + other.cells,
            self.positives + other.positives,
            self.probabilities + other.probabilities,
            self.squares + other.squares,
            self.surprise + other.surprise,
        )

    @property
    def by_label(self) -> Float[np.ndarray, "labels"]:
        """The expected calibration error of each label, NaN of one that is nowhere known."""
        gaps = np.abs(self.positives - self.probabilities).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return gaps / self.cells.sum(axis=1)

    def compute(self) -> dict[str, float]:
        """Return the metrics of marginals; a state without known cells is a `UserError`.

        - ``calibration_error``: the expected calibration error Σₘ (nₘ / n) · |share of positives − mean marginal| of
          the nₘ cells of bin m, over all n known cells (Naeini, Cooper & Hauskrecht, "Obtaining Well Calibrated
          Probabilities Using Bayesian Binning", 2015; Guo et al., "On Calibration of Modern Neural Networks", 2017,
          with 15 bins of equal width). It is that of a label's marginal, not of a most probable class.
        - ``macro_calibration_error``: the mean of the same over labels that are known somewhere, each one binned by
          itself.
        - ``brier_score``: the mean of (marginal − truth)² over known cells (Brier, "Verification of Forecasts Expressed
          in Terms of Probability", 1950).
        - ``log_loss``: the mean of −log P(truth) over known cells, by marginals (Good, "Rational Decisions", 1952);
          infinite where a cell's truth has probability 0.
        """
        cells = int(self.cells.sum())
        if not cells:
            raise UserError(NO_EXAMPLES)
        pooled = self.positives.sum(axis=0) - self.probabilities.sum(axis=0)
        return {
            "calibration_error": float(np.abs(pooled).sum() / cells),
            "macro_calibration_error": float(np.nanmean(self.by_label)),
            "brier_score": self.squares / cells,
            "log_loss": self.surprise / cells,
        }
