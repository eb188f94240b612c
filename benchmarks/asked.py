"""Second questions to a pack's images, for tasks that one pack alone has: each rewrites the tables of a
project's data/raw in place."""

from __future__ import annotations

from pathlib import Path

LABELS = ["open", "short", "mousebite", "spur", "copper", "pinhole"]  # of pcb_tiles
SMALLEST = 0.004  # of a tile that its flaws cover; below lie tiles that show next to none
MARGIN = 3  # pixels around a flaw that belong to it: a small image shows no thinner ones


def faults(raw: Path) -> None:
    """Of a circuit board's tile: how many kinds of faults it has, 0 to 6."""
    import pandas as pd

    for table in ("train", "sample_submission"):
        frame = pd.read_csv(raw / f"{table}.csv", dtype={"image_id": str})
        frame["faults"] = frame[LABELS].sum(axis=1).round().astype(int)
        frame.drop(columns=LABELS).to_csv(raw / f"{table}.csv", index=False)


def flaws(raw: Path) -> None:
    """Of a tested board (red) beside its template (green): where the two differ, and a margin. The difference
    is the pack's own, which its images hold in blue; it is taken out of them."""
    import cv2
    import numpy as np
    import pandas as pd

    around = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
    (raw / "train_masks").mkdir()
    train = pd.read_csv(raw / "train.csv", dtype=str)
    kept = []
    for name in train["image_id"]:
        mask = _taken_out(raw / "train_images" / name)
        kept.append((mask > 127).mean() >= SMALLEST)
        if kept[-1]:
            cv2.imwrite(str(raw / "train_masks" / name), cv2.dilate(mask, around))
    train = train.loc[kept, ["image_id", "board"]]
    train.assign(mask_id=train["image_id"]).to_csv(raw / "train.csv", index=False)
    sample = pd.read_csv(raw / "sample_submission.csv", dtype=str)[["image_id"]]
    sample.assign(rle="").to_csv(raw / "sample_submission.csv", index=False)
    for name in sample["image_id"]:
        _taken_out(raw / "test_images" / name)


def _taken_out(path: Path):
    """An image's blue channel, which is 0 in the file from now on."""
    import cv2

    image = cv2.imread(str(path))
    blue = image[..., 0].copy()
    image[..., 0] = 0
    cv2.imwrite(str(path), image)
    return blue
