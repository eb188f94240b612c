"""The one file that runs on Kaggle: finds the bundle, checks it, and writes submission.csv with it.

Everything else lies in the bundle, a private dataset that `make bundle` makes and `make push` uploads. No
network is asked for anything.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

BEGAN = time.monotonic()
INPUT = Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))
WORKING = Path(os.environ.get("KAGGLE_WORKING_DIR", "/kaggle/working"))


def main() -> None:
    bundle, manifest = find_bundle()
    print(f"bundle {manifest['bundle_hash']} in {bundle}", flush=True)
    verify(bundle, manifest)
    sys.path.insert(0, str(bundle))
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    from src.kernel.run import run

    run(bundle, find_competition(manifest["competition"]), WORKING, BEGAN)


def find_bundle() -> tuple[Path, dict]:
    """The attached dataset that says it is a bundle of ours, under either of Kaggle's layouts."""
    for pattern in ("datasets/*/*/manifest.json", "*/manifest.json"):
        for path in sorted(INPUT.glob(pattern)):
            manifest = read_manifest(path)
            if manifest.get("made_by") == "nntricks-comp" and (path.parent / "competition.json").exists():
                return path.parent, manifest
    sys.exit(f"no bundle below {INPUT}: attach the dataset that `make push` made")


def read_manifest(path: Path) -> dict:
    """A manifest; empty where the file is none of ours: another attached dataset may hold what it likes."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def verify(bundle: Path, manifest: dict) -> None:
    """End where a file is not the one that was sent."""
    for name, known in manifest["sha256"].items():
        path = bundle / name
        if not path.is_file():
            sys.exit(f"{path}: the bundle lacks it; was the dataset ready?")
        with open(path, "rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != known:
                sys.exit(f"{path}: is not the file that was sent")


def find_competition(slug: str) -> Path:
    """The competition's folder, under either of Kaggle's layouts."""
    for path in (INPUT / "competitions" / slug, INPUT / slug):
        if path.is_dir():
            return path
    sys.exit(f"the files of competition {slug} are not attached below {INPUT}")


if __name__ == "__main__":
    main()
