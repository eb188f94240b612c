"""Target maps: read by rows like an array, framed like their images, moved with them; and batches of
identities that an epoch promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.config import Augment, Config, Data
from src.data.augment import augment_with_masks, create_augmentation
from src.data.decode import content_box, resize_image
from src.data.images import ImageStore
from src.data.loaders import (
    EpochSampler,
    TrainingBatches,
    TrainingRows,
    create_sampler,
    target_batches,
    training_loader,
)
from src.data.mask_targets import MaskTargets, PseudoMasks, to_loss_targets
from src.maps import UNSURE, Maps

SIDE = 32


def blobs(n: int, classes: int, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """(n, S, S, C) masks of blocks, 0 or 255."""
    coarse = np.random.default_rng(seed).random((n, 4, 4, classes)) < 0.5
    return np.kron(coarse, np.ones((1, side // 4, side // 4, 1), bool)).astype(np.uint8) * 255


# --- rows of target maps ------------------------------------------------------------------------------------

PICKS = [np.array([4, 0, 4]), slice(1, 4), [2], np.array([True, False, True, False, False, True])]


@pytest.mark.parametrize("pick", PICKS, ids=str)
def test_levels_are_indexed_by_rows_like_the_array_they_stand_for(pick):
    packed, rows = blobs(10, 2), np.array([7, 1, 3, 3, 0, 9])
    levels = MaskTargets.of(packed, rows)
    assert len(levels) == 6
    np.testing.assert_array_equal(levels[pick], packed[rows][pick])
    np.testing.assert_array_equal(np.stack(list(levels)), packed[rows])


def test_levels_of_several_sources_stand_one_after_the_other():
    """Labelled rows, then those of two rounds of pseudo-labels."""
    sources, rows = [blobs(5, 1, seed=s) for s in range(3)], [np.array(r) for r in ([4, 2], [0], [1, 1, 3])]
    first, second, third = (MaskTargets.of(one, own) for one, own in zip(sources, rows, strict=True))
    expected = np.concatenate([one[own] for one, own in zip(sources, rows, strict=True)])
    for levels in ((first + second) + third, first + (second + third)):
        assert len(levels) == 6
        np.testing.assert_array_equal(levels[np.arange(6)], expected)
        np.testing.assert_array_equal(levels[[5, 0, 2]], expected[[5, 0, 2]])
        np.testing.assert_array_equal(np.stack(list(levels)), expected)


def test_rows_of_maps_and_of_pseudo_labels_are_joined_like_any_other():
    first = TrainingRows(np.arange(3), MaskTargets.of(blobs(3, 1), np.arange(3)), np.ones(3, np.float32))
    second = TrainingRows(
        np.array([9, 8]), MaskTargets.of(blobs(2, 1, seed=1), np.array([1, 0])), np.full(2, 0.5, np.float32)
    )
    both = first + second
    assert (len(both), both.positions.tolist(), both.weights.tolist()) == (
        5,
        [0, 1, 2, 9, 8],
        [1, 1, 1, 0.5, 0.5],
    )
    expected = np.concatenate([blobs(3, 1), blobs(2, 1, seed=1)[::-1]])
    np.testing.assert_array_equal(both.targets[np.arange(5)], expected)
    batches = torch.cat(list(target_batches(both, 2)))
    np.testing.assert_array_equal(batches.numpy(), expected.transpose(0, 3, 1, 2))


def test_masks_are_what_lies_above_the_unsure_level_classes_first():
    levels = np.array([[[0, 127, 128], [129, 200, 255]]], np.uint8)[..., None]  # (1, 2, 3, 1)
    (mask,) = MaskTargets.of(levels, np.array([0])).masks()
    assert mask.tolist() == [[[False, False, False], [True, True, True]]]
    assert [mask.shape for mask in MaskTargets.of(blobs(4, 3), np.arange(2)).masks()] == [(3, SIDE, SIDE)] * 2


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (5, 90), (64, 64)])
def test_pseudo_labels_lie_where_their_image_lies_with_nothing_around(size):
    settings = Data(image_size=SIDE, fit="pad")
    _, _, height, width = content_box(*size, settings)
    own = np.random.default_rng(0).integers(1, 256, (2, height, width)).astype(np.uint8)
    told = PseudoMasks(Maps.of([own[:1, :1, :1], own]).resized([(1, 1), size]), settings)
    found = told[1]
    assert (len(told), found.shape) == (2, (SIDE, SIDE, 2))
    white = (
        resize_image(np.full((*size, 3), 255, np.uint8), settings)[:, :, 0] > 0
    )  # where the image itself lies
    np.testing.assert_array_equal(found[white], own.reshape(2, -1).T)
    assert not found[~white].any()
    np.testing.assert_array_equal(MaskTargets.of(told, np.array([1, 1]))[[1]], found[None])


def test_pseudo_labels_of_stretched_images_fill_the_square():
    own = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE)).astype(np.uint8)
    told = PseudoMasks(Maps.of([own]).resized([(11, 70)]), Data(image_size=SIDE))
    np.testing.assert_array_equal(told[0], own.transpose(1, 2, 0))


def test_levels_become_shares_and_what_is_unsure_becomes_unknown():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    found = to_loss_targets(levels).flatten()
    assert found.dtype == torch.float32
    assert torch.isnan(found).nonzero().flatten().tolist() == [UNSURE] == [128]
    others = [value for value in range(256) if value != 128]
    np.testing.assert_allclose(found[others], np.array(others) / 255, rtol=1e-6)


def test_targets_that_are_no_levels_stay():
    targets = torch.tensor([[0.0, 128.0], [1.0, 2.0]])
    assert to_loss_targets(targets) is targets


# --- masks move with their images ---------------------------------------------------------------------------

MOVES = {
    "flips": {"hflip": 0.5, "vflip": 0.5},
    "crops": {"crop_scale": (0.3, 0.9)},
    "rotations": {"rotate": 45.0},
    "shifts and zooms": {"shift": 0.2, "zoom": 0.3},
    "all": {"hflip": 0.5, "vflip": 0.5, "crop_scale": (0.5, 1.0), "rotate": 30.0, "shift": 0.1, "zoom": 0.1},
}


def pipeline(**settings):
    return create_augmentation(Augment(**{"hflip": 0.0, "crop_scale": (1.0, 1.0)} | settings), SIDE)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_a_mask_that_is_the_image_itself_stays_it(move, classes):
    """An image is interpolated and a mask is not, so they are alike where a pixel's neighbours are."""
    masks = np.repeat(blobs(24, 1), classes, axis=3)
    images = np.repeat(masks[..., :1], 3, axis=3)
    moved, with_them = augment_with_masks(pipeline(**MOVES[move]), images, masks, seed=5)
    assert (moved.shape, with_them.shape) == (images.shape, masks.shape)
    assert set(np.unique(with_them)) == {0, 255}  # no level between two is made
    sure = (moved[..., 0] == 0) | (moved[..., 0] == 255)
    assert sure.mean() > (1 - 1e-9 if move == "flips" else 0.5)
    for c in range(classes):
        np.testing.assert_array_equal(with_them[..., c][sure], moved[..., 0][sure])
    assert (with_them[..., 0] != masks[..., 0]).any((1, 2)).mean() > 0.25


@pytest.mark.parametrize("move", [move for move in MOVES if move != "all"])  # resampled once
def test_edges_of_masks_lie_where_the_images_edges_lie(move):
    """Within rounding: half a pixel off, one pixel of 25 would differ."""
    masks = blobs(100, 1)
    moved, with_them = augment_with_masks(pipeline(**MOVES[move]), np.repeat(masks, 3, axis=3), masks, seed=5)
    assert ((moved[..., 0] >= 128) != (with_them[..., 0] == 255)).mean() < 0.004


def test_every_class_moves_alike_and_unsure_pixels_stay_unsure():
    masks = np.random.default_rng(0).choice([0, UNSURE, 255], (8, SIDE, SIDE, 2)).astype(np.uint8)
    masks[..., 1] = 255 - masks[..., 0]  # 128 becomes 127
    _, moved = augment_with_masks(
        pipeline(**MOVES["all"]), np.zeros((8, SIDE, SIDE, 3), np.uint8), masks, seed=1
    )
    assert set(np.unique(moved[..., 0])) == {0, UNSURE, 255}
    np.testing.assert_array_equal(moved[..., 1], 255 - moved[..., 0])


@pytest.mark.parametrize("change", [{"brightness": 0.5}, {"contrast": 0.5}])
def test_what_changes_pixels_alone_leaves_the_mask_as_it_is(change):
    images = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3)).astype(np.uint8)
    masks = blobs(6, 1)
    changed, same = augment_with_masks(pipeline(**change), images, masks, seed=1)
    np.testing.assert_array_equal(same, masks)
    assert all((one != other).any() for one, other in zip(changed, images, strict=True))


def test_nothing_is_learned_where_a_hole_was_cut():
    images, masks = np.full((6, SIDE, SIDE, 3), 200, np.uint8), blobs(6, 1)
    changed, same = augment_with_masks(pipeline(cutout=1.0), images, masks, seed=1)
    cut = (changed == 0).all(3)
    assert (cut.mean((1, 2)) > 0.01).all()
    np.testing.assert_array_equal(same[..., 0], np.where(cut, UNSURE, masks[..., 0]))


def store_of(images: np.ndarray) -> ImageStore:
    n = len(images)
    return ImageStore(
        images, np.arange(n), np.arange(0), [f"{i}" for i in range(n)], [], (0.5,) * 3, (0.2,) * 3
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_each_rows_own_mask_moved_with_its_image(workers):
    masks = blobs(20, 2)
    images = np.concatenate([masks, masks[..., :1]], axis=3)  # its two masks are two channels of an image
    positions = np.random.default_rng(0).permutation(20)[:15]
    rows = TrainingRows(
        positions, MaskTargets.of(masks, positions), np.linspace(0.1, 1, 15).astype(np.float32)
    )
    config = Config(
        task={"name": "segmentation"},
        data={"image_size": SIDE},
        train={"batch_size": 4},
        augment={"vflip": 0.5, "crop_scale": (1.0, 1.0)},
    )
    loader, sampler = training_loader(rows, store_of(images), config, workers, seed=3)
    seen = {}
    for epoch in (0, 1):
        sampler.epoch = epoch
        for (_, own), (x, targets, weights) in zip(sampler, loader, strict=True):
            assert (x.dtype, targets.dtype) == (torch.uint8, torch.uint8)
            assert targets.shape == (len(own), 2, SIDE, SIDE)
            assert torch.equal(x[:, :2], targets)
            np.testing.assert_array_equal(weights, rows.weights[own])
            for row, target in zip(own, targets.numpy(), strict=True):
                mask = masks[positions[row]].transpose(2, 0, 1)
                ways = [mask, mask[:, ::-1], mask[:, :, ::-1], mask[:, ::-1, ::-1]]
                assert any(np.array_equal(target, way) for way in ways)
                seen.setdefault(int(row), []).append(target.tobytes())
    assert sorted(seen) == list(range(15))
    assert sum(len(set(both)) > 1 for both in seen.values()) > 5  # another way up in another epoch


def test_the_same_item_is_the_same_batch_again():
    masks = blobs(8, 1)
    rows = TrainingRows(np.arange(8), MaskTargets.of(masks, np.arange(8)), np.ones(8, np.float32))
    config = Config(task={"name": "segmentation"}, data={"image_size": SIDE}, augment={"rotate": 30.0})
    batches = TrainingBatches(rows, store_of(np.repeat(masks, 3, axis=3)), config)
    item = 77, np.array([3, 1, 6])
    first, again, other = batches[item], batches[item], batches[78, item[1]]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])


# --- epochs of identities -----------------------------------------------------------------------------------

RETRIEVAL = Config(task={"name": "retrieval"}, train={"batch_size": 12, "images_per_class": 3})


def identities(seed: int = 0) -> TrainingRows:
    """One to nine rows each of forty identities, as float targets."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 10, 40))).astype(np.float32)
    return TrainingRows(np.arange(len(labels)), labels[:, None], np.ones(len(labels), np.float32))


def test_an_epoch_of_identities_has_the_batches_it_says_and_every_row_in_them():
    rows = identities()
    epochs = create_sampler(rows, RETRIEVAL, seed=3)
    for epochs.epoch in range(4):
        batches = [own for _, own in epochs]
        assert len(batches) == len(epochs)
        assert set(np.concatenate(batches).tolist()) == set(range(len(rows)))
        for own in batches:
            assert len(own) <= 12
            handfuls = rows.targets[own, 0].reshape(-1, 3)
            assert (handfuls == handfuls[:, :1]).all()
            assert len(np.unique(handfuls)) >= 2


@pytest.mark.parametrize("config", [RETRIEVAL, Config(train={"batch_size": 12})], ids=["identities", "rows"])
def test_a_resumed_epoch_is_the_same_one_and_the_next_is_another(config):
    def epoch(number: int) -> list:
        epochs = create_sampler(identities(), config, seed=3)
        epochs.epoch = number
        return [(seed, own.tolist()) for seed, own in epochs]

    through = create_sampler(identities(), config, seed=3)
    for through.epoch in range(3):
        last = [(seed, own.tolist()) for seed, own in through]
    assert epoch(2) == last
    seeds, batches = zip(*([list(part) for part in zip(*epoch(n), strict=True)] for n in (0, 1)), strict=True)
    assert batches[0] != batches[1]
    assert not set(seeds[0]) & set(seeds[1])


def test_other_tasks_shuffle_rows_and_know_of_no_identities():
    epochs = create_sampler(identities(), Config(train={"batch_size": 12}), seed=3)
    assert epochs.labels is None
    rows = np.concatenate([own for _, own in epochs])
    assert len(rows) == len(set(rows.tolist()))


def test_identities_and_rows_count_their_batches_without_making_them():
    labels = identities().targets[:, 0]
    for size in (6, 7, 12, 30):
        epochs = EpochSampler(len(labels), size, 0, labels, 3)
        assert len(epochs) == len(epochs.batches())
