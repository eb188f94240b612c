"""mixup and CutMix: against torchvision and loops over pixels; what is unknown stays unknown; the draws are
the batch's own; and the loop, the teacher and the weights see the same mixture."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import BASELINE, write_config
from torchvision.transforms import v2

from src.config import Config, Mixing, UserError
from src.configfile import load_config
from src.data.loaders import load_fold
from src.data.mask_targets import to_loss_targets
from src.data.mixing import Mixer, blend, cutmix, draw_box, mixup
from src.maps import UNSURE
from src.models.output import Output
from src.tasks import create_task
from src.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def batch(n: int = 6, size: int = 8, classes: int = 4, seed: int = 0):
    """Images uint8, one-hot targets, weights."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=g)
    targets = F.one_hot(torch.randint(0, classes, (n,), generator=g), classes).float()
    return images, targets, torch.rand(n, generator=g) + 0.1


def within(share: float, wanted: float, n: int) -> bool:
    return abs(share - wanted) <= 5 * math.sqrt(wanted * (1 - wanted) / n)


# --- mixup --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_is_torchvisions_in_images_and_targets(share):
    images, targets, weights = batch()
    theirs = v2.MixUp(num_classes=4)
    params = {"labels": targets, "batch_size": len(images), "lam": share}
    mixed, told, _ = mixup(images, targets, weights, share)
    torch.testing.assert_close(mixed, theirs.transform(images.float(), params))
    torch.testing.assert_close(told, theirs.transform(targets, params))


def test_every_row_is_mixed_with_another_and_the_weights_of_a_batch_add_to_what_they_did():
    images, targets, weights = batch(n=5)
    mixed, told, heavy = mixup(images, targets, weights, 0.7)
    for row in range(5):
        other = (row - 1) % 5
        expected = 0.7 * images[row].double() + 0.3 * images[other].double()
        torch.testing.assert_close(mixed[row].double(), expected, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(told[row], 0.7 * targets[row] + 0.3 * targets[other])
        torch.testing.assert_close(heavy[row], 0.7 * weights[row] + 0.3 * weights[other])
    torch.testing.assert_close(heavy.sum(), weights.sum())  # what an optimiser step divides by


def test_a_mixed_class_target_costs_what_both_labels_cost_in_their_shares():
    _, targets, _ = batch(n=8)
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    told = blend(targets, 0.65)
    both = 0.65 * F.cross_entropy(logits, targets, reduction="none") + 0.35 * F.cross_entropy(
        logits, targets.roll(1, 0), reduction="none"
    )
    torch.testing.assert_close(F.cross_entropy(logits, told, reduction="none"), both)


def test_a_label_that_is_unknown_in_either_row_is_unknown_in_the_mixture_and_no_other_is():
    nan = math.nan
    targets = torch.tensor([[1, nan, 0], [0, 1, nan], [1, 1, 1]])
    told = blend(targets, 0.25)
    unknown = torch.tensor([[False, True, False], [False, True, True], [False, False, True]])
    assert torch.equal(told.isnan(), unknown)
    torch.testing.assert_close(told[0, 0], torch.tensor(1.0))
    torch.testing.assert_close(told[1, 0], torch.tensor(0.75))


# --- CutMix -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 8, 8), (2, 1, 5, 8), (3, 3, 4, 4)])
def test_cutmix_is_torchvisions_for_the_same_box(box):
    images, targets, weights = batch()
    top, left, bottom, right = box
    share = 1 - (bottom - top) * (right - left) / 64
    theirs = v2.CutMix(num_classes=4)
    params = {"labels": targets, "batch_size": len(images)}
    params |= {"box": (left, top, right, bottom), "lam_adjusted": share}
    mixed, told, heavy = cutmix(images, targets, weights, box)
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed, theirs.transform(images, params))
    torch.testing.assert_close(told, share * targets + (1 - share) * targets.roll(1, 0))
    torch.testing.assert_close(heavy, share * weights + (1 - share) * weights.roll(1, 0))


def test_the_share_of_a_label_is_that_of_its_pixels():
    n, size = 5, 16
    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 1, size, size).contiguous()
    targets, weights = torch.eye(n), torch.ones(n)
    for seed in range(40):
        box = draw_box(size, size, np.random.default_rng(seed).random(), np.random.default_rng(seed))
        mixed, told, _ = cutmix(images, targets, weights, box)
        counted = torch.stack([(mixed == c).float().mean((1, 2, 3)) for c in range(n)], dim=1)
        torch.testing.assert_close(told, counted)


def test_an_empty_box_leaves_everything_and_makes_nothing_unknown():
    images, targets, weights = batch()
    targets[1] = math.nan
    mixed, told, _ = cutmix(images, targets, weights, (3, 3, 3, 6))
    assert torch.equal(mixed, images)
    assert torch.equal(told.isnan(), targets.isnan())


def test_boxes_lie_inside_and_are_as_large_as_uniform_centres_cut_at_the_edges_make_them():
    """A box of side 2h around a uniform centre keeps 2h - h^2 of a side on average, each side on its own."""
    n, size = 4000, 1000
    for share in (0.1, 0.5, 0.9):
        rng = np.random.default_rng(0)
        boxes = np.array([draw_box(size, size, share, rng) for _ in range(n)])
        assert boxes.min() >= 0
        assert boxes.max() <= size
        sides = (boxes[:, 2:] - boxes[:, :2]) / size  # (n, 2)
        half = 0.5 * math.sqrt(1 - share)
        error = 5 * sides.std(0) / math.sqrt(n) + 1 / size
        assert (np.abs(sides.mean(0) - (2 * half - half**2)) <= error).all()
        assert abs(np.corrcoef(sides.T)[0, 1]) < 5 / math.sqrt(n)
        assert sides.max() <= 2 * half + 1 / size


def test_a_box_has_the_proportions_of_the_image():
    heights, widths = zip(
        *[
            (b - t, r - left)
            for t, left, b, r in (draw_box(400, 100, 0.75, np.random.default_rng(s)) for s in range(200))
        ],
        strict=True,
    )
    assert max(heights) == 200
    assert max(widths) == 50


# --- masks --------------------------------------------------------------------------------------------------


def scenes(n: int = 6, size: int = 16, seed: int = 0) -> torch.Tensor:
    """(n, 2, size, size) uint8 levels: in, out, and unsure."""
    values = np.random.default_rng(seed).choice([0, 255, UNSURE], (n, 2, size, size), p=[0.5, 0.4, 0.1])
    return torch.from_numpy(values.astype(np.uint8))


def test_pasted_masks_lie_where_their_images_were_pasted_and_unsure_pixels_stay_unsure():
    levels, weights = scenes(), torch.ones(6)
    mixed, told, _ = cutmix(levels, to_loss_targets(levels), weights, (2, 5, 11, 16))
    # images that are their masks, so whatever is pasted into the one must be in the other
    torch.testing.assert_close(told, to_loss_targets(mixed), equal_nan=True)
    assert torch.equal(mixed[1, :, 2:11, 5:], levels[0, :, 2:11, 5:])
    assert torch.equal(mixed[1, :, :2], levels[1, :, :2])


def test_blended_masks_are_levels_in_the_images_shares_and_unsure_where_either_is():
    levels, weights = scenes(), torch.ones(6)
    mixed, told, _ = mixup(levels, to_loss_targets(levels), weights, 0.8)
    unsure = (levels == UNSURE) | (levels == UNSURE).roll(1, 0)
    assert torch.equal(told.isnan(), unsure)
    torch.testing.assert_close(told[~unsure], mixed[~unsure] / 255)


# --- the draws ----------------------------------------------------------------------------------------------


def draws(mixer: Mixer, n: int = 3000, epoch: int = 0) -> dict[str, list[float]]:
    """How much of its own target a row keeps, by kind, over many seeds."""
    size = 64
    images = torch.zeros(2, 1, size, size, dtype=torch.uint8)
    found: dict[str, list[float]] = {"none": [], "mixup": [], "cutmix": []}
    for seed in range(n):
        mixed, told, _ = mixer(images, torch.eye(2), torch.ones(2), epoch, seed)
        kind = "mixup" if mixed.is_floating_point() else "cutmix" if mixed is not images else "none"
        found[kind].append(float(told[0, 0]))
    return found


def test_the_share_of_batches_and_the_toss_between_the_two_are_as_asked_for():
    n = 3000
    found = draws(Mixer(Mixing(mixup=1.0, cutmix=1.0, share=0.4), 10), n)
    mixed = len(found["mixup"]) + len(found["cutmix"])
    assert within(mixed / n, 0.4, n)
    # a box that is cut to nothing leaves the batch: some of CutMix, no more than a few of a hundred
    assert within(len(found["mixup"]) / n, 0.2, n)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_shares_are_beta_distributed(alpha):
    shares = np.array(draws(Mixer(Mixing(mixup=alpha), 10))["mixup"])
    n, variance = len(shares), 1 / (4 * (2 * alpha + 1))
    assert n == 3000
    assert abs(shares.mean() - 0.5) <= 5 * math.sqrt(variance / n)
    fourth = ((shares - 0.5) ** 4).mean()
    assert abs(shares.var() - variance) <= 5 * math.sqrt((fourth - variance**2) / n)


def test_the_last_epochs_see_images_as_they_are():
    mixer = Mixer(Mixing(mixup=1.0, off_epochs=2), epochs=5)
    assert [len(draws(mixer, 20, epoch)["none"]) for epoch in range(5)] == [0, 0, 0, 20, 20]


def test_with_both_off_the_batch_goes_through_untouched():
    images, targets, weights = batch()
    after = Mixer(Mixing(), 10)(images, targets, weights, 0, 3)
    assert all(a is b for a, b in zip(after, (images, targets, weights), strict=True))


def test_a_seed_decides_the_mixture_and_torchs_stream_has_no_part_in_it():
    mixer, parts = Mixer(Mixing(mixup=1.0, cutmix=1.0), 10), batch()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [mixer(*parts, 0, seed) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    for seed, expected in enumerate(first):
        assert all(torch.equal(a, b) for a, b in zip(mixer(*parts, 3, seed), expected, strict=True))
    assert len({images[0].double().sum().item() for images, _, _ in first}) > 4


# --- in the loop --------------------------------------------------------------------------------------------


def read(project: Path, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


def trainer_of(project: Path, *overrides: str) -> Trainer:
    config = read(project, *overrides)
    task = create_task(config)
    data = load_fold(config, task, 0)
    return Trainer(config, task, data, data.train, 0, CPU)


def silent(*_: object, **__: object) -> None:
    """A report that nobody reads."""


MIX = ("mixing.mixup=1", "mixing.cutmix=1", "train.ema.enabled=false")


def test_the_network_and_the_loss_are_given_what_the_batchs_seed_makes_of_it(prepared, monkeypatch):
    trainer = trainer_of(prepared, *MIX, "mixing.off_epochs=1", "train.epochs=2")
    seen: list[tuple] = []

    def look(images, targets, rows):
        seen.append((images.clone(), targets.clone()))
        return trainer.model(images).logits.sum(1) * 0

    monkeypatch.setattr(trainer, "sample_losses", look)
    mixer = Mixer(Mixing(mixup=1.0, cutmix=1.0), 1)
    for epoch, mixed in ((0, True), (1, False)):
        seen.clear()
        trainer.train_epoch(epoch, silent)
        trainer.sampler.epoch = epoch
        plain = [trainer.loader.dataset[item] for item in trainer.sampler]
        assert len(seen) == len(plain)
        for (images, targets), before, (seed, _) in zip(seen, plain, trainer.sampler, strict=True):
            expected = mixer(*before, 0, seed) if mixed else before
            torch.testing.assert_close(images, expected[0])
            torch.testing.assert_close(targets, expected[1])
        changed = [not torch.equal(i, b[0]) for (i, _), b in zip(seen, plain, strict=True)]
        assert any(changed) is mixed


def test_the_weights_of_a_mixed_row_are_those_of_its_parts(prepared, monkeypatch):
    trainer = trainer_of(prepared, "mixing.mixup=1", "train.ema.enabled=false")
    weights = np.random.default_rng(0).uniform(0.1, 2, len(trainer.rows)).astype(np.float32)
    trainer.rows = dataclasses.replace(trainer.rows, weights=weights)
    trainer.loader.dataset.rows = trainer.rows
    trainer.sampler.epoch = 0
    told = []
    for number, rows in enumerate(trainer.sampler.batches()):
        seed = trainer.sampler.seed_of(number)
        own = torch.from_numpy(weights[rows])
        told.append(
            trainer.mixing(torch.zeros(len(rows), 1, 2, 2), torch.zeros(len(rows), 1), own, 0, seed)[2]
        )
    losses = iter([torch.arange(len(part), dtype=torch.float32) for part in told])
    monkeypatch.setattr(
        trainer, "sample_losses", lambda images, *_: trainer.model(images).logits.sum(1) * 0 + next(losses)
    )
    row = trainer.train_epoch(0, silent)
    expected = sum(float((torch.arange(len(part)) * part).sum()) for part in told) / weights.sum()
    assert row["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_teacher_is_shown_the_mixture_that_its_pupil_is_shown(prepared, monkeypatch):
    trainer = trainer_of(prepared, *MIX)
    shown: dict[str, list[torch.Tensor]] = {"pupil": [], "teacher": []}
    forward = trainer.model.forward

    def pupil(images):
        shown["pupil"].append(images.clone())
        return forward(images)

    def teacher(images):
        shown["teacher"].append(images.clone())
        return Output(torch.zeros(len(images), 10), torch.zeros(len(images), 4))

    monkeypatch.setattr(trainer.model, "forward", pupil)
    trainer.teacher = teacher
    monkeypatch.setattr(trainer, "look", lambda epoch: {})
    trainer.train_epoch(0, silent)
    assert len(shown["teacher"]) == len(shown["pupil"]) > 0
    assert all(torch.equal(a, b) for a, b in zip(shown["teacher"], shown["pupil"], strict=True))
    assert any(images.is_floating_point() for images in shown["teacher"])  # mixed indeed


def test_training_that_was_killed_goes_on_to_the_same_weights(prepared, tmp_path):
    settings = (
        *MIX,
        "mixing.share=0.7",
        "train.sampling=balanced",
        "augment.policy=trivialaugment",
        "augment.erasing=0.5",
        "augment.scales=[1,2,3]",
        "data.image_size=16",
        "train.epochs=3",
    )
    whole = trainer_of(prepared, *settings)
    for epoch in range(3):
        whole.train_epoch(epoch, silent)
    first = trainer_of(prepared, *settings)
    first.train_epoch(0, silent)
    first.save(tmp_path / "checkpoint.pt", "recipe")
    second = trainer_of(prepared, *settings)
    second.resume(tmp_path / "checkpoint.pt", "recipe")
    for epoch in (1, 2):
        second.train_epoch(epoch, silent)
    state, again = whole.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state)


TASKS = {
    "binary": "task: {name: binary}\n",
    "multilabel": "task: {name: multilabel}\ndata: {target: [loop, even, above four]}\n",
    "regression": "task: {name: regression}\ndata: {target: target}\n",
    "segmentation": "task: {name: segmentation}\ndata: {rle: rle}\n",
    "masks": "task: {name: segmentation}\ndata: {train_masks: train_masks, mask_classes: [plain, loop]}\n"
    "train: {loss: ce_dice}\n",
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_but_retrieval_learns_from_mixtures(tmp_path, task):
    from digits import write_competition

    from src.data.prepare import prepare_dataset

    write_competition(tmp_path / "data" / "raw", n_train=48, n_test=8, task=task)
    write_config(tmp_path, "common", BASELINE)
    write_config(tmp_path, "baseline", "base: common\n" + TASKS[task])
    prepare_dataset(read(tmp_path))
    for kind in ("mixup", "cutmix"):
        trainer = trainer_of(tmp_path, f"mixing.{kind}=1", "augment.erasing=0.5", "train.epochs=2")
        mixed, plain = (trainer.train_epoch(epoch, silent)["train_loss"] for epoch in range(2))
        assert np.isfinite([mixed, plain]).all()


# --- refused, and what a run depends on ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_retrieval_is_refused_with_the_reason(project, kind):
    with pytest.raises(UserError, match="give a row two identities, a margin or a triplet needs one"):
        read(project, "task.name=retrieval", f"mixing.{kind}=0.4")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("mixing.mixup=0", "greater than 0"),
        ("mixing.cutmix=-1", "greater than 0"),
        ("mixing.share=0", "greater than 0"),
        ("mixing.share=1.5", "less than or equal to 1"),
    ],
)
def test_a_number_that_means_nothing_is_refused(project, override, says):
    with pytest.raises(UserError, match=says):
        read(project, override)


def test_more_epochs_off_than_there_are_is_refused(project):
    with pytest.raises(UserError, match=r"mixing\.off_epochs=3 leaves none of train.epochs=3 to mix in"):
        read(project, "mixing.mixup=1", "mixing.off_epochs=3", "train.epochs=3")


def test_a_run_is_stale_by_mixing_only_where_it_is_on(prepared):
    from src.steps import run_of, train_step

    def recipe(*overrides):
        return train_step(run_of(read(prepared, *overrides)), 0)

    plain = recipe()
    assert "mixing" not in plain.recipe  # as it was before there was mixing
    with pytest.raises(UserError, match=r"`mixing.share` is 0.5 and has no effect"):
        recipe("mixing.share=0.5")
    mixed = recipe("mixing.mixup=1")
    assert mixed.fingerprint != plain.fingerprint
    assert recipe("mixing.mixup=1", "mixing.share=0.5").fingerprint != mixed.fingerprint
