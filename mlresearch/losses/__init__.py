"""Label-wise losses: ``Loss(...)(logits, labels)``, one number a label.

A loss family is one file here with a class ``Loss``::

    Loss(*, <options with defaults>)
    loss(logits, labels) -> Float[Array, "*shape"]      # not reduced: heads sum over labels

Labels are numbers from 0 to 1, never NaN: heads leave unknown labels out.

Keyword-only arguments are options, as for encoders, found under ``config.loss.<file name>``.
"""
