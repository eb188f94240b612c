"""01 · Prepare the data set: decode and cache the images, assign the CV folds.

Reads   data/raw/ (train.csv, test.csv, sample_submission.csv, the image folders); if the config has no
        data section yet, the raw files are inspected first and a data section is written
Writes  data/cache/<size>/ (every image decoded once), data/folds.csv, data/dataset.json, data/summary.md
"""

from src.cli import main


def run(config, force):
    from src.data.prepare import prepare_dataset

    prepare_dataset(config, force)


if __name__ == "__main__":
    main(run, __doc__, look_first=True)
