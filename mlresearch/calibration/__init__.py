"""Calibration: maps after which a label of probability p is on in a share p of examples, fitted on validation.

There are two places for them, ``config.evaluate.calibration_of``:

- ``marginals``: one map of the log-odds of all labels alike, which never falls, so that no child comes above a parent,
  bit for bit. It changes marginals and what is decided by them. The loss, the mode and other label sets that are taken
  from the distribution itself stay as they are. Equal values of an isotonic map make ties in rankings.
- ``scores``: an affine map of each label's scores before the head (`maps.ScoreMaps`). Marginals, loss, mode and other
  label sets are those of the distribution that the head makes of them, coherent wherever the head is.

Kinds: ``temperature`` divides by one number, ``platt`` is affine, ``isotonic``, of marginals alone, is free but for its
direction. A map is fitted before decisions are, which see what it makes of the validation split; after a refit it stays
what it was. What is validated while a run trains is not calibrated.

`maps` has the maps, `of_marginals` and `of_scores` say how they are fitted, and `of_runs` fits them for the runs of a
program and applies them to what these say of a split.

Sources: Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods",
1999; Zadrozny and Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", 2002; Guo,
Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", 2017.
"""

import dataclasses

from ml_collections import ConfigDict

from mlresearch.errors import UserError, suggest
from mlresearch.label_space import LabelSets

KINDS = ("temperature", "platt", "isotonic")

PLACES = ("marginals", "scores")


@dataclasses.dataclass(frozen=True)
class Method:
    """How probabilities are calibrated: ``config.evaluate``.

    kind: one of `KINDS`, empty for not at all; place: one of `PLACES`. Others, and isotonic maps of scores, are
    `UserError`s.
    """

    kind: str = ""
    place: str = "marginals"

    @classmethod
    def of(cls, config: ConfigDict) -> "Method":
        """Return that of a run's config; one made before there were these settings has none."""
        return cls(config.evaluate.get("calibration", ""), config.evaluate.get("calibration_of", "marginals"))

    def __post_init__(self) -> None:
        if self.kind not in ("", *KINDS):
            raise UserError(f"config.evaluate.calibration is {self.kind!r}{suggest(self.kind, KINDS)}")
        if self.place not in PLACES:
            raise UserError(f"config.evaluate.calibration_of is {self.place!r}{suggest(self.place, PLACES)}")
        if self.kind == "isotonic" and self.place == "scores":
            raise UserError(
                "config.evaluate.calibration = 'isotonic' is a map of marginals, of all labels alike: one label's "
                "validation is too little for it. Set calibration_of = 'marginals', or calibration = 'platt'"
            )

    def check(self, validation: LabelSets) -> None:
        """Raise `UserError` where marginals are to be calibrated to soft labels."""
        if self.kind and self.place == "marginals" and validation.has_soft:
            raise UserError(
                "config.evaluate.calibration of marginals counts labels that are on or off, and the validation split "
                "has soft ones; set config.evaluate.calibration_of = 'scores', or calibration = ''"
            )


def require_validation(split: str, name: str) -> None:
    """Raise a `TypeError` for another split than validation."""
    if split != "validation":
        raise TypeError(f"{name} of the split {split!r}: only 'validation' makes them")
