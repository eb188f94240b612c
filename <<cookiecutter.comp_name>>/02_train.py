"""02 · Train one model per fold; `fold=2` or `folds=[0,3]` trains only those folds. A killed run resumes.

Reads   data/folds.csv, data/cache/, runs/<teacher>/ for distillation
Writes  runs/<name>/config.yaml, runs/<name>/fold<k>/ (model.safetensors, history.csv, score.json)
"""

from src.cli import main
from src.steps import run_of, train_step


def run(config, force):
    steps = [train_step(run_of(config), fold) for fold in config.selected_folds]
    if force:
        for step in steps:
            step.drop()
    if all(step.fresh() for step in steps):  # before torch is imported, which takes seconds
        for step in steps:
            print(step.up_to_date_line())
        return
    from src.training.launch import train_run

    train_run(run_of(config), config.selected_folds)


if __name__ == "__main__":
    main(run, __doc__)
