"""Push the rehearsed bundle and its kernel to Kaggle, run the kernel there, download and check its output.

Reads   kaggle/bundle/, kernel/infer.py, kaggle/receipts/rehearsal.json (which must match both)
Writes  kaggle/receipts/dataset.json, kernel.json; kaggle/output/ (the run's files and log)

An interrupted push resumes; --force pushes the same kernel again.
"""

from src.cli import main


def run(config, force):
    from src.kaggle.push import push_bundle

    push_bundle(config, force)


if __name__ == "__main__":
    main(run, __doc__)
