"""Send one submission to Kaggle and wait for its score: the pushed kernel, or a CSV if the host accepts one.

Reads   kaggle/receipts/kernel.json with kaggle.code_competition=true, else submissions/<name>.csv and .json
Writes  submissions/log.csv (a row with CV and scores), kaggle/receipts/submission-<content>.json

Submits only with SUBMIT=1 in the environment (`make send SUBMIT=1`); else prints what would be sent.
"""

import os

from src.cli import main


def run(config, force):
    from src.kaggle.send import send_submission

    send_submission(config, submit=os.environ.get("SUBMIT") == "1", force=force)


if __name__ == "__main__":
    main(run, __doc__)
