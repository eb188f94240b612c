"""05 · Stack the finished runs: compare the blenders of `stack.blenders` with the mean and the best run.

Reads   runs/*/ (oof.parquet, test.parquet) of every finished run on the same folds
Writes  stacks/<name>/ (oof.parquet, test.parquet, metrics.json, stacker.json)
"""

from src.cli import main
from src.optimism import cv_of
from src.reading import read_metrics
from src.steps import stack_step


def run(config, force):
    from src.ensemble.members import find_members

    folders, left_out = find_members(config)
    step = stack_step(config, folders)
    for line in left_out:
        print(line)
    if force:
        step.drop()
    if step.fresh():
        metrics = read_metrics(step.folder)
        print(f"{step.up_to_date_line()}; {metrics.get('kept')}, {cv_of(metrics)}")
        return
    from src.ensemble.report import stack_runs

    stack_runs(step, config, folders)


if __name__ == "__main__":
    main(run, __doc__)
