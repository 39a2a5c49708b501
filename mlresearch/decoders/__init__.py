"""Decoders turn what was encoded into label scores: ``Decoder(...)(encoded, dropout_keys) -> label_scores``.

A decoder is one file here with a class ``Decoder``::

    Decoder(dim: int, num_labels: int, scores_per_label: int, *, <options with defaults>, dtype, param_dtype, rngs)
    decoder(encoded, dropout_keys) -> Float[Array, "batch labels scores_per_label"]

`dim` is the encoder's width; a head says how many scores a label it wants. Keyword-only arguments are options, as
for encoders, found under ``config.decoder.<file name>``.
"""
