"""Second levels (stacking) for maps: weights per member and class by hill climbing, and LightGBM over sampled
pixels.

Neighbouring pixels carry nearly the same information, so a few pixels per image are enough to train on.
Everything works at the size in which the members' maps are stored; if the sizes differ, at the largest.
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

CLIMB_IMAGES, CLIMB_SIDE = 256, 128  # a small sample is enough to weight a few members
PIXELS, ALL_PIXELS = 400, 400_000  # pixels per image and over all images; a booster needs no more
COMBINATIONS = 2**24  # cached across images, two bytes each
LOG_ODDS = log_odds(np.arange(256) / 255)  # log-odds of each of the 256 levels


# --- weights ------------------------------------------------------------------------------------------------


def hill_climb(
    members: list[Maps], truth: Any, rows: np.ndarray, metric: Metric, rounds: int = 20, seed: int = 0
) -> np.ndarray:
    """Ensemble weights (M, C) by hill climbing on the images `rows`; they sum to 1 over members.

    From equal weights on, each round adds the member that improves the class's score most. The best round is
    kept, or equal weights if no round is better. The score uses the metric's counts at threshold 0.5, or Dice
    for a metric over objects. Caruana, Niculescu-Mizil, Crew, Ksikes 2004, Ensemble Selection from Libraries
    of Models.
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
    """Downscale maps (M, C, H, W) to at most `CLIMB_SIDE` pixels per side, with the aspect ratio kept."""
    height, width = stack.shape[2:]
    scale = min(1.0, CLIMB_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack([[cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in s] for s in stack])


def _scorer(metric: Metric, true: np.ndarray, starts: np.ndarray) -> Callable[[np.ndarray], float]:
    """A function that scores a binary mask (P,), higher being better. `starts` are the offsets at which the
    images begin among the P pixels."""
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
    """Hill-climbing weights (M,) for one class, from levels (M, P). The arithmetic is in integers: each added
    member counts M, the initial mean counts 1 per member."""
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
    """Fitted stacker for maps: one booster per class, over the members' log-odds of that class at a pixel."""

    def apply(self, members: list[Maps]) -> Maps:
        """Stacked maps, resized to the first member's `sizes`."""
        ask = [CachedBooster.of(booster) for booster in self.boosters]
        images = (
            np.stack([ask[c](stack[:, c]) for c in range(len(ask))])  # (C, H, W)
            for stack in stacked_maps(members)
        )
        return Maps.of(images).resized(members[0].sizes)


@dataclass(frozen=True)
class CachedBooster:
    """A booster with cached predictions per combination of feature values. Levels are bytes and the trees
    split them at few thresholds, so many pixels share one prediction."""

    booster: lgb.Booster
    step: np.ndarray  # (M, 256) bin of each level; no tree separates levels of one bin
    said: np.ndarray | None  # predicted level per combination, -1 if not computed; None: too many

    @classmethod
    def of(cls, booster: lgb.Booster) -> CachedBooster:
        """An empty cache for a booster."""
        trees, steps = booster.trees_to_dataframe(), []
        for name in booster.feature_name():
            cuts = np.unique(trees.loc[trees["split_feature"] == name, "threshold"].astype(float))
            found = np.searchsorted(cuts, LOG_ODDS)  # a tree goes left if the value is at most the threshold
            steps.append(np.unique(found, return_inverse=True)[1])
        step = np.stack(steps)
        many = np.prod(step.max(1) + 1.0) > COMBINATIONS
        return cls(booster, step, None if many else np.full(step.max(1) + 1, -1, np.int16))

    def __call__(self, levels: np.ndarray) -> np.ndarray:
        """Predict levels: (M, H, W) to (H, W)."""
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
        """Predicted levels (n,) for combinations of bins (M, n)."""
        lowest = [np.searchsorted(own, step) for own, step in zip(self.step, steps, strict=True)]
        return np.floor(self.booster.predict(LOG_ODDS[np.stack(lowest, axis=1)]) * 255 + 0.5).astype(np.uint8)


def combinations(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unique columns of (M, P) bytes: the first pixel of each combination (U,), and the combination of each
    pixel (P,)."""
    code = np.zeros(steps.shape[1], np.int64)
    for start in range(0, len(steps), 4):  # four bytes and the index of a combination fit into 64 bits
        for step in steps[start : start + 4]:
            code = code << 8 | step
        _, first, code = np.unique(code, return_index=True, return_inverse=True)
    return first, code


def stack_pixels(
    members: list[Maps], truth: Any, fold: np.ndarray, settings: Stack, seed: int
) -> tuple[Maps, list[int]]:
    """Nested OOF maps, each image predicted by boosters fitted without its fold, and the number of rounds per
    class for a final fit. Early stopping uses another of the training folds, never the scored one."""
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
    """Fit the boosters on all given images, with a number of rounds per class."""
    return _fit(draw_pixels(members, truth, seed), settings, seed, rounds)


@dataclass(frozen=True)
class PixelSample:
    """Sampled pixels of one class: levels (n, M) uint8, targets (n,) bool, weights (n,) for how many pixels
    each one stands for relative to the mean, and image index (n,)."""

    levels: np.ndarray
    truth: np.ndarray
    weights: np.ndarray
    image: np.ndarray

    def of(self, images: np.ndarray) -> PixelSample:
        """The pixels of the images selected by a boolean mask (N,)."""
        rows = images[self.image]
        return PixelSample(*(getattr(self, name)[rows] for name in ("levels", "truth", "weights", "image")))

    def examples(self) -> PixelExamples:
        """Training examples: log-odds (n, M), targets and weights."""
        return LOG_ODDS[self.levels], self.truth.astype(np.float64), self.weights


def draw_pixels(members: list[Maps], truth: Any, seed: int) -> list[PixelSample]:
    """Sample the training pixels of each class: from every image as many inside its true mask as outside, as
    far as available, with weights that restore the original proportions. The sample of an image depends on
    that image alone."""
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
    """Sampled positions in a mask (P,), and their weights, which are 1 on average so that all images count
    alike."""
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
