"""Your own preprocessing goes here: a function, named in the config as `data.preprocess`.

It is given every image of train and test alike, once, before it is resized and cached: (H, W, C) uint8, RGB
for pictures, upright; and gives one back, uint8 too, of any size (of the same size for segmentation, whose
masks would no longer lie on it). A changed function here makes the cache anew, and with it what was trained
on it; a changed comment does not. Look at the result with `make preview`.

The two that are here work as they stand: `data.preprocess=trim_border`.
"""

from __future__ import annotations

import cv2
import numpy as np


def trim_border(image: np.ndarray) -> np.ndarray:
    """Cut away rows and columns that are black all along: the frame of a scan, of an eye's fundus."""
    bright = image.max(2) > 12  # of 255: JPEG never writes a clean black
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    if not len(rows):
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def local_contrast(image: np.ndarray) -> np.ndarray:
    """Spread the brightness of every neighbourhood over the whole range: faint X-rays, uneven light.

    CLAHE by Zuiderveld 1994, Contrast Limited Adaptive Histogram Equalization, on the lightness alone.
    """
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[:, :, 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[:, :, 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
