"""Build the bundle: a folder with everything a Kaggle kernel needs to predict what stage 06 submits.

Reads   stacks/<name>/ or runs/<name>/, the members' models, data/
Writes  kaggle/bundle/ (see src/kernel/bundle.py), kaggle/infer.ipynb
"""

from pathlib import Path

from src.cli import main
from src.locks import alone

_PROJECT = Path(__file__).resolve().parents[2]


def run(config, force):
    from src.kaggle.names import bundle_folder, competition
    from src.kernel.bundle import build_bundle, write_notebook

    competition(config)  # raises if the competition is not set
    folder = bundle_folder(config)
    with alone(folder):
        manifest = build_bundle(config, folder)
        write_notebook(_PROJECT / "kernel" / "infer.py", folder.parent / "infer.ipynb")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    print(
        f"{folder}: {manifest['source']}, {len(manifest['sha256'])} files, {size:,.1f} MiB, "
        f"bundle {manifest['bundle_hash'][:12]}; next: `make rehearse`"
    )


if __name__ == "__main__":
    main(run, __doc__)
