"""Segmentation through all six stages, against masks and maps read, counted and decided by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
import torch
from six_stages import RUNS, Made, left, make, place_of, shown, text, with_the_round

from src.models.weights import load_model

SIZES = [(32, 32), (24, 40), (36, 28)]  # height and width, in turn


@dataclass(frozen=True)
class Segmented(Made):
    """A made data set of masks, with what is true of its training rows."""

    true: tuple[np.ndarray, ...] = ()  # (C, H, W) bool each

    @property
    def classes(self) -> list[str]:
        return self.competition.outputs

    def image(self, role: str, name: str) -> Path:
        return self.done / f"data/raw/{role}_images/{name}.png"


@pytest.fixture(scope="module", params=["segmentation", "masks"])
def made(request, tmp_path_factory) -> Segmented:
    one = make(request.param, tmp_path_factory.getbasetemp())
    raw, train = one.done / "data/raw", one.raw("train")
    if one.name == "masks":
        files = [
            cv2.imread(str(raw / f"train_masks/{name}.png"), cv2.IMREAD_UNCHANGED) for name in train["id"]
        ]
        true = [np.stack([values == 1, values == 2]) for values in files]
    else:
        shapes = [cv2.imread(str(raw / f"train_images/{name}.png")).shape[:2] for name in train["id"]]
        assert shapes[:3] == SIZES
        true = [by_hand(runs, *shape)[None] for runs, shape in zip(train["rle"], shapes, strict=True)]
    return Segmented(one.name, one.fresh, one.done, tuple(true))


def by_hand(runs: str, height: int, width: int) -> np.ndarray:
    """(H, W) bool of run lengths, pixel by pixel: from 1, down the columns."""
    mask, numbers = np.zeros((height, width), bool), [int(word) for word in runs.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for place in range(start - 1, start - 1 + length):
            mask[place % height, place // height] = True
    return mask


def stored(table: pd.DataFrame, columns: list[str]) -> list[np.ndarray]:
    """(C, h, w) uint8 of each row, the PNG files in its cells."""
    cells = table[columns].itertuples(index=False)
    return [np.stack([cv2.imdecode(np.frombuffer(cell, np.uint8), -1) for cell in row]) for row in cells]


def at_own_size(table: pd.DataFrame, columns: list[str]) -> list[np.ndarray]:
    """(C, H, W) uint8: the maps of each row drawn out to the size of its image."""
    rows = zip(stored(table, columns), table["height"], table["width"], strict=True)
    return [np.stack([cv2.resize(one, (width, height)) for one in maps]) for maps, height, width in rows]


# --- stage 01 -----------------------------------------------------------------------------------------------


def test_folds_csv_and_dataset_json_hold_the_share_of_each_image_that_a_class_covers(made):
    folds, described = text(made.done / "data/folds.csv"), made.json("data/dataset")
    shares = np.array([mask.mean((1, 2)) for mask in made.true])
    written = folds[made.competition.in_tables].to_numpy(float)
    np.testing.assert_allclose(written, shares, rtol=1e-12)
    assert described["counts"] == dict(zip(made.classes, (shares > 0).sum(0).tolist(), strict=True))
    assert described["coverage"] == pytest.approx(
        dict(zip(made.classes, shares.mean(0), strict=True)), abs=1e-6
    )
    summary = (made.done / "data/summary.md").read_text()
    for name, count, share in zip(made.classes, (shares > 0).sum(0), shares.mean(0), strict=True):
        assert f"{name} in {count} images ({share:.2%} of all pixels)" in summary
    for k in range(2):
        cells = [f"{value:.4g}" for value in shares[folds["fold"] == str(k)].mean(0)]
        assert f"\n| {k} | {(folds['fold'] == str(k)).sum()} | {' | '.join(cells)} |\n" in summary


def test_folds_share_out_what_there_is_to_see(made):
    folds = text(made.done / "data/folds.csv")["fold"]
    shares = np.array([mask.mean((1, 2)) for mask in made.true])
    first, second = ((shares[folds == k] > 0).sum(0) for k in ("0", "1"))
    assert np.abs(first - second).max() <= 2
    first, second = (shares[folds == k].mean(0) for k in ("0", "1"))
    assert np.abs(first - second).max() < 0.02


# --- stage 03 -----------------------------------------------------------------------------------------------


def test_targets_of_oof_tables_are_the_very_masks_at_their_images_own_size(made):
    for run in RUNS:
        oof = made.table(f"runs/{run}/oof")
        for mask, target in zip(made.true, stored(oof, made.competition.in_tables), strict=True):
            np.testing.assert_array_equal(target, mask * np.uint8(255))
        assert list(zip(oof["height"], oof["width"], strict=True)) == [mask.shape[1:] for mask in made.true]


@pytest.mark.parametrize("role", ["train", "test"])
def test_maps_are_what_the_folds_model_says_of_its_rows_views_undone_and_frame_cut_off(made, role):
    pad = made.name == "segmentation"
    for k in range(2):
        table = made.table(f"runs/baseline/fold{k}/{'oof' if role == 'train' else 'test'}")
        images = np.stack([shown(made.image(role, name), pad) for name in table["id"]])
        model = load_model(made.done / f"runs/baseline/fold{k}/model.safetensors")
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        with torch.inference_mode():
            plain, moved = model(batch).logits, model(left(batch)).logits
            back = torch.cat([moved[..., :1], moved[..., :-1]], dim=-1)
            said = (chances(plain, pad) + chances(back, pad)).div(2).numpy()
        for row, maps in enumerate(stored(table, made.classes)):
            height, width = cv2.imread(str(made.image(role, table["id"][row]))).shape[:2]
            assert (table["height"][row], table["width"][row]) == (height, width)
            top, first, high, wide = place_of(height, width) if pad else (0, 0, 16, 16)
            wanted = said[row, :, top : top + high, first : first + wide] * 255
            assert maps.shape == wanted.shape
            assert np.abs(maps - wanted).max() <= 0.5 + 1e-3


def chances(logits: torch.Tensor, alone: bool) -> torch.Tensor:
    """Each class on its own; or both and the ground, whose logit is 0, together 1."""
    if alone:
        return 1 / (1 + torch.exp(-logits))
    odds = torch.exp(logits)
    return odds / (1 + odds.sum(1, keepdim=True))


def test_a_test_map_is_the_mean_of_the_folds_to_the_nearest_level(made):
    for run in RUNS:
        mean = stored(made.table(f"runs/{run}/test"), made.classes)
        folds = [stored(made.table(f"runs/{run}/fold{k}/test"), made.classes) for k in range(2)]
        for found, *several in zip(mean, *folds, strict=True):
            np.testing.assert_array_equal(found, np.floor(np.mean(several, axis=0) + 0.5))
        for size in ("height", "width"):
            assert made.table(f"runs/{run}/test")[size].tolist() == [
                SIZES[(80 + n) % 3][size == "width"] for n in range(40)
            ]


# --- the score ----------------------------------------------------------------------------------------------


def counts(made: Segmented, maps: list[np.ndarray]) -> np.ndarray:
    """(2, N, C, 257) what stands above and below the line of Dice or IoU, for each image and class, where it
    takes the pixels of each level and more."""
    found = np.empty((2, len(maps), len(made.classes), 257))
    for row, (mask, levels) in enumerate(zip(made.true, maps, strict=True)):
        for c in range(len(made.classes)):
            said = levels[c].ravel()[None] >= np.arange(257)[:, None]
            both, either = (said & mask[c].ravel()).sum(1), (said | mask[c].ravel()).sum(1)
            found[:, row, c] = (2 * both, both + either) if made.name == "segmentation" else (both, either)
    return found


def score(made: Segmented, found: np.ndarray) -> np.ndarray:
    """(C, ...) of counts (2, n, C, ...): the mean over images, or over the pixels of all; 1 where both are
    empty."""
    above, below = found if made.name == "segmentation" else found.sum(1, keepdims=True)
    return np.where(below == 0, 1.0, above / np.maximum(below, 1)).mean(0)


def best_levels(made: Segmented, found: np.ndarray) -> np.ndarray:
    """(C,) the level with the best score of each class; of several the one nearest to 128, a half."""
    tops = [np.flatnonzero(row >= row.max() - 1e-12) for row in score(made, found)]
    return np.array([best[np.abs(best - 128).argmin()] for best in tops])


def expected_cv(made: Segmented, table: pd.DataFrame) -> tuple[float, list[float], np.ndarray]:
    """The score, each fold decided by the levels that are best on the other; each fold's; and the levels that
    are best on all rows."""
    found, fold = counts(made, at_own_size(table, made.classes)), table["fold"].to_numpy()
    own = np.empty(found.shape[:3])
    for k in range(2):
        for c, level in enumerate(best_levels(made, found[:, fold != k])):
            own[:, fold == k, c] = found[:, fold == k, c, level]
    folds = [score(made, own[:, fold == k]).mean() for k in range(2)]
    return score(made, own).mean(), folds, best_levels(made, found)


@pytest.mark.parametrize("where", ["runs/baseline", "runs/baseline-round1", "stacks/stack"])
def test_the_printed_cv_is_that_of_masks_decided_by_the_other_folds_levels(made, where):
    metrics = made.json(f"{where}/metrics")
    cv, folds, levels = expected_cv(made, made.table(f"{where}/oof"))
    assert metrics["metric"] == ("dice" if made.name == "segmentation" else "iou_global")
    assert (metrics["cv"], metrics["folds"]) == (pytest.approx(cv), pytest.approx(folds))
    assert metrics["rule"]["values"] == [[pytest.approx((level - 0.5) / 255)] for level in levels]
    assert metrics["rows"] == 80


# --- stage 04 -----------------------------------------------------------------------------------------------


def test_pseudo_labels_are_the_pixels_that_the_fold_itself_was_sure_of(made):
    share, left_out = {"segmentation": 0.83, "masks": 0.5}[made.name], 0
    for k in range(2):
        said = made.table(f"runs/baseline/fold{k}/test")
        expected = []
        for name, maps in zip(said["id"], stored(said, made.classes), strict=True):
            sure = (maps / 255 >= 0.55) | (maps / 255 <= 0.45)
            if sure.mean() >= share:
                expected.append((name, sure.mean(), np.where(sure, maps, 128)))
        told = made.table(f"runs/baseline-round1/fold{k}.pseudo")
        assert list(told.columns) == ["id", "confidence", "height", "width", *made.classes]
        assert told["id"].tolist() == [name for name, _, _ in expected]
        np.testing.assert_allclose(told["confidence"], [sure for _, sure, _ in expected])
        for maps, (_, _, wanted) in zip(stored(told, made.classes), expected, strict=True):
            np.testing.assert_array_equal(maps, wanted)
        sizes = said.set_index("id").loc[told["id"], ["height", "width"]]
        assert told[["height", "width"]].to_numpy().tolist() == sizes.to_numpy().tolist()
        left_out += len(said) - len(told)
    assert made.name == "masks" or left_out > 0


# --- stages 05 and 06 ---------------------------------------------------------------------------------------


def test_the_stacks_test_maps_are_what_the_kept_way_makes_of_its_members(made, tmp_path):
    made = with_the_round(made, tmp_path)
    metrics, stacker = made.json("stacks/stack/metrics"), made.json("stacks/stack/stacker")
    assert stacker["members"] == [*RUNS]
    members = [stored(made.table(f"runs/{name}/test"), made.classes) for name in stacker["members"]]
    found = stored(made.table("stacks/stack/test"), made.classes)
    for row, maps in enumerate(found):
        said = np.stack([one[row] for one in members]).astype(float)  # (M, C, h, w)
        wanted = {
            "mean": lambda said=said: said.mean(0),
            "best single": lambda said=said: said[stacker["members"].index(metrics["best_single"])],
            "weights": lambda said=said: (np.array(stacker["weights"])[:, :, None, None] * said).sum(0),
            "lightgbm": lambda said=said: boosted(stacker["boosters"], said),
        }[metrics["kept"]]()
        np.testing.assert_array_equal(maps, np.floor(wanted + 0.5 + 1e-9))
    np.testing.assert_allclose(np.sum(stacker["weights"], axis=0), 1)


def boosted(boosters: list[str], said: np.ndarray) -> np.ndarray:
    """(C, h, w) what each class's trees make of the members' log-odds."""
    share = np.clip(said / 255, 1e-5, 1 - 1e-5)
    odds = np.log(share / (1 - share))
    asked = zip(boosters, odds.transpose(1, 2, 3, 0), strict=True)  # (h, w, M) a class
    return np.stack(
        [
            lgb.Booster(model_str=trees).predict(one.reshape(-1, len(said))).reshape(one.shape[:2]) * 255
            for trees, one in asked
        ]
    )


def test_the_submission_read_pixel_by_pixel_is_what_the_stack_said_from_its_threshold_on(made):
    table, said = text(made.done / "submissions/stack.csv"), made.table("stacks/stack/test")
    rule = [value for (value,) in made.json("stacks/stack/metrics")["rule"]["values"]]
    maps = dict(zip(said["id"], at_own_size(said, made.classes), strict=True))
    drawn = 0
    for name, runs in zip(table["id"], table["rle"], strict=True):
        image, kind = name.split("_") if made.name == "masks" else (name, "mask")
        c = made.classes.index(kind)
        wanted = maps[image][c] / 255 >= rule[c]
        np.testing.assert_array_equal(by_hand(runs, *wanted.shape), wanted)
        drawn += bool(runs)
    assert drawn > 0
    assert len(table) == 40 * len(made.classes)
