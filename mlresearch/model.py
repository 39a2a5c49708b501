"""A model: encoder → decoder → head, and the loss that it is trained by, chosen by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key
from ml_collections import ConfigDict

from mlresearch.calibration.maps import ScoreMaps
from mlresearch.config import part_class
from mlresearch.decoders.causal import CausalScores
from mlresearch.dropout import Hyperparameter
from mlresearch.encoders import Encoded, Inputs, InputSpec
from mlresearch.errors import UserError
from mlresearch.heads import LabelDistribution, LabelLoss, Labels, Structure, check_label_values
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import Frequencies, LabelSets
from mlresearch.label_states import reveal, take_for_known

LabelScores: TypeAlias = Float[Array, "batch labels scores_per_label"] | CausalScores


class Model(nnx.Module):
    """Inputs to a distribution over label sets, and `loss`, the label-wise loss that heads are given.

    Where the inputs have linear scores zᵢ of each label, the decoder's scores of it are added to ``wᵢ zᵢ``, all of
    them alike where a head wants several; wᵢ is learnt, and 1 at first (Cheng et al., "Wide & Deep Learning for
    Recommender Systems", 2016).

    config: resolved. hierarchy: None where labels are flat. A combination that cannot work is a `UserError`.
    """

    def __init__(
        self,
        config: ConfigDict,
        spec: InputSpec,
        num_labels: int,
        hierarchy: LabelHierarchy | None,
        rngs: nnx.Rngs,
    ) -> None:
        precision = {"dtype": config.model.dtype, "param_dtype": config.model.param_dtype}
        make_encoder = part_class("encoder", config.encoder.name)
        make_decoder = part_class("decoder", config.decoder.name)
        make_head = part_class("head", config.head.name)
        _refuse_unpaired(config, make_decoder, make_head)
        make_loss = part_class("loss", config.loss.name)
        encoder_options = config.encoder[config.encoder.name]
        head_options = config.head[config.head.name]
        decoder_options = config.decoder[config.decoder.name]
        self.encoder = make_encoder(spec, **encoder_options, **precision, rngs=rngs)
        self.head = make_head(
            hierarchy,
            num_labels,
            self.encoder.dim,
            **head_options,
            param_dtype=config.model.param_dtype,
            rngs=rngs,
        )
        self.decoder = make_decoder(
            self.encoder.dim,
            num_labels,
            self.head.scores_per_label,
            **decoder_options,
            **precision,
            rngs=rngs,
        )
        self.wide = nnx.Param(jnp.ones(num_labels, config.model.param_dtype)) if spec.num_linear_scores else None
        self.loss = make_loss(hierarchy, num_labels, **config.loss[config.loss.name])

        self.sparse = getattr(self.head, "sparse", False)
        if self.sparse and not hasattr(self.decoder, "of_labels"):
            raise UserError(
                f"head {config.head.name!r} with sparse = True needs a decoder that gives the scores of some labels "
                f"alone, 'linear', not {config.decoder.name!r}"
            )

        self.label_states = getattr(self.decoder, "label_states", False)
        if self.label_states and not self.head.unknown_labels:
            raise UserError(
                f"decoder {config.decoder.name!r} with label_states = True learns with labels left out, which head "
                f"{config.head.name!r} cannot take here: use 'independent' or 'max_constraint', or a hierarchy with "
                "one parent a label"
            )

    def __call__(
        self,
        inputs: Inputs,
        dropout_keys: Key[Array, "batch"] | None = None,
        known: Float[Array, "batch labels"] | None = None,
        maps: ScoreMaps | None = None,
    ) -> LabelDistribution:
        """Return p(labels | inputs); `dropout_keys` is None except in training.

        known: labels with NaN for unknown, of a model with label states; what it then says of these labels themselves
        means nothing. maps: by which the scores are calibrated.
        """
        scores, encoded = self.score(inputs, dropout_keys, known)
        if maps is not None:
            assert not isinstance(scores, CausalScores), "the config refuses maps of them"
            scores = maps(scores)
        return self.head(scores, encoded)

    def score(
        self,
        inputs: Inputs,
        dropout_keys: Key[Array, "batch"] | None = None,
        known: Float[Array, "batch labels"] | None = None,
    ) -> tuple[LabelScores, Encoded]:
        """Return what the head is given: label scores, and what was encoded."""
        encoded = self.encoder(inputs, dropout_keys)
        if not self.label_states:
            return self._widen(self.decoder(encoded, dropout_keys), inputs), encoded
        scores = self._widen(self.decoder(encoded, dropout_keys, known), inputs)
        rounds = self.decoder.refinements if dropout_keys is None else 0
        for number in range(1, rounds + 1):
            assumed = take_for_known(self.head(scores, encoded), number / (rounds + 1), known)
            scores = self._widen(self.decoder(encoded, None, assumed), inputs)
        return scores, encoded

    def training_loss(
        self,
        inputs: Inputs,
        labels: Labels,
        label_loss: LabelLoss,
        dropout_keys: Key[Array, "batch"],
    ) -> Float[Array, "batch"]:
        """Return the loss of p(labels | inputs); with label states, that of some labels given the others."""
        if not self.label_states:
            return self(inputs, dropout_keys).loss(labels, label_loss)
        shown, hidden = reveal(labels, dropout_keys)
        return self(inputs, dropout_keys, shown).loss(hidden, label_loss)

    def sparse_loss(
        self, inputs: Inputs, label_ids: Int[Array, "batch width"], dropout_keys: Key[Array, "batch"] | None
    ) -> Float[Array, "batch"]:
        """Return the loss of p(labels | inputs) by the scores of the labels that it touches alone (`sparse` heads)."""
        encoded, wide = self.encoder(inputs, dropout_keys), self._wide_scores(inputs)

        def scores_of(labels: Int[Array, "batch some"]) -> Float[Array, "batch some 1"]:
            scores = self.decoder.of_labels(encoded, dropout_keys, labels)
            if wide is None:
                return scores
            return scores + jnp.take_along_axis(wide, labels, axis=1, mode="clip")[..., None].astype(scores.dtype)

        return self.head.sparse_loss(label_ids, scores_of)

    def _wide_scores(self, inputs: Inputs) -> Float[Array, "batch labels"] | None:
        if self.wide is None:
            return None
        assert inputs.features is not None
        weights = self.wide[...]
        return weights * jnp.asarray(inputs.features[..., -len(weights) :], weights.dtype)

    def _widen(self, scores: LabelScores, inputs: Inputs) -> LabelScores:
        """Return the decoder's scores with the linear ones, where there are any."""
        wide = self._wide_scores(inputs)
        if wide is None:
            return scores
        if isinstance(scores, CausalScores):
            return scores.shift(wide.astype(scores.start.dtype))
        return scores + wide[..., None].astype(scores.dtype)


def _refuse_unpaired(config: ConfigDict, decoder: Any, head: Any) -> None:
    """Raise `UserError` where one of decoder and head goes label by label and the other does not."""
    decoder_is, head_is = (getattr(part, "causal", False) for part in (decoder, head))
    if head_is and not decoder_is:
        raise UserError(
            f"head {config.head.name!r} asks for each label's score given the labels before it, which decoder "
            f"{config.decoder.name!r} does not give: set config.decoder.name = 'causal'"
        )
    if decoder_is and not head_is:
        raise UserError(
            f"decoder {config.decoder.name!r} gives each label's score given the labels before it, which head "
            f"{config.head.name!r} does not ask for: set config.head.name = 'chain', or another decoder, such as "
            "config.decoder.name = 'linear'"
        )


def create_model(
    config: ConfigDict,
    spec: InputSpec,
    num_labels: int,
    hierarchy: LabelHierarchy | None,
    label_sets: Mapping[str, LabelSets] = MappingProxyType({}),
    frequencies: Frequencies | None = None,
) -> tuple[nnx.GraphDef, nnx.State, nnx.State, nnx.State]:
    """Return a new model: its definition, parameters, `Hyperparameter`s and `Structure`.

    label_sets: by split, what its loss is to be computed on; soft or unknown labels that the head cannot take are a
    `UserError`. With ``config.model.prior`` the scores begin with those of the training split's frequencies.
    frequencies: of the training split's labels, for a head or a loss that asks for them.
    """
    model = Model(config, spec, num_labels, hierarchy, nnx.Rngs(config.seed))
    if model.sparse:
        model.head.expect(label_sets.values())
    for part in (model.head, model.loss):
        if frequencies is not None and hasattr(part, "use_frequencies"):
            part.use_frequencies(frequencies)
    if hasattr(model.decoder, "connect"):
        model.decoder.connect(hierarchy, label_sets.get("train"))
    if config.model.prior and label_sets:
        model.decoder.begin_with(model.head.begin_with(label_sets["train"]))
    for labels in label_sets.values():
        check_label_values(model.head, config.head.name, has_soft=labels.has_soft, has_unknown=labels.has_unknown)
    return nnx.split(model, nnx.Param, Hyperparameter, Structure)  # type: ignore[return-value]  # as many states as filters
