"""Fetch the competition's files from Kaggle into data/raw; stopped at any moment, it goes on.

Reads   the competition's files on Kaggle (its rules must be accepted there, a key must be here)
Writes  data/raw/, data/download/<slug>.json (what came); --force looks for newer files
"""

from src.cli import main
from src.locks import alone


def run(config, force):
    from src.kaggle.download import download

    with alone(config.root / "data" / "raw"):
        download(config, force)


if __name__ == "__main__":
    main(run, __doc__)
