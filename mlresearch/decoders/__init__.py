"""Decoders turn what was encoded into label scores: ``Decoder(...)(encoded, dropout_keys) -> label_scores``.

A decoder is one file here with a class ``Decoder``::

    Decoder(dim: int, num_labels: int, scores_per_label: int, *, <options with defaults>, dtype, param_dtype, rngs)
    decoder(encoded, dropout_keys) -> Float[Array, "batch labels scores_per_label"]

`dim` is the encoder's width; a head says how many scores a label it wants. Keyword-only arguments are options, as
for encoders, found under ``config.decoder.<file name>``. With ``config.model.prior`` ``decoder.begin_with(scores)`` is
told the scores that all inputs have at first.

A decoder may have a method ``connect(hierarchy, labels)``, which is told of both, labels being the training split's
label sets (None where a run is loaded, whose decoder is restored as it was); and ``label_states = True``: then it is
called with ``decoder(encoded, dropout_keys, known)``, known labels with NaN for unknown. See `label_attention`.

A decoder with ``causal = True`` gives `causal.CausalScores` instead, each label's score as a function of the labels
before it, and goes with heads that ask for these, which have ``causal = True`` as well: `causal` and `chain`.
"""
