"""Inference on Kaggle: what goes into the bundle, and what a kernel does with it there.

`bundle.py` makes the folder · `members.py` opens its models · `test.py` reads a mounted test set, however
broken, with `asked.py` (which rows are asked for) and `search.py` (where the images are) · `guard.py` keeps
to the time · `run.py` all of it, from the mounted files to submission.csv · `summary.py` counts what that
holds. Nothing here imports what Kaggle's image lacks, and nothing asks the network.
"""
