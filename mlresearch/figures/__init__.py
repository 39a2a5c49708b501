"""Figures: a file a family, each with ``draw_*`` functions that take arrays and names and return a matplotlib figure.

`style` has what all of them share, `drawing` says which figures a study or its runs have the data for, `dataset` draws
data sets. matplotlib is the optional extra ``figures``: nothing here imports it before something is drawn.
"""
