"""What happens to images before the network sees them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from src.config.section import Section, Share


class Augment(Section):
    hflip: Share = 0.5
    vflip: Share = 0.0  # off: most photographs have an up and a down
    crop_scale: tuple[Share, Share] = (
        0.7,
        1.0,
    )  # share of the area kept; 0.08 is too hard here
    crop_ratio: tuple[float, float] = (0.8, 1.25)
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    shift: Share = 0.0  # share of the side, either way
    zoom: Share = 0.0  # share, in or out
    brightness: Share = 0.0
    contrast: Share = 0.0
    cutout: Share = 0.0  # probability of one erased square, a quarter of the side
