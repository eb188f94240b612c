"""Train this experiment on Kaggle's GPUs: stages 01 to 03 as a kernel, over as many sessions as it takes.

Reads   src/, configs/, data/folds.csv (stage 01 is done here first), kernel/train.py
Writes  kaggle/receipts/train-<name>.json, code.json; runs/<name>/ once it is finished

Stopped at any moment, it goes on; --force begins anew. A session holds a GPU for up to kaggle.train_hours.
"""

from src.cli import main


def run(config, force):
    from src.kaggle.training import train_on_kaggle

    train_on_kaggle(config, force)


if __name__ == "__main__":
    main(run, __doc__)
