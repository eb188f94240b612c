"""Inference kernels on Kaggle: build the bundle, rehearse the kernel locally, predict a hidden test set.

`bundle.py` builds the bundle · `members.py` loads its models · `hidden_test.py` reads a mounted test set and
tolerates defects, with `asked.py` (requested rows) and `search.py` (image files) · `time_guard.py` keeps the
time limit · `run.py` combines these, from the mounted files to submission.csv · `summary.py` counts predicted
rows. None of it imports a package that Kaggle's image lacks, and none of it uses the network.
"""
