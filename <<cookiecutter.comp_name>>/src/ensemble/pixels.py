"""Second levels for maps: weights a member and class by hill climbing, and LightGBM over sampled pixels.

Neighbouring pixels say the same, so few of an image are enough to learn from. Everything works at the size
that the members' maps are stored in; of members in several sizes, at the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import lightgbm as lgb
import numpy as np

from src.config import Stack
from src.data.masks import resize_mask
from src.decisions import assemble, take_rows
from src.ensemble.blenders.base import log_odds
from src.ensemble.boosting import PixelExamples, Stacker, early_stopping_rounds, fit_booster
from src.maps import Maps, stacked_maps
from src.metrics import Metric
from src.metrics.counts import dice
from src.metrics.segmentation import class_masks

CLIMB_IMAGES, CLIMB_SIDE = 256, 128  # to weigh a few members quickly
PIXELS, ALL_PIXELS = 400, 400_000  # drawn of an image and of all; a booster learns quickly from these
COMBINATIONS = 2**24  # remembered from image to image, two bytes each
LOG_ODDS = log_odds(np.arange(256) / 255)  # of a level


# --- weights ------------------------------------------------------------------------------------------------


def hill_climb(
    members: list[Maps], truth: Any, rows: np.ndarray, metric: Metric, rounds: int = 20, seed: int = 0
) -> np.ndarray:
    """(M, C) weights that add to 1 over members, found on images `rows`: from the equal mean on, each round
    adds the member that helps the class most; the best of all rounds is kept, the mean where none is better.

    Scored by the metric's counts at 0.5, by Dice for a metric of objects. Caruana, Niculescu-Mizil, Crew,
    Ksikes 2004, Ensemble Selection from Libraries of Models.
    """
    if len(members) == 1:
        return np.ones((1, len(members[0].cells[0])))
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:CLIMB_IMAGES])
    levels, masks = [], []
    for stack, true in zip(
        stacked_maps([one.take(chosen) for one in members]), take_rows(truth, chosen), strict=True
    ):
        small = _shrink(stack)  # (M, C, h, w)
        mask = resize_mask(class_masks(true, small.shape[1]), *small.shape[2:])
        levels.append(small.reshape(*small.shape[:2], -1))
        masks.append(mask.reshape(len(mask), -1))
    starts = np.cumsum([0, *(mask.shape[1] for mask in masks[:-1])])
    every, true = np.concatenate(levels, axis=2), np.concatenate(masks, axis=1)  # (M, C, P), (C, P)
    climbed = [_climb(every[:, c], _scorer(metric, true[c], starts), rounds) for c in range(len(true))]
    return np.stack(climbed, axis=1)


def _shrink(stack: np.ndarray) -> np.ndarray:
    """(M, C, H, W) to at most `CLIMB_SIDE` a side, in its shape."""
    height, width = stack.shape[2:]
    scale = min(1.0, CLIMB_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([[cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in s] for s in stack])


def _scorer(metric: Metric, true: np.ndarray, starts: np.ndarray) -> Callable[[np.ndarray], float]:
    """The score, higher being better, of a decision (P,) about pixels whose images begin at `starts`."""
    function, sign = (metric.counts, metric.sign) if metric.counts is not None else (dice, 1)
    over_all = metric.counts is not None and metric.average != "images"

    def sums(mask: np.ndarray) -> np.ndarray:
        found = np.add.reduceat(mask, starts, dtype=np.int64)
        return (found.sum(keepdims=True) if over_all else found).astype(np.float64)

    positive, size = sums(true), sums(np.ones_like(true))

    def score(said: np.ndarray) -> float:
        tp, called = sums(said & true), sums(said)
        found = sign * float(function(tp, called - tp, positive - tp, size - called - positive + tp).mean())
        return found if np.isfinite(found) else -np.inf

    return score


def _climb(levels: np.ndarray, score: Callable[[np.ndarray], float], rounds: int) -> np.ndarray:
    """(M,) weights for one class, levels (M, P). Whole numbers: a member weighs M, the mean 1 of each."""
    m = len(levels)
    total = levels.sum(0, dtype=np.int32)
    added, kept, top = np.zeros(m), np.zeros(m), score(2 * total >= 255 * m)
    for number in range(2, rounds + 2):
        least = 255 * m * number
        tried = [score(2 * (total + m * level.astype(np.int32)) >= least) for level in levels]
        best = int(np.argmax(tried))
        total += m * levels[best].astype(np.int32)
        added[best] += 1
        if tried[best] > top + 1e-9:
            kept, top = added.copy(), tried[best]
    return (1 / m + kept) / (1 + kept.sum())


# --- LightGBM -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PixelStacker(Stacker):
    """A booster a class, over the members' log-odds of it at a pixel."""

    def apply(self, members: list[Maps]) -> Maps:
        """Stacked maps, looked at in the first member's `sizes`."""
        ask = [CachedBooster.of(booster) for booster in self.boosters]
        images = (
            np.stack([ask[c](stack[:, c]) for c in range(len(ask))])  # (C, H, W)
            for stack in stacked_maps(members)
        )
        return Maps.of(images).resized(members[0].sizes)


@dataclass(frozen=True)
class CachedBooster:
    """A booster that is asked once for what many pixels have in common: levels are bytes, and trees cut them
    into few steps."""

    booster: lgb.Booster
    step: np.ndarray  # (M, 256) of each level; no tree tells levels of one step apart
    said: np.ndarray | None  # a level for each combination of steps, -1 while not asked; None: too many

    @classmethod
    def of(cls, booster: lgb.Booster) -> CachedBooster:
        """Before the first pixel."""
        trees, steps = booster.trees_to_dataframe(), []
        for name in booster.feature_name():
            cuts = np.unique(trees.loc[trees["split_feature"] == name, "threshold"].astype(float))
            found = np.searchsorted(cuts, LOG_ODDS)  # a tree goes left up to its cut, the cut included
            steps.append(np.unique(found, return_inverse=True)[1])
        step = np.stack(steps)
        many = np.prod(step.max(1) + 1.0) > COMBINATIONS
        return cls(booster, step, None if many else np.full(step.max(1) + 1, -1, np.int16))

    def __call__(self, levels: np.ndarray) -> np.ndarray:
        """(M, H, W) levels to (H, W)."""
        flat = levels.reshape(len(levels), -1)
        steps = np.stack([step[level] for step, level in zip(self.step, flat, strict=True)])  # (M, H * W)
        if self.said is None:
            first, which = combinations(steps)
            return self._ask(steps[:, first])[which].reshape(levels.shape[1:])
        place, known = np.ravel_multi_index(tuple(steps), self.said.shape), self.said.reshape(-1)
        new = np.unique(place[known[place] < 0])
        if len(new):
            known[new] = self._ask(np.stack(np.unravel_index(new, self.said.shape)))
        return known[place].astype(np.uint8).reshape(levels.shape[1:])

    def _ask(self, steps: np.ndarray) -> np.ndarray:
        """(M, n) steps to levels (n,)."""
        lowest = [np.searchsorted(own, step) for own, step in zip(self.step, steps, strict=True)]
        return np.floor(self.booster.predict(LOG_ODDS[np.stack(lowest, axis=1)]) * 255 + 0.5).astype(np.uint8)


def combinations(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of (M, P) bytes the first pixel of each combination (U,), and which of these each pixel is (P,)."""
    code = np.zeros(steps.shape[1], np.int64)
    for start in range(0, len(steps), 4):  # four bytes beside the number of a combination fit into 64 bits
        for step in steps[start : start + 4]:
            code = code << 8 | step
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
    return first, code


def stack_pixels(
    members: list[Maps], truth: Any, fold: np.ndarray, settings: Stack, seed: int
) -> tuple[Maps, list[int]]:
    """Stacked maps of the OOF images, each by boosters that saw no pixel of its fold; and the rounds of each
    class for a last fit, stopped on another of the training folds, never on the scored one."""
    drawn, names, parts, rounds = draw_pixels(members, truth, seed), np.unique(fold), [], []
    for place, held_out in enumerate(names):
        own, watched = fold == held_out, fold == names[(place + 1) % len(names)]
        if len(names) > 2:
            learned = ~own & ~watched
            parted = ((one.of(learned).examples(), one.of(watched).examples()) for one in drawn)
            rounds.append([early_stopping_rounds(train, watch, settings, seed) for train, watch in parted])
        else:
            rounds.append([settings.max_rounds] * len(drawn))
        found = _fit([one.of(~own) for one in drawn], settings, seed, rounds[-1])
        rows = np.flatnonzero(own)
        parts.append((rows, found.apply([one.take(rows) for one in members])))
    return assemble(parts), np.median(rounds, axis=0).astype(int).tolist()


def fit_pixels(
    members: list[Maps], truth: Any, settings: Stack, seed: int, rounds: list[int]
) -> PixelStacker:
    """The boosters of all these images, with the rounds of each class."""
    return _fit(draw_pixels(members, truth, seed), settings, seed, rounds)


@dataclass(frozen=True)
class PixelSample:
    """Pixels of one class: levels (n, M) uint8, truth (n,) bool, how many pixels each stands for relative to
    the mean (n,), and its image (n,)."""

    levels: np.ndarray
    truth: np.ndarray
    weights: np.ndarray
    image: np.ndarray

    def of(self, images: np.ndarray) -> PixelSample:
        """Those of some images, (N,) bool."""
        rows = images[self.image]
        return PixelSample(*(getattr(self, name)[rows] for name in ("levels", "truth", "weights", "image")))

    def examples(self) -> PixelExamples:
        """Log-odds (n, M), answers and weights."""
        return LOG_ODDS[self.levels], self.truth.astype(np.float64), self.weights


def draw_pixels(members: list[Maps], truth: Any, seed: int) -> list[PixelSample]:
    """The pixels to learn each class from: of every image as many inside its true mask as outside it, as far
    as they go, weighted back to what is there. What is drawn of an image depends on that image alone."""
    most = max(2, min(PIXELS, ALL_PIXELS // len(members[0])))
    found: list[list[tuple[np.ndarray, ...]]] = []
    for number, (stack, true) in enumerate(zip(stacked_maps(members), truth, strict=True)):
        masks = resize_mask(class_masks(true, stack.shape[1]), *stack.shape[2:])
        found.append([])
        for c, mask in enumerate(masks):
            pixels, weights = _draw(mask.ravel(), most, np.random.default_rng([seed, number, c]))
            levels = stack[:, c].reshape(len(stack), -1)[:, pixels].T
            found[-1].append((levels, mask.ravel()[pixels], weights, np.full(len(pixels), number)))
    return [
        PixelSample(*(np.concatenate(part) for part in zip(*one, strict=True)))
        for one in zip(*found, strict=True)
    ]


def _draw(mask: np.ndarray, most: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places in a mask (P,), and their weights, which are 1 on average: each image speaks alike."""
    yes, no = np.flatnonzero(mask), np.flatnonzero(~mask)
    n_yes = min(len(yes), max(most // 2, most - len(no)))
    n_no = min(len(no), most - n_yes)
    drawn = [random.choice(side, n, replace=False) for side, n in ((yes, n_yes), (no, n_no))]
    share = (n_yes + n_no) / len(mask)
    weights = [np.full(n, share * len(side) / max(n, 1)) for side, n in ((yes, n_yes), (no, n_no))]
    return np.concatenate(drawn), np.concatenate(weights)


def _fit(drawn: list[PixelSample], settings: Stack, seed: int, rounds: list[int]) -> PixelStacker:
    each = zip(drawn, rounds, strict=True)
    return PixelStacker(
        "pixels", [fit_booster(d.examples(), None, n, "pixels", settings, seed) for d, n in each]
    )
