"""Download the competition's files from Kaggle into data/raw; an interrupted download resumes.

Reads   the competition's files on Kaggle (accept its rules there; an API key is needed here)
Writes  data/raw/, data/download/<slug>.json (what was downloaded); --force looks for newer files
"""

from src.cli import main
from src.locks import alone


def run(config, force):
    from src.kaggle.download import download

    with alone(config.root / "data" / "raw"):
        download(config, force)


if __name__ == "__main__":
    main(run, __doc__)
