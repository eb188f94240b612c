"""Second levels of maps: weights that a plain search finds too, and boosters that are honest, calibrated and
applied without a shortcut showing."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from src.config import Stack
from src.data.masks import resize_mask
from src.ensemble import pixels
from src.ensemble.blenders.base import log_odds
from src.ensemble.pixels import PixelStacker, draw_pixels, fit_pixels, hill_climb, stack_pixels
from src.maps import Maps
from src.metrics import create_metric

QUICK = Stack(max_rounds=60, patience=10, learning_rate=0.1)
DICE = create_metric("segmentation", "dice")


def field(rng: np.random.Generator, size: tuple[int, int], smooth: float) -> np.ndarray:
    """Smooth noise of variance 1."""
    values = cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), smooth)
    return (values - values.mean()) / values.std()


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.rint(255 / (1 + np.exp(-np.clip(x, -20, 20)))).astype(np.uint8)


def competition(
    noise: tuple[tuple[float, ...], ...] = ((0.5, 0.5),),
    images: int = 20,
    size: tuple[int, int] = (24, 32),
    scale: float = 3.0,
    cut: float = 0.8,
    spread: float = 0.0,
    seed: int = 0,
) -> tuple[list[Maps], list[np.ndarray]]:
    """Members with their own noise a class, and true masks (C, H, W); a scale of 3 is too sure of itself."""
    rng = np.random.default_rng(seed)
    said: list[list[np.ndarray]] = [[] for _ in noise]
    truth = []
    for _ in range(images):
        fields = np.stack([field(rng, size, 3) for _ in noise[0]])  # (C, H, W)
        fields += rng.uniform(-spread, spread)
        truth.append(fields > cut)
        for member, own in enumerate(noise):
            off = np.stack([amount * field(rng, size, 1) for amount in own])
            said[member].append(sigmoid(scale * (fields - cut + off)))
    return [Maps.of(one) for one in said], truth


def log_loss(maps: Maps, truth: list[np.ndarray]) -> float:
    p = np.clip(np.concatenate([stack.ravel() for stack in maps]) / 255, 1 / 510, 1 - 1 / 510)
    y = np.concatenate([mask.ravel() for mask in truth])
    return float(-np.where(y, np.log(p), np.log(1 - p)).mean())


def bytes_of(maps: Maps) -> list[list]:
    return [stack.tolist() for stack in maps]


# --- weights ------------------------------------------------------------------------------------------------


def plain_climb(members: list[Maps], truth: list[np.ndarray], metric, rounds: int) -> np.ndarray:
    """The same search as a loop over bags of members, scored by the metric itself."""
    n, classes = len(members), len(truth[0])
    weights = np.zeros((n, classes))
    for c in range(classes):
        levels = [[stack[c : c + 1].astype(float) for stack in one] for one in members]
        masks = [mask[c : c + 1] for mask in truth]

        def score(bag):
            parts = [np.tensordot(bag, [one[i] for one in levels], 1) for i in range(len(masks))]  # noqa: B023
            return metric(masks, [part / bag.sum() >= 127.5 - 1e-6 for part in parts])  # noqa: B023

        bag = np.full(n, 1 / n)
        best, top = bag, score(bag)
        for _ in range(rounds):
            tried = [score(bag + one) for one in np.eye(n)]
            bag = bag + np.eye(n)[int(np.argmax(tried))]
            if max(tried) > top + 1e-9:
                best, top = bag, max(tried)
        weights[:, c] = best / best.sum()
    return weights


@pytest.mark.parametrize("name", ["dice", "iou", "dice_global", "iou_global"])
def test_hill_climbing_is_a_plain_search_over_bags_of_members(name):
    members, truth = competition(((0.4, 1.0), (0.9, 0.7), (0.7, 0.6)), images=8, spread=1.5)
    metric = create_metric("segmentation", name)
    found = hill_climb(members, truth, np.arange(8), metric, rounds=6)
    np.testing.assert_allclose(found, plain_climb(members, truth, metric, 6))
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found.sum(0), 1)
    assert not np.allclose(found, 1 / 3)
    other = create_metric(
        "segmentation", name.removesuffix("_global") if "global" in name else f"{name}_global"
    )
    assert not np.allclose(found, hill_climb(members, truth, np.arange(8), other, rounds=6))


def test_each_class_finds_the_member_that_is_clearly_better_at_it():
    members, truth = competition(((0.1, 3.0), (3.0, 0.1)), images=12)
    weights = hill_climb(members, truth, np.arange(12), DICE)
    assert weights[0, 0] > 0.7
    assert weights[1, 1] > 0.7
    mean, weighted = Maps.mean(members), Maps.weighted(members, weights)
    assert DICE(truth, weighted) > DICE(truth, mean) + 0.05


def test_the_mean_wins_where_nothing_beats_it():
    (one,), truth = competition(((0.5, 0.5),), images=6)
    weights = hill_climb([one, one, one], truth, np.arange(6), DICE)
    assert weights.tolist() == np.full((3, 2), 1 / 3).tolist()


def test_a_single_member_has_all_the_weight():
    members, truth = competition(images=3)
    assert hill_climb(members, truth, np.arange(3), DICE).tolist() == [[1.0, 1.0]]


def test_a_metric_of_objects_is_climbed_by_dice():
    members, truth = competition(((0.4,), (0.9,)), images=6)
    objects = create_metric("segmentation", "map_iou")
    by_dice = hill_climb(members, truth, np.arange(6), DICE)
    assert hill_climb(members, truth, np.arange(6), objects).tolist() == by_dice.tolist()


def test_weights_depend_on_the_given_rows_alone():
    members, truth = competition(((0.4, 1.0), (0.9, 0.7)), images=12)
    rows = np.array([0, 3, 4, 7, 8, 11])
    others = [~mask if number not in rows else mask for number, mask in enumerate(truth)]
    found = hill_climb(members, truth, rows, DICE)
    assert hill_climb(members, others, rows, DICE).tolist() == found.tolist()
    assert hill_climb(members, truth, np.arange(12), DICE).tolist() != found.tolist()


def test_of_many_images_as_many_as_are_needed_are_drawn_by_the_seed(monkeypatch):
    members, truth = competition(((0.5, 0.9), (0.9, 0.5)), images=12)
    monkeypatch.setattr(pixels, "CLIMB_IMAGES", 4)
    rows = np.arange(2, 12)
    drawn = np.sort(np.random.default_rng(5).permutation(rows)[:4])
    found = hill_climb(members, truth, rows, DICE, seed=5)
    np.testing.assert_allclose(
        found, plain_climb([one.take(drawn) for one in members], [truth[row] for row in drawn], DICE, 20)
    )


def test_large_maps_and_larger_masks_are_weighed_at_a_small_size(monkeypatch):
    members, truth = competition(((0.4,), (0.9,)), images=4, size=(48, 64))
    large = [
        cv2.resize(mask[0].astype(np.uint8), (256, 192), interpolation=cv2.INTER_NEAREST) for mask in truth
    ]
    monkeypatch.setattr(pixels, "CLIMB_SIDE", 32)
    small = [
        Maps.of(cv2.resize(stack[0], (32, 24), interpolation=cv2.INTER_AREA)[None] for stack in one)
        for one in members
    ]
    masks = [resize_mask(mask[None] > 0, 24, 32) for mask in large]
    found = hill_climb(members, Maps.of(mask[None] * np.uint8(255) for mask in large), np.arange(4), DICE)
    np.testing.assert_allclose(found, plain_climb(small, masks, DICE, 20))


# --- drawing pixels -----------------------------------------------------------------------------------------


def test_pixels_are_drawn_half_inside_and_half_outside_and_weighted_back():
    members, truth = competition(((0.5, 0.5), (0.9, 0.9)), images=6, size=(40, 50))
    for c, drawn in enumerate(draw_pixels(members, truth, seed=0)):
        assert drawn.levels.shape == (6 * 400, 2)
        for number, mask in enumerate(truth):
            own = drawn.of(np.arange(6) == number)
            assert (len(own.truth), own.truth.sum()) == (400, 200)
            assert own.weights.mean() == pytest.approx(1)
            assert (own.weights * own.truth).mean() == pytest.approx(mask[c].mean())
            stack = [one[number][c] for one in members]
            pairs = set(zip(stack[0][mask[c]].tolist(), stack[1][mask[c]].tolist(), strict=True))
            assert {tuple(pair) for pair in own.levels[own.truth].tolist()} <= pairs


@pytest.mark.parametrize(("inside", "of"), [(0, 400), (30, 400), (1970, 400), (2000, 400), (60, 100)])
def test_where_one_side_is_short_the_other_fills_up(inside, of):
    size = (10, 10) if of == 100 else (40, 50)
    mask = np.zeros(size, bool)
    mask.ravel()[:inside] = True
    members = [Maps.of([np.arange(mask.size, dtype=np.uint32).astype(np.uint8).reshape(1, *size)])]
    (drawn,) = draw_pixels(members, [mask[None]], seed=0)
    outside = mask.size - inside
    half = min(inside, max(200, 400 - outside))
    assert (len(drawn.truth), drawn.truth.sum()) == (of, half)
    assert (drawn.weights * drawn.truth).sum() / len(drawn.truth) == pytest.approx(inside / mask.size)


def test_what_is_drawn_of_an_image_depends_on_no_other():
    members, truth = competition(images=6)
    before = draw_pixels(members, truth, seed=0)
    truth[2] = ~truth[2]
    for one, other in zip(before, draw_pixels(members, truth, seed=0), strict=True):
        rest = np.arange(6) != 2
        assert other.of(rest).levels.tolist() == one.of(rest).levels.tolist()
        assert other.of(~rest).weights.tolist() != one.of(~rest).weights.tolist()


def test_of_many_images_fewer_pixels_each_are_drawn(monkeypatch):
    monkeypatch.setattr(pixels, "ALL_PIXELS", 300)
    members, truth = competition(images=6)
    assert [len(one.truth) for one in draw_pixels(members, truth, seed=0)] == [300, 300]


def test_larger_masks_are_drawn_at_the_size_of_the_maps():
    members, truth = competition(((0.5,),), images=3)
    large = [np.kron(mask, np.ones((1, 3, 3), bool)) for mask in truth]
    (one,), (other,) = draw_pixels(members, truth, seed=0), draw_pixels(members, large, seed=0)
    assert one.levels.tolist() == other.levels.tolist()
    assert one.truth.tolist() == other.truth.tolist()


# --- LightGBM -----------------------------------------------------------------------------------------------

FOLD = np.arange(24) % 3


@pytest.fixture(scope="module")
def stacked():
    """Two members of two classes, far too sure of themselves, and their stack."""
    members, truth = competition(((0.5, 1.0), (0.9, 0.6)), images=24)
    found, rounds = stack_pixels(members, truth, FOLD, QUICK, 0)
    return members, truth, found, rounds


def test_the_stack_is_better_calibrated_than_the_mean_of_members_that_are_too_sure(stacked):
    members, truth, found, _ = stacked
    assert log_loss(found, truth) < 0.9 * log_loss(Maps.mean(members), truth)
    for c in range(2):
        said = np.concatenate([stack[c].ravel() for stack in found]) / 255
        true = np.concatenate([mask[c].ravel() for mask in truth])
        assert said.mean() == pytest.approx(true.mean(), abs=0.02)  # half of the pixels drawn were inside
        for low in (0.1, 0.3, 0.5, 0.7):
            part = (said >= low) & (said < low + 0.2)
            assert true[part].mean() == pytest.approx(said[part].mean(), abs=0.1)


def test_the_stack_is_worth_no_less_than_the_mean(stacked):
    members, truth, found, _ = stacked
    assert DICE(truth, found) > DICE(truth, Maps.mean(members)) - 0.01


def test_a_folds_truth_leaves_its_own_stacked_maps_untouched(stacked):
    members, truth, found, _ = stacked
    own = np.flatnonzero(FOLD == 1)
    other = list(truth)
    for to, source in zip(own, np.roll(own, 1), strict=True):
        other[to] = truth[source]
    again, _ = stack_pixels(members, other, FOLD, QUICK, 0)
    assert bytes_of(again.take(own)) == bytes_of(found.take(own))
    assert bytes_of(again.take(FOLD == 0)) != bytes_of(found.take(FOLD == 0))


def test_rounds_are_one_a_class_and_stopped_early(stacked):
    rounds = stacked[3]
    assert len(rounds) == 2
    assert all(1 <= number <= QUICK.max_rounds for number in rounds)
    members, truth = competition(((50.0,),), images=24)  # nothing to learn
    assert stack_pixels(members, truth, FOLD, QUICK, 0)[1][0] < QUICK.max_rounds / 2


def test_two_folds_leave_none_to_stop_on():
    members, truth = competition(images=6)
    found, rounds = stack_pixels(members, truth, np.arange(6) % 2, QUICK, 0)
    assert rounds == [QUICK.max_rounds] * 2
    assert len(found) == 6


def fitted(members: int) -> tuple[PixelStacker, list[Maps]]:
    noise = tuple((0.4 + 0.1 * m, 0.9 - 0.1 * m) for m in range(members))
    maps, truth = competition(noise, images=8)
    return fit_pixels(maps, truth, QUICK, 0, [40, 30]), maps


@pytest.mark.parametrize("remembered", [True, False])
@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_every_pixel_is_what_the_boosters_say_of_it(members, remembered, monkeypatch):
    if not remembered:
        monkeypatch.setattr(pixels, "COMBINATIONS", 0)
    stacker, maps = fitted(members)
    assert [booster.num_trees() for booster in stacker.boosters] == [40, 30]
    for number, stack in enumerate(stacker.apply(maps)):
        for c, booster in enumerate(stacker.boosters):
            features = np.stack([log_odds(one[number][c].ravel() / 255) for one in maps], axis=1)
            said = np.floor(booster.predict(features) * 255 + 0.5).reshape(stack[c].shape)
            assert stack[c].tolist() == said.tolist()


def test_a_stacker_comes_back_from_json_as_it_was():
    stacker, maps = fitted(2)
    stored = json.loads(json.dumps(stacker.as_json()))
    assert stored["kind"] == "pixels"
    assert bytes_of(PixelStacker.from_json(stored).apply(maps)) == bytes_of(stacker.apply(maps))
    assert stacker.gain().shape == (2,)


def test_the_stack_never_falls_where_a_member_rises():
    stacker, _ = fitted(2)
    levels = np.arange(256, dtype=np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, indexing="ij"))  # (2, 256, 256)
    (said,) = stacker.apply([Maps.of([np.stack([one, one])]) for one in grid])
    assert (np.diff(said.astype(int), axis=1) >= 0).all()
    assert (np.diff(said.astype(int), axis=2) >= 0).all()
    assert said.max() > 200
    assert said.min() < 50


def test_a_class_that_no_image_shows_is_said_to_be_nowhere():
    members, truth = competition(images=6)
    truth = [np.stack([mask[0], np.zeros_like(mask[1])]) for mask in truth]
    found, _ = stack_pixels(members, truth, np.arange(6) % 3, QUICK, 0)
    assert max(stack[1].max() for stack in found) == 0
    assert max(stack[0].max() for stack in found) > 200


def test_members_in_several_sizes_are_stacked_at_the_largest_and_looked_at_in_the_files_own():
    (small,), truth = competition(((0.5,),), images=6)
    large = Maps.of(cv2.resize(stack[0], (64, 48))[None] for stack in small)
    sizes = [(30, 40)] * 6
    members = [small.resized(sizes), large.resized(sizes)]
    found, rounds = stack_pixels(members, truth, np.arange(6) % 3, QUICK, 0)
    applied = fit_pixels(members, truth, QUICK, 0, rounds).apply(members)
    for maps in (found, applied):
        assert {stack.shape for stack in maps} == {(1, 30, 40)}
        assert {stack.shape for stack in maps.resized(None)} == {(1, 48, 64)}
