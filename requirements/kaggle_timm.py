"""Which backbones of the project's timm the timm of Kaggle's image lacks: requirements/kaggle-timm.txt there.

    python requirements/kaggle_timm.py [PYTHON]

PYTHON is that of an environment with Kaggle's versions; build/kaggle-image, which `make test` makes, unless
another is named. A name with a tag, such as resnet50.a1_in1k, stands for these weights of a known network.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ROOT / "<<cookiecutter.comp_name>>" / "requirements" / "kaggle-timm.txt"
ASK = "import json, timm; print(json.dumps([timm.__version__, timm.list_models(), timm.list_pretrained()]))"


def lacking(image: Path) -> str:
    """The text of the file."""
    (new, models, tags), (old, old_models, old_tags) = map(ask, (Path(sys.executable), image))
    networks = set(models) - set(old_models)
    weights = {tag for tag in set(tags) - set(old_tags) if tag.partition(".")[0] not in networks}
    head = (
        f"# Backbones of timm {new} that timm {old} of Kaggle's image lacks; by requirements/kaggle_timm.py"
    )
    return "\n".join([f"{head} of the template", *sorted(networks | weights)]) + "\n"


def ask(python: Path) -> tuple[str, list[str], list[str]]:
    """timm's version under a Python, its models, and those with their weights' tags."""
    done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    image = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "kaggle-image" / "bin" / "python"
    NAMES.write_text(lacking(image), encoding="utf-8")
    print(f"{NAMES}: {len(NAMES.read_text(encoding='utf-8').splitlines()) - 1} names")
