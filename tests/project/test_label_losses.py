"""Losses of yes or no, of a row's labels together and of masks, against loops, scikit-learn and
definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score, hinge_loss, jaccard_score
from torchvision.ops import sigmoid_focal_loss

from src.config import Train
from src.losses.build import create_loss
from src.losses.fbeta import soft_fbeta
from src.losses.labels import asymmetric, binary_hinge, sigmoid_focal
from src.losses.lovasz import extension, lovasz_hinge, lovasz_softmax
from src.losses.segmentation import bce_dice, ce_dice, soft_dice
from src.models.output import Output

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def zeros_and_ones(*shape: int, seed: int = 1) -> torch.Tensor:
    return (normal(*shape, seed=seed) > 0).to(DOUBLE)


def holes(targets: torch.Tensor, share: float = 0.3) -> torch.Tensor:
    lost = torch.rand(targets.shape, generator=torch.Generator().manual_seed(5)) < share
    return targets.masked_fill(lost, torch.nan)


def loss_of(task: str, name: str, **more):
    return create_loss(task, Train(loss=name, label_smoothing=0.0, **more), list("abc"))


def said(logits: torch.Tensor) -> Output:
    return Output(logits, torch.zeros(len(logits), 2))


# --- focal, asymmetric, hinge -------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_focal_is_the_closed_form_and_weighs_no_side_unless_asked_to(gamma, alpha):
    logits, targets = normal(10, 4), zeros_and_ones(10, 4)
    p, t = 1 / (1 + np.exp(-logits.numpy())), targets.numpy()
    right = np.where(t == 1, p, 1 - p)
    weight = 1.0 if alpha is None else np.where(t == 1, alpha, 1 - alpha)
    expected = weight * (1 - right) ** gamma * -np.log(right)
    np.testing.assert_allclose(sigmoid_focal(logits, targets, gamma, alpha), expected, rtol=1e-7)


def test_asymmetric_is_that_of_a_loop_over_the_papers_equations():
    logits, targets = normal(10, 4), zeros_and_ones(10, 4)
    found = asymmetric(logits, targets, gamma_positive=1.0, gamma_negative=3.0, shift=0.1)
    shifted = 0
    for row, label in itertools.product(range(10), range(4)):
        p = 1 / (1 + math.exp(-logits[row, label]))
        low = max(p - 0.1, 0)
        shifted += low == 0 and targets[row, label] == 0
        expected = -(1 - p) * math.log(p) if targets[row, label] else -(low**3) * math.log(1 - low)
        assert found[row, label].item() == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert shifted  # a no that is sure costs nothing
    assert (found[targets == 0] == 0).sum() == shifted


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_asymmetric_with_two_like_sides_and_no_shift_is_torchvisions_focal(gamma):
    logits, targets = normal(10, 4), zeros_and_ones(10, 4)
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=gamma)
    torch.testing.assert_close(asymmetric(logits, targets, gamma, gamma, 0.0), expected)


def test_asymmetric_without_a_shift_is_finite_where_a_no_is_surely_wrong():
    logits = torch.tensor([200.0, 6e4], requires_grad=True)
    found = asymmetric(logits, torch.zeros(2), gamma_negative=2.0, shift=0.0)
    found.sum().backward()
    assert found.tolist() == [200.0, 6e4]
    assert logits.grad.tolist() == [1, 1]


def test_the_binary_hinge_is_scikit_learns():
    logits, targets = normal(40), zeros_and_ones(40)
    found = binary_hinge(logits, targets)
    for row in range(40):  # beside a row of the other side that costs nothing: scikit-learn wants both
        other = 1 - targets[row]
        mean = hinge_loss([targets[row], other], [logits[row], 10 * (2 * other - 1)])
        assert found[row].item() == pytest.approx(2 * mean, rel=1e-9)


@pytest.mark.parametrize("name", ["focal", "asymmetric", "hinge"])
def test_the_loss_of_a_row_is_the_mean_over_its_known_labels_by_its_own_knobs(name):
    knobs = {"focal": {"gamma": 1.5, "alpha": 0.3}, "asymmetric": {"gamma_negative": 2.0, "shift": 0.2}}
    cell = {"focal": sigmoid_focal, "asymmetric": asymmetric, "hinge": binary_hinge}[name]
    logits, targets = normal(10, 3), holes(zeros_and_ones(10, 3))
    more = {name: knobs[name]} if name in knobs else {}
    found = loss_of("multilabel", name, **more)(said(logits), targets)
    cells = cell(logits, targets, **knobs.get(name, {}))
    torch.testing.assert_close(found, cells.nanmean(1).nan_to_num())


# --- F-beta -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_the_soft_score_of_decisions_is_scikit_learns_of_the_cells_and_one_more_that_is_right(beta):
    """One cell is added to either side: beside it F-beta is that of the labels with a right one more, whose
    weight is 1 / (1 + beta^2)."""
    decided, wanted = zeros_and_ones(12, 40, seed=2), zeros_and_ones(12, 40, seed=3)
    found = soft_fbeta(1000 * (2 * decided - 1), wanted, beta)
    for row in range(12):
        labels = [*wanted[row].tolist(), 1.0]
        answers = [*decided[row].tolist(), 1.0]
        weights = [*[1.0] * 40, 1 / (1 + beta**2)]
        score = fbeta_score(labels, answers, beta=beta, sample_weight=weights)
        assert found[row].item() == pytest.approx(1 - score, rel=1e-9)


def test_a_perfect_answer_costs_nothing_also_where_there_is_nothing_to_find():
    wanted = zeros_and_ones(6, 5)
    wanted[0] = 0
    assert soft_fbeta(1000 * (2 * wanted - 1), wanted).tolist() == [0] * 6
    assert soft_fbeta(torch.full((1, 5), 1000.0), wanted[:1]).item() == pytest.approx(5 / 6)


def test_recall_counts_for_more_as_beta_rises():
    wanted = torch.tensor([[1.0, 1, 0, 0]])
    missed, too_much = torch.tensor([[9.0, -9, -9, -9]]), torch.tensor([[9.0, 9, 9, -9]])
    low, high = (
        [soft_fbeta(logits, wanted, beta).item() for logits in (missed, too_much)] for beta in (0.5, 2.0)
    )
    assert low[0] < low[1]
    assert high[0] > high[1]


def test_a_soft_target_is_best_met_by_itself():
    wanted = torch.rand(1, 6, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    own = torch.logit(wanted)
    assert soft_fbeta(own, wanted).item() == pytest.approx(0, abs=1e-12)
    for step in (-0.3, 0.3):
        assert soft_fbeta(own + step, wanted).item() > 0.02


def test_of_soft_targets_f1_is_the_distance_over_the_sum_of_both_and_one():
    """The Dice semimetric loss of Wang et al.: the smaller of two and their distance are half their sum."""
    logits, wanted = normal(6, 5), normal(6, 5, seed=1).sigmoid()
    said = logits.sigmoid()
    expected = (said - wanted).abs().sum(1) / (said.sum(1) + wanted.sum(1) + 1)
    torch.testing.assert_close(soft_fbeta(logits, wanted), expected)


def test_on_masks_it_is_the_tversky_loss_of_each_class_over_its_known_pixels():
    """Salehi et al., equation 3, with alpha = 1 / (1 + beta^2) of what is too much and the rest of what is
    missed; one pixel more above and below."""
    logits, targets, beta = normal(3, 2, 4, 5), holes(zeros_and_ones(3, 2, 4, 5)), 2.0
    targets[0, 1] = torch.nan
    found = loss_of("segmentation", "fbeta", fbeta=beta)(said(logits), targets)
    alpha = 1 / (1 + beta**2)
    for row in range(3):
        losses = []
        for c in range(2):
            known = ~targets[row, c].isnan()
            if known.any():
                p, t = logits[row, c].sigmoid()[known].numpy(), targets[row, c][known].numpy()
                hit = (p * t).sum() + alpha
                apart = alpha * (p * (1 - t)).sum() + (1 - alpha) * ((1 - p) * t).sum()
                losses.append(1 - hit / (hit + apart))
        assert found[row].item() == pytest.approx(np.mean(losses), rel=1e-9)


# --- Lovász -------------------------------------------------------------------------------------------------


def jaccard_loss(wrong: list[int], wanted: np.ndarray) -> float:
    """One minus intersection over union, when exactly the cells in `wrong` are decided wrongly."""
    decided = wanted.copy()
    decided[wrong] = ~decided[wrong]
    union = (decided | wanted).sum()
    return 1 - (decided & wanted).sum() / union if union else 0.0


def extension_by_definition(errors: np.ndarray, wanted: np.ndarray) -> float:
    """The Lovász extension: cells taken from the worst on, each at the loss that it adds to the set."""
    order, total, taken, before = np.argsort(-errors, kind="stable"), 0.0, [], 0.0
    for cell in order:
        taken.append(cell)
        after = jaccard_loss(taken, wanted)
        total, before = total + errors[cell] * (after - before), after
    return total


@pytest.mark.parametrize("positives", [0, 1, 4, 8])
def test_the_extension_is_its_definition_and_the_loss_itself_at_the_corners(positives):
    wanted = np.arange(8) < positives
    told = torch.from_numpy(wanted).view(1, 1, 8)
    known = torch.ones_like(told)
    errors = np.random.default_rng(positives).uniform(0, 2, 8)
    found = extension(torch.from_numpy(errors).view(1, 1, 8), told, known)
    assert found.item() == pytest.approx(extension_by_definition(errors, wanted), rel=1e-9)
    for corner in itertools.product([0.0, 1.0], repeat=8):
        found = extension(torch.tensor(corner, dtype=DOUBLE).view(1, 1, 8), told, known)
        assert found.item() == pytest.approx(jaccard_loss(list(np.flatnonzero(corner)), wanted), abs=1e-12)


def test_an_unknown_cell_is_as_one_that_is_not_there():
    logits, targets = normal(4, 2, 5, 5), holes(zeros_and_ones(4, 2, 5, 5))
    found = lovasz_hinge(logits, targets)
    for row in range(4):
        alone = []
        for c in range(2):
            known = ~targets[row, c].isnan()
            alone.append(lovasz_hinge(logits[row, c][known][None], targets[row, c][known][None]))
        assert found[row].item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-9)


def test_the_hinge_over_labels_is_the_extension_of_what_each_label_lacks():
    logits, targets = normal(10, 6), zeros_and_ones(10, 6)
    targets[0] = 0
    found = loss_of("multilabel", "lovasz")(said(logits), targets)
    for row in range(10):
        wanted = targets[row].numpy() == 1
        errors = np.maximum(1 - logits[row].numpy() * np.where(wanted, 1, -1), 0)
        assert found[row].item() == pytest.approx(extension_by_definition(errors, wanted), rel=1e-9)


def test_the_hinge_of_a_wide_margin_is_zero_and_of_a_hundred_pixels_a_bound_on_one_minus_iou():
    targets = zeros_and_ones(5, 1, 10, 10)
    assert lovasz_hinge(3 * (2 * targets - 1), targets).tolist() == [0] * 5
    logits = normal(5, 1, 10, 10, seed=8)
    found = lovasz_hinge(logits, targets)
    for row in range(5):
        iou = jaccard_score(targets[row].ravel(), logits[row].ravel() > 0)
        assert found[row].item() >= 1 - iou


def test_an_image_without_a_mask_is_wrong_by_its_worst_pixel():
    """Of nothing, any answer has no intersection: the first pixel too many costs all."""
    logits = torch.tensor([[[[-5.0, 0.5], [-0.2, -3.0]]]])
    assert lovasz_hinge(logits, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(1.5)


def test_softmax_is_the_mean_over_the_classes_an_image_shows_the_background_among_them():
    logits, index = normal(3, 2, 4, 5), torch.arange(60).reshape(3, 4, 5) % 3
    index[1] %= 2  # an image that lacks the second class
    index[2] = 0  # one of background alone
    targets = torch.eye(3, dtype=DOUBLE)[index].permute(0, 3, 1, 2)[:, 1:].clone()
    targets[0, 1, 0] = torch.nan  # unknown in one class, unknown in all
    found = loss_of("segmentation", "lovasz_softmax")(said(logits), targets)
    for row in range(3):
        z = np.concatenate([np.zeros((1, 4, 5)), logits[row].numpy()])
        p = np.exp(z) / np.exp(z).sum(0)
        known = ~targets[row].isnan().any(0).numpy()
        losses = []
        for c in range(3):
            wanted = (index[row].numpy() == c)[known]
            if wanted.any():
                losses.append(extension_by_definition(np.abs(wanted - p[c][known]), wanted))
        assert len(losses) == 3 - row
        assert found[row].item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_with_one_class_softmax_sees_what_a_sigmoid_says():
    logits, targets = normal(3, 1, 4, 5), zeros_and_ones(3, 1, 4, 5)
    found = lovasz_softmax(logits, targets)
    for row in range(3):
        p, wanted = logits[row].sigmoid().flatten().numpy(), targets[row].flatten().numpy() == 1
        both = [extension_by_definition(np.abs(t - q), t) for t, q in ((wanted, p), (~wanted, 1 - p))]
        assert found[row].item() == pytest.approx(np.mean(both), rel=1e-9)


def test_steps_keep_their_digits_over_a_million_pixels():
    wrong = torch.linspace(1, 0, 2**20).view(1, 1, -1)
    wanted = (torch.arange(2**20) % 3 == 0).view(1, 1, -1)
    known = torch.ones_like(wanted)
    torch.testing.assert_close(
        extension(wrong, wanted, known).double(), extension(wrong.double(), wanted, known), rtol=1e-5, atol=0
    )


# --- what stands beside a loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.3, 2.0])
@pytest.mark.parametrize("name", ["bce_dice", "ce_dice", "focal", "fbeta"])
def test_lovasz_stands_beside_a_loss_of_masks_by_its_weight(name, weight):
    logits, targets = normal(3, 2, 4, 5), zeros_and_ones(3, 2, 4, 5)
    targets[:, 1] *= 1 - targets[:, 0]
    plain = loss_of("segmentation", name)(said(logits), targets)
    found = loss_of("segmentation", name, lovasz_weight=weight)(said(logits), targets)
    beside = lovasz_softmax if name == "ce_dice" else lovasz_hinge
    torch.testing.assert_close(found, plain + weight * beside(logits, targets))


def test_lovasz_stands_beside_focal_over_the_labels_of_a_row():
    logits, targets = normal(10, 3), holes(zeros_and_ones(10, 3))
    plain = loss_of("multilabel", "focal")(said(logits), targets)
    found = loss_of("multilabel", "focal", lovasz_weight=0.5)(said(logits), targets)
    torch.testing.assert_close(found, plain + 0.5 * lovasz_hinge(logits, targets))


def test_focal_takes_the_place_of_cross_entropy_beside_dice():
    logits, targets = normal(3, 2, 4, 5), holes(zeros_and_ones(3, 2, 4, 5))
    found = loss_of("segmentation", "focal_dice", dice_weight=0.2, focal={"gamma": 3.0})(
        said(logits), targets
    )
    focal = loss_of("segmentation", "focal", focal={"gamma": 3.0})(said(logits), targets)
    torch.testing.assert_close(found, 0.8 * focal + 0.2 * soft_dice(logits.sigmoid(), targets))


def test_dice_losses_keep_double_precision():
    logits, targets = normal(2, 2, 3, 3), zeros_and_ones(2, 2, 3, 3)
    targets[:, 1] *= 1 - targets[:, 0]
    assert bce_dice(logits, targets, 0.5).dtype == ce_dice(logits, targets, 0.5).dtype == DOUBLE
