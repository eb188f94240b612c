"""Test-time augmentation (TTA) views of a batch of images (B, C, H, W); the predictions of all views are
averaged.

Image-level predictions need no inverse; masks are mapped back by `View.undo`. The views only use tensor
methods, so that a config is validated without importing torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from src.config import Inference, UserError

CROP = 7 / 8  # 224 of 256 pixels, the crop of Krizhevsky, Sutskever, Hinton 2012 (AlexNet)


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
    """Shift by 1/32 of the side (at least one pixel); the uncovered edge repeats its last row or column."""

    def shift(x: Any) -> Any:
        down, right = rows * max(1, x.shape[-2] // 32), columns * max(1, x.shape[-1] // 32)
        height, width = x.shape[-2:]
        ys = [min(max(y - down, 0), height - 1) for y in range(height)]
        xs = [min(max(c - right, 0), width - 1) for c in range(width)]
        return x[..., ys, :][..., xs]

    return shift


# Views of the whole image at its own size.
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


# The view that inverts each view for a map (B, C, H, W); a shift loses its edge.
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


# Crops: relative position of the crop from the first row and column (0) to the last (1). `centre` zooms.
CROPS = {
    "centre": (0.5, 0.5),
    "top_left": (0.0, 0.0),
    "top_right": (0.0, 1.0),
    "bottom_left": (1.0, 0.0),
    "bottom_right": (1.0, 1.0),
}
CORNERS = set(CROPS) - {"centre"}


class View(NamedTuple):
    """One TTA view: a transform, or a crop of `share` of the side, resized to `side` pixels.

    Without `side` the view has the image's own size; crops are enlarged to it.
    """

    name: str
    side: int | None = None
    share: float = CROP

    def see(self, images: Any) -> Any:
        """Apply the view to images (B, C, H, W): uint8 if not resized, otherwise float."""
        height, width = images.shape[-2:]
        top, left, h, w = self.box(height, width)
        part = images[..., top : top + h, left : left + w]
        shown = resize_batch(part, (height, width) if self.side is None else (self.side, self.side))
        return VIEWS.get(self.name, _identity)(shown)

    def undo(self, maps: Any, size: tuple[int, int]) -> Any:
        """Map predictions (B, C, h, w) of this view back to the image of `size` (H, W); 0 outside a crop."""
        top, left, h, w = self.box(*size)
        part = resize_batch(UNDO.get(self.name, _identity)(maps), (h, w))
        if (h, w) == tuple(size):
            return part
        whole = part.new_zeros(*part.shape[:-2], *size)
        whole[..., top : top + h, left : left + w] = part
        return whole

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The part of the image that the view covers: top, left, height, width."""
        if self.name not in CROPS:
            return 0, 0, height, width
        h, w = (max(1, round(side * self.share)) for side in (height, width))
        down, right = CROPS[self.name]
        return round((height - h) * down), round((width - w) * right), h, w


def views_of(settings: Inference) -> list[View]:
    """All views: each of `inference.tta` at each of `inference.scales`."""
    share = CROP if settings.crop is None else settings.crop
    return [View(name, side, share) for side in settings.scales or (None,) for name in settings.tta]


def resize_batch(x: Any, size: tuple[int, int]) -> Any:
    """Resize (B, C, H, W) bilinearly with antialiasing, in float; unchanged if it already has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    from torch.nn.functional import interpolate

    return interpolate(x.float(), size=tuple(size), mode="bilinear", antialias=True)


def check_views(settings: Inference, task: str) -> None:
    """Raise `UserError` for an unknown or repeated view, for `inference.crop` without a crop view, and for
    segmentation views that do not cover the whole image."""
    names = settings.tta
    for name in names:
        if name not in VIEWS and name not in CROPS:
            known = ", ".join([*VIEWS, *CROPS])
            raise UserError(f"inference.tta: there is no view {name!r}; known are {known}")
        if names.count(name) > 1:
            raise UserError(f"inference.tta: {name!r} stands twice; a view counts once")
    if settings.crop is not None and not CROPS.keys() & set(names):
        raise UserError(
            f"inference.crop={settings.crop:g}: no view of inference.tta is a crop; leave it null, or add "
            f"one of {', '.join(CROPS)}"
        )
    if task == "segmentation" and not VIEWS.keys() & set(names) and not set(names) >= CORNERS:
        raise UserError(
            f"inference.tta=[{', '.join(names)}] leaves pixels that no view sees; add identity, or take all "
            f"of {', '.join(name for name in CROPS if name in CORNERS)}"
        )
