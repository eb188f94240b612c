"""01 · Look at the data, pack the images, decide the folds.

Reads   data/raw/ (train.csv, test.csv, sample_submission.csv, the image folders); where the config has no
        data section yet, it looks at them first and writes one
Writes  data/cache/<size>/ (every image once, decoded), data/folds.csv, data/dataset.json, data/summary.md
"""

from src.cli import main


def run(config, force):
    from src.data.prepare import prepare_dataset

    prepare_dataset(config, force)


if __name__ == "__main__":
    main(run, __doc__, look_first=True)
