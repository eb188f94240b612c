"""Send the rehearsed bundle and its kernel to Kaggle, run the kernel there, fetch and check what it writes.

Reads   kaggle/bundle/, kernel/infer.py, kaggle/receipts/rehearsal.json (of exactly these)
Writes  kaggle/receipts/dataset.json, kernel.json; kaggle/output/ (the run's files and log)

Stopped at any moment, it goes on; --force pushes the same kernel once more.
"""

from src.cli import main


def run(config, force):
    from src.kaggle.push import push_bundle

    push_bundle(config, force)


if __name__ == "__main__":
    main(run, __doc__)
