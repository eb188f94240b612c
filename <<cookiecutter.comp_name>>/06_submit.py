"""06 · Write the submission file in the order of the sample submission, check it, and record its provenance.

Reads   stacks/<name>/ or, with submit.source=run:<name>, runs/<name>/ (test.parquet, metrics.json);
        sample_submission.csv
Writes  submissions/<name>.csv, submissions/<name>.json
"""

from src.cli import main
from src.steps import submission_source, submit_step


def run(config, force):
    source, name = submission_source(config)
    step = submit_step(config, source, name)
    if force:
        step.drop()
    if step.fresh():
        print(f"{step.up_to_date_line()} ({step.folder / step.outputs[0]})")
        return
    from src.submission.table import write_submission

    write_submission(step, config, source)


if __name__ == "__main__":
    main(run, __doc__)
