"""03 · Predict with TTA: out-of-fold (OOF) and test predictions, and the CV score of the run.

Each training row is predicted by the model of its own fold, which was not trained on it; each test row is
predicted by the models of all folds.

Reads   runs/<name>/fold<k>/model.safetensors
Writes  runs/<name>/ (oof.parquet, test.parquet, metrics.json) and the same tables per fold; for inspection,
        outputs.csv and worst.png
"""

from src.cli import main
from src.optimism import cv_of
from src.reading import read_metrics
from src.scoring import no_better_than_constant
from src.steps import predict_step, run_of, score_step


def run(config, force):
    this = run_of(config)
    steps = [predict_step(this, fold) for fold in config.selected_folds]
    if force:
        for step in steps:
            step.drop()
    if not config.partial and all(step.fresh() for step in steps) and score_step(this).fresh():
        metrics = read_metrics(this.folder)
        cv = cv_of(metrics, no_better_than_constant(metrics))
        print(f"{score_step(this).up_to_date_line()}; {cv}")
        return
    from src.inference.oof import predict_run

    predict_run(this, config.selected_folds)


if __name__ == "__main__":
    main(run, __doc__)
