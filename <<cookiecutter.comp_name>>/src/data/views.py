"""TTA views: a batch of images (B, C, H, W) seen another way; the predictions of all views are averaged.

What is said of a whole image needs no way back; a map does, by `UNDO`. Written with tensor methods alone, so
that a config is checked without importing torch.
"""

from __future__ import annotations

from typing import Any

from src.config import UserError


def _identity(x: Any) -> Any:
    return x


def _hflip(x: Any) -> Any:
    return x.flip(-1)


def _vflip(x: Any) -> Any:
    return x.flip(-2)


def _rot90(x: Any) -> Any:
    return x.rot90(1, (-2, -1))


def _rot180(x: Any) -> Any:
    return x.rot90(2, (-2, -1))


def _rot270(x: Any) -> Any:
    return x.rot90(3, (-2, -1))


def _transpose(x: Any) -> Any:
    return x.transpose(-2, -1)


def _shifted(rows: int, columns: int) -> Any:
    """Moved by a 32nd of the side (a pixel at least); the uncovered edge repeats its last row or column."""

    def shift(x: Any) -> Any:
        down, right = rows * max(1, x.shape[-2] // 32), columns * max(1, x.shape[-1] // 32)
        height, width = x.shape[-2:]
        ys = [min(max(y - down, 0), height - 1) for y in range(height)]
        xs = [min(max(c - right, 0), width - 1) for c in range(width)]
        return x[..., ys, :][..., xs]

    return shift


VIEWS = {
    "identity": _identity,
    "hflip": _hflip,
    "vflip": _vflip,
    "rot90": _rot90,
    "rot180": _rot180,
    "rot270": _rot270,
    "transpose": _transpose,
    "up": _shifted(-1, 0),
    "down": _shifted(1, 0),
    "left": _shifted(0, -1),
    "right": _shifted(0, 1),
}


# The view that takes a map (B, C, H, W) of a view back to where the image was; a shift loses its edge.
UNDO = {
    "identity": _identity,
    "hflip": _hflip,
    "vflip": _vflip,
    "rot90": _rot270,
    "rot180": _rot180,
    "rot270": _rot90,
    "transpose": _transpose,
    "up": VIEWS["down"],
    "down": VIEWS["up"],
    "left": VIEWS["right"],
    "right": VIEWS["left"],
}


def check_views(names: tuple[str, ...]) -> None:
    """Raise `UserError` naming the known views for a name that is none, or that stands twice."""
    for name in names:
        if name not in VIEWS:
            raise UserError(f"inference.tta: there is no view {name!r}; known are {', '.join(VIEWS)}")
        if names.count(name) > 1:
            raise UserError(f"inference.tta: {name!r} stands twice; a view counts once")
