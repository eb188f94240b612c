"""04 · Pseudo-label the test rows and retrain, in rounds; each fold uses only its own model's pseudo-labels.

Reads   runs/<name>/ (models, oof.parquet, fold<k>/test.parquet); data/cache/ for pseudo.external
Writes  runs/<name>-round<r>/ (one run per round, with fold<k>.pseudo.parquet, labels.parquet, round.json);
        runs/<name>/pseudo.json

Some hosts forbid pseudo-labels, and some forbid any use of the test images in training: read the rules first.
"""

from src.cli import main
from src.pseudo.outcome import first_row, write_outcome
from src.pseudo.steps import pseudo_step
from src.reading import read_json


def run(config, force):
    step = pseudo_step(config)
    if force:
        step.drop()
    if step.fresh():
        report = read_json(step.folder / "pseudo.json", rounds=list, best=str)
        if all((config.root / "runs" / row["run"] / "metrics.json").exists() for row in report["rounds"]):
            print(f"{step.up_to_date_line()}; best is {report['best']}")
            return
    if config.pseudo.rounds == 0:
        metrics = read_json(step.folder / "metrics.json")
        write_outcome(step, metrics["metric"], [first_row(config.name, metrics)])
        print(f"{step.title}: pseudo.rounds=0, so there is nothing to do")
        return
    from src.pseudo.rounds import check_allowed, label_recursively

    check_allowed(config)
    label_recursively(config)


if __name__ == "__main__":
    main(run, __doc__)
