"""Your own preprocessing functions: write one here and name it in the config as `data.preprocess`.

The function gets each image of train and test once, before it is resized and cached: (H, W, C) uint8, RGB for
pictures, upright. It returns a uint8 image of any size (for segmentation of the same size, because the masks
would not fit otherwise). If the code of the function changes, the image cache and everything trained on it is
made again; a changed comment has no effect. Check the result with `make preview`.

The two functions below work as they are: `data.preprocess=trim_border`.
"""

from __future__ import annotations

import cv2
import numpy as np


def trim_border(image: np.ndarray) -> np.ndarray:
    """Crop rows and columns that are entirely black, such as the frame of a scan or of a fundus
    photograph."""
    bright = image.max(2) > 12  # of 255: JPEG black is noisy
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    if not len(rows):
        return image
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def local_contrast(image: np.ndarray) -> np.ndarray:
    """CLAHE (contrast limited adaptive histogram equalization) on the lightness channel, for faint X-rays and
    uneven lighting. Zuiderveld 1994, Contrast Limited Adaptive Histogram Equalization."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[:, :, 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[:, :, 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
