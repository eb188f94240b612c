"""Losses: one value a row against references, and gradients that do not depend on how rows were batched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.config import Train
from src.losses.build import create_loss
from src.losses.classification import cross_entropy
from src.losses.distillation import averaged, distillation, hard_distillation
from src.losses.labels import binary_cross_entropy
from src.losses.masked import masked_mean
from src.losses.reduction import reduce
from src.losses.segmentation import bce_dice, ce_dice, soft_dice
from src.models.output import Output, exclusive_probabilities, with_background


def normal(*shape: int, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(n: int, classes: int, seed: int = 1) -> torch.Tensor:
    """(n, classes) targets, rows adding to 1."""
    return normal(n, classes, seed=seed, scale=1.0).softmax(1)


TASKS = {"cross_entropy": "multiclass", "bce": "multilabel", "bce_dice": "segmentation"}
TASKS |= {"ce_dice": "segmentation", "mse": "regression", "mae": "regression", "huber": "regression"}


def loss_of(name: str, label_smoothing: float = 0.0, outputs: int = 5, **settings):
    """`create_loss` with these settings; nothing is smoothed unless asked for."""
    names = [f"class {i}" for i in range(outputs)]
    return create_loss(TASKS[name], Train(loss=name, label_smoothing=label_smoothing, **settings), names)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


# --- cross-entropy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("classes", [2, 7])
def test_cross_entropy_of_soft_targets_is_the_closed_form(classes, smoothing):
    logits, targets = normal(20, classes), soft(20, classes)
    smoothed = (1 - smoothing) * targets.double().numpy() + smoothing / classes
    expected = -(smoothed * log_softmax(logits.double().numpy())).sum(1)
    found = cross_entropy(logits, targets, smoothing)
    assert found.shape == (20,)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_one_hot_targets_is_torchs_of_indices(smoothing):
    logits, index = normal(20, 5), torch.arange(20) % 5
    expected = torch.nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)(logits, index)
    found = cross_entropy(logits, torch.eye(5)[index], smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_the_gradient_of_cross_entropy_is_prediction_minus_smoothed_target():
    logits, targets = normal(8, 5).requires_grad_(), soft(8, 5)
    cross_entropy(logits, targets, 0.2).sum().backward()
    expected = logits.detach().softmax(1) - (0.8 * targets + 0.2 / 5)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_taken_to_float32_first(dtype):
    logits, targets = normal(6, 5, scale=20.0).to(dtype), soft(6, 5)
    found = loss_of("cross_entropy")(said(logits), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cross_entropy(logits.float(), targets))


def test_the_loss_of_a_name_sees_the_logits_and_its_smoothing():
    logits, targets = normal(6, 5), soft(6, 5)
    found = loss_of("cross_entropy", 0.3)(Output(logits, normal(6, 9)), targets)
    assert torch.equal(found, cross_entropy(logits, targets, 0.3))


# --- one value a cell: labels on their own, and numbers -----------------------------------------------------

CELLS = {
    "bce": lambda smoothing, delta: torch.nn.BCEWithLogitsLoss(reduction="none"),
    "mse": lambda smoothing, delta: torch.nn.MSELoss(reduction="none"),
    "mae": lambda smoothing, delta: torch.nn.L1Loss(reduction="none"),
    "huber": lambda smoothing, delta: torch.nn.HuberLoss(reduction="none", delta=delta),
}


def said(logits: torch.Tensor) -> Output:
    """An output whose embedding no loss should look at."""
    return Output(logits, torch.full((len(logits), 4), torch.nan))


def cell_targets(name: str, *shape: int, seed: int = 1) -> torch.Tensor:
    """Soft labels for `bce`, numbers for the others."""
    values = normal(*shape, seed=seed)
    return values.sigmoid() if name == "bce" else values


@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("name", CELLS)
def test_a_rows_loss_is_the_mean_of_torchs_over_its_cells(name, outputs):
    logits, targets = normal(20, outputs), cell_targets(name, 20, outputs)
    found = loss_of(name, label_smoothing=0.0, huber_delta=0.7)(said(logits), targets)
    assert found.shape == (20,)
    torch.testing.assert_close(found, CELLS[name](0.0, 0.7)(logits, targets).mean(1), rtol=1e-6, atol=1e-6)


def test_binary_cross_entropy_is_the_closed_form_with_targets_smoothed_towards_one_half():
    logits, targets = normal(20, 3), cell_targets("bce", 20, 3)
    for smoothing in (0.0, 0.1, 0.5):
        p = 1 / (1 + np.exp(-logits.double().numpy()))
        smooth = targets.double().numpy() * (1 - smoothing) + smoothing / 2
        expected = -(smooth * np.log(p) + (1 - smooth) * np.log(1 - p))
        found = loss_of("bce", label_smoothing=smoothing)(said(logits), targets)
        np.testing.assert_allclose(found.numpy(), expected.mean(1), rtol=1e-5, atol=1e-6)
        cells = binary_cross_entropy(logits, targets, smoothing)
        np.testing.assert_allclose(cells.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mse", "mae", "huber"])
def test_numbers_are_not_smoothed(name):
    logits, targets = normal(6, 2), normal(6, 2, seed=1)
    plain, smoothed = (loss_of(name, smoothing)(said(logits), targets) for smoothing in (0.0, 0.3))
    assert torch.equal(plain, smoothed)


@pytest.mark.parametrize("name", CELLS)
def test_a_target_that_is_not_known_is_left_out_of_the_mean_and_of_the_gradient(name):
    logits, targets = normal(30, 5).requires_grad_(), cell_targets(name, 30, 5)
    unknown = torch.rand(30, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    unknown[0], unknown[1] = True, False  # a row of which nothing is known, and one of which all is
    found = loss_of(name, huber_delta=0.7)(said(logits), targets.masked_fill(unknown, torch.nan))
    cells = CELLS[name](0.0, 0.7)(logits.detach(), targets)
    for row in range(30):
        known = [float(cells[row, c]) for c in range(5) if not unknown[row, c]]
        expected = sum(known) / len(known) if known else 0.0
        assert found[row].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()


@pytest.mark.parametrize("name", CELLS)
def test_a_row_of_which_nothing_is_known_costs_nothing(name):
    logits = normal(3, 4).requires_grad_()
    found = loss_of(name)(said(logits), torch.full((3, 4), torch.nan))
    assert found.tolist() == [0.0, 0.0, 0.0]
    found.sum().backward()
    assert logits.grad.count_nonzero() == 0


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_cells_are_reckoned_in_float32(name, dtype):
    logits, targets = normal(6, 5, scale=20.0).to(dtype), cell_targets(name, 6, 5)
    found = loss_of(name)(said(logits), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss_of(name)(said(logits.float()), targets))


# --- masks --------------------------------------------------------------------------------------------------


def masks(*shape: int, exclusive: bool = False, unknown: float = 0.2, seed: int = 3) -> torch.Tensor:
    """(B, C, H, W) soft targets with NaN here and there; of exclusive classes a pixel's add to 1 at most."""
    raw = normal(*shape, seed=seed)
    values = exclusive_probabilities(raw) if exclusive else raw.sigmoid()
    lost = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < unknown
    return values.masked_fill(lost, torch.nan)


def dice_by_hand(said: np.ndarray, wanted: np.ndarray) -> float:
    """One image and class, pixel by pixel, as V-Net has it, one pixel added to either side."""
    above, below = 1.0, 1.0
    for p, t in zip(said.ravel().tolist(), wanted.ravel().tolist(), strict=True):
        if not np.isnan(t):
            above, below = above + 2 * p * t, below + p * p + t * t
    return 1 - above / below


@pytest.mark.parametrize("dice_weight", [0.0, 0.3, 1.0])
def test_bce_dice_is_that_of_loops_over_pixels(dice_weight):
    logits, targets = normal(3, 2, 4, 5), masks(3, 2, 4, 5)
    found = bce_dice(logits, targets, dice_weight)
    assert found.shape == (3,)
    p, t = 1 / (1 + np.exp(-logits.double().numpy())), targets.double().numpy()
    for row in range(3):
        entropies = [
            -(t[row][i] * np.log(p[row][i]) + (1 - t[row][i]) * np.log(1 - p[row][i]))
            for i in np.ndindex(2, 4, 5)
            if not np.isnan(t[row][i])
        ]
        dice = np.mean([dice_by_hand(p[row, c], t[row, c]) for c in range(2)])
        expected = (1 - dice_weight) * np.mean(entropies) + dice_weight * dice
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dice_weight", [0.0, 0.3, 1.0])
def test_ce_dice_is_that_of_loops_over_pixels_with_the_background_among_the_classes(dice_weight):
    logits, targets = normal(3, 2, 4, 5), masks(3, 2, 4, 5, exclusive=True)
    found = ce_dice(logits, targets, dice_weight)
    assert found.shape == (3,)
    z, t = logits.double().numpy(), targets.double().numpy()
    for row in range(3):
        entropies, p, known = [], np.zeros((2, 4, 5)), t[row].copy()
        for y, x in np.ndindex(4, 5):
            share = np.exp(log_softmax(np.array([[0.0, *z[row, :, y, x]]])))[0]  # background first
            p[:, y, x] = share[1:]
            if np.isnan(t[row, :, y, x]).any():  # unknown in one class, unknown in all
                known[:, y, x] = np.nan
            else:
                told = [1 - t[row, :, y, x].sum(), *t[row, :, y, x]]
                entropies.append(-(told * np.log(share)).sum())
        dice = np.mean([dice_by_hand(p[c], known[c]) for c in range(2)])
        expected = (1 - dice_weight) * np.mean(entropies) + dice_weight * dice
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


def test_ce_dice_of_hard_classes_is_torchs_cross_entropy_of_indices():
    logits, index = normal(3, 2, 4, 5), torch.arange(60).reshape(3, 4, 5) % 3
    targets = torch.eye(3)[index].permute(0, 3, 1, 2)[:, 1:]  # index 0 is the background
    expected = torch.nn.CrossEntropyLoss(reduction="none")(
        torch.cat([torch.zeros(3, 1, 4, 5), logits], dim=1), index
    )
    torch.testing.assert_close(ce_dice(logits, targets, 0.0), expected.mean((1, 2)), rtol=1e-6, atol=1e-6)


def test_a_pinned_background_can_say_whatever_a_free_one_can():
    free = normal(2, 3, 4, 5)
    pinned = free[:, 1:] - free[:, :1]
    torch.testing.assert_close(with_background(pinned).softmax(1), free.softmax(1))
    torch.testing.assert_close(exclusive_probabilities(pinned), free.softmax(1)[:, 1:])


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", ["bce_dice", "ce_dice"])
def test_an_unknown_pixel_has_no_gradient_and_changes_nothing(name, outputs):
    targets = masks(4, outputs, 6, 7, exclusive=True)
    targets[0, :, :3] = torch.nan
    unknown = targets.isnan()
    if name == "ce_dice":
        unknown = unknown.any(1, keepdim=True).expand_as(targets)
    logits = normal(4, outputs, 6, 7).requires_grad_()
    found = loss_of(name)(said(logits), targets)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[unknown] == 0).all()
    assert (logits.grad[~unknown] != 0).all()
    elsewhere = torch.where(unknown, normal(4, outputs, 6, 7, seed=9), logits.detach())
    assert torch.equal(loss_of(name)(said(elsewhere), targets), found.detach())


@pytest.mark.parametrize("name", ["bce_dice", "ce_dice"])
def test_a_mask_of_which_nothing_is_known_costs_nothing(name):
    logits = normal(2, 3, 4, 5).requires_grad_()
    targets = masks(2, 3, 4, 5, exclusive=True, unknown=0.0)
    targets[0] = torch.nan
    found = loss_of(name)(said(logits), targets)
    assert found[0] == 0
    assert found[1] > 0
    found.sum().backward()
    assert logits.grad[0].count_nonzero() == 0
    assert torch.isfinite(logits.grad).all()


def test_a_class_that_is_unknown_in_an_image_does_not_dilute_the_dice_of_the_others():
    p, t = normal(1, 3, 4, 5).sigmoid(), masks(1, 3, 4, 5)
    without = t.clone()
    without[:, 1] = torch.nan
    torch.testing.assert_close(soft_dice(p, without), soft_dice(p[:, [0, 2]], t[:, [0, 2]]))


def test_an_empty_mask_asks_for_an_empty_answer():
    empty, image = torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)
    losses = [soft_dice(p * image, empty).item() for p in (0.0, 1e-3, 1e-2, 0.1, 1.0)]
    assert losses[0] == 0
    assert losses[1] < 0.01
    assert losses == sorted(losses)
    assert losses[-1] > 0.99


def test_a_full_answer_to_a_full_mask_costs_nothing_and_the_opposite_nearly_one():
    t = (normal(2, 3, 16, 16) > 0).float()
    assert soft_dice(t, t).tolist() == [0, 0]
    assert soft_dice(1 - t, t).min() > 0.98


def test_a_soft_mask_is_best_met_by_itself():
    """Without squares below the line a hard answer would be better."""
    t = masks(1, 1, 8, 8, unknown=0.0)
    assert soft_dice(t, t).item() == 0
    hard = (t > 0.5).float()
    assert soft_dice(hard, t).item() > 0.05

    def plain(p):
        return 1 - 2 * (p * t).sum() / (p + t).sum()

    assert plain(hard) < plain(t)


@pytest.mark.parametrize("name", ["bce_dice", "ce_dice"])
def test_a_confident_answer_has_finite_losses_and_gradients(name):
    logits = torch.tensor([300.0, -300.0, 300.0, -300.0]).reshape(1, 1, 2, 2).requires_grad_()
    found = loss_of(name)(said(logits), torch.tensor([1.0, 0.0, 0.0, 1.0]).reshape(1, 1, 2, 2))
    # two of four wrong by 300 each, and a Dice of 3 / 5; half of either
    assert found.item() == pytest.approx(0.5 * 150 + 0.5 * 2 / 5, rel=1e-5)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["bce_dice", "ce_dice"])
def test_with_one_class_the_two_losses_of_masks_are_one(name):
    """A sigmoid is a softmax over the class and a background pinned at 0."""
    logits, targets = normal(3, 1, 4, 5), masks(3, 1, 4, 5)
    other = {"bce_dice": ce_dice, "ce_dice": bce_dice}[name](logits, targets, 0.4)
    found = loss_of(name, dice_weight=0.4)(said(logits), targets)
    torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bce_dice", "ce_dice"])
def test_masks_are_not_smoothed(name):
    logits, targets = normal(2, 3, 4, 5), masks(2, 3, 4, 5, exclusive=True)
    plain, smoothed = (loss_of(name, smoothing)(said(logits), targets) for smoothing in (0.0, 0.3))
    assert torch.equal(plain, smoothed)


@pytest.mark.parametrize("name", ["bce_dice", "ce_dice"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_masks_are_reckoned_in_float32(name, dtype):
    logits, targets = normal(2, 3, 40, 40).to(dtype), masks(2, 3, 40, 40, exclusive=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_of(name)(said(logits), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss_of(name)(said(logits.float()), targets))


def test_the_mean_over_what_is_known_is_zero_where_nothing_is():
    losses = torch.arange(12.0).reshape(2, 2, 3)
    known = torch.tensor([[[True, False, True], [False, False, True]], [[False] * 3] * 2])
    assert masked_mean(losses, known).tolist() == [pytest.approx((0 + 2 + 5) / 3), 0]


# --- distillation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_distillation_averages_to_torchs_divergence_times_the_temperature_squared(temperature):
    pupil, teacher = normal(20, 5), normal(20, 5, seed=1)
    reference = torch.nn.KLDivLoss(reduction="batchmean")(
        (pupil / temperature).log_softmax(1), (teacher / temperature).softmax(1)
    )
    found = distillation("kl", pupil, teacher, temperature)
    assert found.shape == (20,)
    torch.testing.assert_close(found.mean(), reference * temperature**2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 8.0])
def test_the_gradient_of_distillation_is_the_difference_of_the_two_softmaxes_times_the_temperature(
    temperature,
):
    pupil, teacher = normal(6, 5).requires_grad_(), normal(6, 5, seed=1)
    distillation("kl", pupil, teacher, temperature).sum().backward()
    difference = (pupil.detach() / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(pupil.grad, temperature * difference, rtol=1e-5, atol=1e-6)


def test_gradients_keep_their_scale_at_a_high_temperature():
    """Without T^2 they would shrink as 1/T^2 (Hinton et al. 2015, section 2.1)."""
    norms = []
    for temperature in (50.0, 100.0):
        pupil = normal(6, 5).requires_grad_()
        distillation("kl", pupil, normal(6, 5, seed=1), temperature).sum().backward()
        norms.append(pupil.grad.norm().item())
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_a_pupil_that_agrees_loses_nothing_and_no_row_is_ever_below_zero():
    logits = normal(20, 5)
    assert distillation("kl", logits, logits + 7.0, 2.0).abs().max() < 1e-5  # logits are equal up to a shift
    assert distillation("kl", logits, normal(20, 5, seed=1), 2.0).min() > 0


def test_a_teacher_who_is_certain_does_not_make_it_infinite():
    certain = torch.tensor([[400.0, 0.0, -400.0]])
    assert torch.isfinite(distillation("kl", torch.zeros(1, 3), certain, 1.0)).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_of_labels_is_their_cross_entropy_times_the_temperature_squared(temperature):
    pupil, teacher = normal(20, 5), normal(20, 5, seed=1)
    p, q = (1 / (1 + np.exp(-x.double().numpy() / temperature)) for x in (pupil, teacher))
    expected = -(q * np.log(p) + (1 - q) * np.log(1 - p)).mean(1) * temperature**2
    found = distillation("bce", pupil, teacher, temperature)
    assert found.shape == (20,)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_of_distilled_labels_is_the_difference_of_the_two_sigmoids_times_the_temperature(
    temperature,
):
    pupil, teacher = normal(6, 5).requires_grad_(), normal(6, 5, seed=1)
    distillation("bce", pupil, teacher, temperature).sum().backward()
    difference = (pupil.detach() / temperature).sigmoid() - (teacher / temperature).sigmoid()
    torch.testing.assert_close(pupil.grad, temperature * difference / 5, rtol=1e-5, atol=1e-6)


def test_distillation_of_numbers_is_the_squared_distance_at_any_temperature():
    pupil, teacher = normal(20, 3), normal(20, 3, seed=1)
    expected = torch.nn.MSELoss(reduction="none")(pupil, teacher).mean(1)
    for temperature in (1.0, 4.0):
        torch.testing.assert_close(distillation("mse", pupil, teacher, temperature), expected)


@pytest.mark.parametrize("kind", ["kl", "exclusive", "bce", "mse"])
def test_distillation_of_maps_is_the_mean_of_that_of_their_pixels(kind):
    pupil, teacher = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    found = distillation(kind, pupil, teacher, 2.0)
    assert found.shape == (2,)
    pixels = [
        distillation(kind, pupil[:, :, y, x], teacher[:, :, y, x], 2.0) for y in range(4) for x in range(5)
    ]
    torch.testing.assert_close(found, torch.stack(pixels).mean(0), rtol=1e-5, atol=1e-6)


def test_distillation_of_exclusive_classes_counts_the_background_among_them():
    pupil, teacher, temperature = normal(6, 2), normal(6, 2, seed=1), 2.0
    for row, found in enumerate(distillation("exclusive", pupil, teacher, temperature)):
        p, q = (
            log_softmax(np.array([[0.0, *x[row].double().tolist()]]) / temperature) for x in (pupil, teacher)
        )
        assert found.item() == pytest.approx((np.exp(q) * (q - p)).sum() * temperature**2, rel=1e-5)
    one = normal(
        6, 1
    )  # a single class and the background: telling them apart is one logit, once kl, once bce
    told = distillation("exclusive", one, normal(6, 1, seed=1), 1.0)
    p, q = one.sigmoid(), normal(6, 1, seed=1).sigmoid()
    expected = q * (q / p).log() + (1 - q) * ((1 - q) / (1 - p)).log()
    torch.testing.assert_close(told, expected.squeeze(1), rtol=1e-4, atol=1e-5)


def test_distillation_of_embeddings_is_what_their_cosine_lacks_of_one():
    pupil, teacher = normal(6, 9), normal(6, 9, seed=1)
    found = distillation("cosine", pupil, teacher, 2.0)
    assert found.shape == (6,)
    for row, (a, b) in enumerate(zip(pupil.double().numpy(), teacher.double().numpy(), strict=True)):
        cosine = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
        assert found[row].item() == pytest.approx(1 - cosine, abs=1e-6)
    along = torch.stack([pupil[0], 3 * pupil[0], -pupil[0]])
    expected = torch.tensor([0.0, 0.0, 2.0])  # lengths do not matter
    torch.testing.assert_close(
        distillation("cosine", along, pupil[:1].expand(3, -1), 1.0), expected, rtol=0, atol=1e-6
    )


def test_embeddings_of_different_lengths_cannot_teach_each_other():
    with pytest.raises(ValueError, match=r"must have one length, these are \(2, 3\) and \(2, 1\)"):
        distillation("cosine", normal(2, 3), normal(2, 1), 1.0)


@pytest.mark.parametrize("kind", ["kl", "exclusive", "bce", "mse", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distillation_is_reckoned_in_float32(kind, dtype):
    pupil, teacher = normal(6, 5, scale=20.0).to(dtype), normal(6, 5, seed=1).to(dtype)
    found = distillation(kind, pupil, teacher, 2.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, distillation(kind, pupil.float(), teacher.float(), 2.0))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("kind", ["kl", "bce", "exclusive"])
def test_several_teachers_say_the_mean_of_their_probabilities(kind, temperature):
    several = [normal(4, 3, 2, 2, seed=i, scale=s).double() for i, s in enumerate((1.0, 5.0, 40.0))]

    def probabilities(logits):
        if kind == "bce":
            return torch.special.expit(logits.double() / temperature)
        if kind == "exclusive":
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        powers = (logits.double() / temperature).exp()
        return powers / powers.sum(1, keepdim=True)

    expected = sum(probabilities(one) for one in several) / 3
    found = averaged(kind, several, temperature)
    assert found.shape == several[0].shape
    torch.testing.assert_close(probabilities(found), expected, rtol=1e-5, atol=1e-6)
    assert averaged(kind, several[:1], temperature) is several[0]


def test_several_teachers_say_the_mean_of_their_numbers_and_the_mean_of_their_cosines():
    several = [normal(6, 5, seed=i) for i in range(3)]
    mean = (several[0] + several[1] + several[2]) / 3
    torch.testing.assert_close(averaged("mse", several, 2.0), mean)
    wide = [normal(6, 5, seed=1), normal(6, 9, seed=2, scale=7.0)]
    sides = averaged("cosine", wide, 2.0)
    assert sides.shape == (6, 14)
    for a in range(6):
        for b in range(6):
            cosines = [torch.nn.functional.cosine_similarity(x[a], x[b], dim=0) for x in wide]
            together = torch.nn.functional.cosine_similarity(sides[a], sides[b], dim=0)
            assert together.item() == pytest.approx(sum(c.item() for c in cosines) / 2, abs=1e-6)


@pytest.mark.parametrize("shape", [(8, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("kind", ["kl", "bce", "exclusive"])
def test_a_decided_teacher_is_one_who_is_certain_of_what_was_likeliest(kind, shape):
    pupil, teacher = normal(*shape), normal(*shape, seed=1)
    found = hard_distillation(kind, pupil, teacher)
    assert found.shape == shape[:1]
    torch.testing.assert_close(found, distillation(kind, pupil, 1e6 * teacher, 1.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["kl", "bce", "exclusive"])
def test_teachers_who_are_certain_of_opposites_leave_no_nan(kind):
    certain = [sign * torch.tensor([[6e4, -6e4]], dtype=torch.float16) for sign in (1, -1)]
    pupil = torch.zeros(1, 2, requires_grad=True)
    told = averaged(kind, certain, 1.0)
    loss = distillation(kind, pupil, told, 1.0).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pupil.grad).all()


def test_a_kind_of_distillation_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="no distillation is called 'hint'"):
        distillation("hint", normal(2, 3), normal(2, 3), 1.0)


# --- reduction ----------------------------------------------------------------------------------------------


def test_reducing_gives_the_weighted_mean():
    losses, weights = normal(9).abs(), torch.tensor([1.0, 0.5, 0, 2, 1, 1, 3, 0.1, 1])
    found = reduce(losses, weights, float(weights.sum()))
    assert found.shape == ()
    assert found.item() == pytest.approx(np.average(losses.numpy(), weights=weights.numpy()), rel=1e-6)


def test_reducing_with_equal_weights_gives_the_mean_however_heavy_they_are():
    losses = normal(9).abs()
    for weight in (1.0, 0.25):
        found = reduce(losses, torch.full((9,), weight), 9 * weight)
        assert found.item() == pytest.approx(losses.mean().item(), rel=1e-6)


def gradient(x, targets, weights, parts: list[torch.Tensor], total) -> torch.Tensor:
    """Gradient of a linear softmax model, summed over the parts of a window; float64."""
    layer = torch.zeros(x.shape[1], targets.shape[1], dtype=torch.float64, requires_grad=True)
    for rows in parts:
        losses = -(targets[rows] * (x[rows] @ layer).log_softmax(1)).sum(1)  # (B,)
        reduce(losses, weights[rows], total(weights[rows])).backward()
    return layer.grad


@pytest.mark.parametrize("sizes", [[16, 16, 16], [16, 16, 8], [16, 3], [5], [1, 30, 2, 2]])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal weights", "pseudo-label weights"])
def test_batches_of_any_sizes_accumulate_to_the_gradient_of_all_their_rows_at_once(sizes, weighted):
    n = sum(sizes)
    x, targets = normal(n, 6).double(), soft(n, 4).double()
    weights = (
        torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) if weighted else 1
    )
    weights = weights * torch.ones(n, dtype=torch.float64)
    everything, window = list(torch.arange(n).split(sizes)), float(weights.sum())
    at_once = gradient(x, targets, weights, [torch.arange(n)], lambda _: window)
    accumulated = gradient(x, targets, weights, everything, lambda _: window)
    torch.testing.assert_close(accumulated, at_once, rtol=1e-6, atol=1e-12)
    if len(set(sizes)) > 1:  # the usual way, mean of each batch over a constant, is another gradient
        usual = gradient(x, targets, weights, everything, lambda part: float(part.sum()) * 3)
        assert (usual - at_once).norm() > 0.01 * at_once.norm()
