"""What the distribution knows that the labels of a synthetic data set were drawn from: nobody can do better."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mlresearch.baselines import Answer
from mlresearch.data.records import Dataset, Records
from mlresearch.data.truth import Truth
from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.heads import conditional, independent
from mlresearch.heads.mixture import Mixture


class Baseline:
    """The true p(labels | input): exact marginals and modes. See `mlresearch.data.truth`."""

    num_parameters = 0

    @staticmethod
    def refuse(dataset: Dataset) -> None:
        """Raise `UserError` for a data set whose truth is not known, that is any but ``synthetic``."""
        if dataset.truth is None:
            raise UserError(f"the truth of {dataset.name!r} is not known: 'truth' is for the data sets 'synthetic/…'")

    def __init__(self, dataset: Dataset, config: ConfigDict) -> None:
        del config
        self._truth = Truth.from_json(dataset.truth or {})
        num_labels, given = dataset.label_space.num_labels, {"param_dtype": jnp.float32, "rngs": nnx.Rngs(0)}
        self._component: conditional.Head | independent.Head
        if dataset.hierarchy is None:
            self._component = independent.Head(None, num_labels, 1, **given)
        else:
            self._component = conditional.Head(dataset.hierarchy, num_labels, 1, siblings="any", **given)
        self.num_features = self._truth.weights.shape[1]

    def score(self, records: Records) -> Answer:
        """Return exact log-marginals, most probable label sets, and the distribution itself."""
        inputs = records.features if records.texts is None else records.texts
        assert inputs is not None, "the truth is of features or of texts"
        log_gates, scores = self._truth.scores(inputs)
        columns = jnp.asarray(scores.transpose(2, 1, 0).reshape(-1, len(scores), 1), jnp.float32)
        nothing = jnp.zeros((len(columns), 1))
        encoded = Encoded(nothing[:, None], jnp.ones((len(columns), 1), bool), nothing)
        dist = Mixture(jnp.asarray(log_gates.T, jnp.float32), self._component(columns, encoded))
        log_marginals = self._truth.log_marginals(inputs).astype(np.float32)
        return Answer(log_marginals, self._truth.mode(inputs), dist)
