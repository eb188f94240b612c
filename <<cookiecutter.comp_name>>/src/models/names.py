"""Names of timm's backbones, locally and in Kaggle's image, without the slow import of timm."""

from __future__ import annotations

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from src.config import UserError

NEWER = Path(__file__).resolve().parents[2] / "requirements" / "kaggle-timm.txt"
_REGISTERED = re.compile(r"^@register_model\s*\ndef\s+(\w+)\s*\(", re.MULTILINE)


@cache
def known_backbones() -> frozenset[str]:
    """Architecture names registered in the installed timm, read from its source files.

    Raises `UserError` if timm is not installed.
    """
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise UserError("timm is not installed in this environment; run `make setup`")
    folder = Path(found.origin).parent / "models"
    return frozenset(
        name for path in folder.glob("*.py") for name in _REGISTERED.findall(path.read_text(encoding="utf-8"))
    )


def check_backbone(name: str) -> None:
    """Raise `UserError` with similar names unless timm knows the architecture.

    A pretrained `.tag` is not checked.
    """
    architecture = name.partition(".")[0]
    if architecture not in known_backbones():
        near = difflib.get_close_matches(architecture, known_backbones(), n=4, cutoff=0.5)
        hint = f"near names are {', '.join(near)}" if near else "a good one is resnet18"
        raise UserError(f"model.backbone: timm knows no {name!r}; {hint}")


def unknown_on_kaggle(name: str, newer: Path = NEWER) -> str | None:
    """Why a Kaggle kernel cannot build this backbone, in a sentence with alternatives; None if it can.

    `newer` lists the models that the local timm has and the one in Kaggle's image lacks.
    """
    if not newer.is_file():
        return None
    head, *lacking = newer.read_text(encoding="utf-8").splitlines()
    architecture = name.partition(".")[0]
    if not {name, architecture} & set(lacking):
        return None
    near = difflib.get_close_matches(architecture, known_backbones() - set(lacking), n=3, cutoff=0.4)
    version = re.search(r"timm ([\d.]+) of Kaggle", head)
    return (
        f"model.backbone: no kernel can build {name}, for timm {version[1] if version else ''} of Kaggle's "
        f"image does not know it; choose another, such as {', '.join(near or ['resnet18'])}"
    )
