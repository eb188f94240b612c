"""The inference kernel, which Kaggle runs: find the bundle, verify it and write submission.csv.

This is the kernel's only file. Everything else is in the bundle, a private dataset that `make bundle` builds
and `make push` uploads. The kernel does not use the network.
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
    """Find and verify the bundle, then run its code on the mounted competition."""
    bundle, manifest = find_bundle()
    print(f"bundle {manifest['bundle_hash']} in {bundle}", flush=True)
    verify(bundle, manifest)
    sys.path.insert(0, str(bundle))
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    from src.kernel.run import run

    run(bundle, find_competition(manifest["competition"]), WORKING, BEGAN)


def find_bundle() -> tuple[Path, dict]:
    """The attached dataset whose manifest marks it as a bundle of this project, in either of Kaggle's
    layouts."""
    for pattern in ("datasets/*/*/manifest.json", "*/manifest.json"):
        for path in sorted(INPUT.glob(pattern)):
            manifest = read_manifest(path)
            if manifest.get("made_by") == "nntricks-comp" and (path.parent / "competition.json").exists():
                return path.parent, manifest
    sys.exit(f"no bundle below {INPUT}: attach the dataset that `make push` made")


def read_manifest(path: Path) -> dict:
    """Read a manifest; empty if the file is not one of this project, since other datasets may be attached."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def verify(bundle: Path, manifest: dict) -> None:
    """Exit with an error if a file of the bundle is missing or has another hash."""
    for name, known in manifest["sha256"].items():
        path = bundle / name
        if not path.is_file():
            sys.exit(f"{path}: the bundle lacks it; was the dataset ready?")
        with open(path, "rb") as handle:
            if hashlib.file_digest(handle, "sha256").hexdigest() != known:
                sys.exit(f"{path}: is not the file that was sent")


def find_competition(slug: str) -> Path:
    """The competition's folder, in either of Kaggle's layouts."""
    for path in (INPUT / "competitions" / slug, INPUT / slug):
        if path.is_dir():
            return path
    sys.exit(f"the files of competition {slug} are not attached below {INPUT}")


if __name__ == "__main__":
    main()
