"""Train this experiment on Kaggle's GPUs: stages 01 to 03 as a kernel, over as many sessions as needed.

Reads   src/, configs/, data/folds.csv (stage 01 runs here first), kernel/train.py
Writes  kaggle/receipts/train-<name>.json, code.json; runs/<name>/ when it has finished

An interrupted call resumes; --force starts over. One session holds a GPU for up to kaggle.train_hours.
"""

from src.cli import main


def run(config, force):
    from src.kaggle.training import train_on_kaggle

    train_on_kaggle(config, force)


if __name__ == "__main__":
    main(run, __doc__)
