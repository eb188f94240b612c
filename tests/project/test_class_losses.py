"""Losses of one class out of C against closed forms, scikit-learn and torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import hinge_loss
from torchvision.ops import sigmoid_focal_loss

from src.losses.classification import (
    generalized_cross_entropy,
    multiclass_hinge,
    softmax_focal,
    symmetric_cross_entropy,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=torch.float64)


def probabilities(logits: torch.Tensor) -> np.ndarray:
    z = np.exp(logits.numpy() - logits.numpy().max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def one_hot(rows: int, classes: int) -> torch.Tensor:
    return torch.eye(classes, dtype=torch.float64)[torch.arange(rows) % classes]


# --- focal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
def test_focal_is_the_closed_form_and_cross_entropy_where_gamma_is_zero(gamma):
    logits, shares = normal(20, 5), normal(20, 5, seed=1).softmax(1)
    p = probabilities(logits)
    expected = (shares.numpy() * (1 - p) ** gamma * -np.log(p)).sum(1)
    np.testing.assert_allclose(softmax_focal(logits, shares, gamma), expected, rtol=1e-9)
    if gamma == 0:
        torch.testing.assert_close(
            softmax_focal(logits, shares, gamma), F.cross_entropy(logits, shares, reduction="none")
        )


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_focal_of_two_classes_is_torchvisions_of_the_difference_of_their_logits(gamma):
    logits, shares = normal(20, 2), one_hot(20, 2)
    expected = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], shares[:, 1], alpha=-1, gamma=gamma)
    torch.testing.assert_close(softmax_focal(logits, shares, gamma), expected)


def test_focal_of_an_easy_row_is_lower_than_of_a_hard_one_by_more_than_in_cross_entropy():
    """Lin et al.: at gamma 2 a row with p = 0.9 counts a hundredth, one with p = 0.5 a fourth."""
    logits = torch.tensor([[math.log(9.0), 0.0], [0.0, 0.0]], dtype=torch.float64)
    shares = torch.tensor([[1.0, 0.0]] * 2, dtype=torch.float64)
    ratio = softmax_focal(logits, shares, 2.0) / F.cross_entropy(logits, shares, reduction="none")
    torch.testing.assert_close(ratio, torch.tensor([0.01, 0.25], dtype=torch.float64))


# --- wrong labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (6.0, 0.1), (1.0, 0.0), (0.0, 1.0)])
def test_symmetric_cross_entropy_is_both_ways_with_the_logarithm_of_nothing_at_minus_four(alpha, beta):
    logits, shares = normal(20, 5), one_hot(20, 5)
    p, own = probabilities(logits), np.arange(20) % 5
    right = p[np.arange(20), own]
    expected = alpha * -np.log(right) + beta * 4 * (1 - right)  # the paper's equation 7 with A = -4
    np.testing.assert_allclose(symmetric_cross_entropy(logits, shares, alpha, beta), expected, rtol=1e-9)


def test_the_reverse_of_a_soft_target_is_its_cross_entropy_seen_from_the_prediction():
    logits, shares = normal(20, 5), 0.5 * one_hot(20, 5) + 0.1
    expected = -(probabilities(logits) * np.log(shares.numpy())).sum(1)
    np.testing.assert_allclose(symmetric_cross_entropy(logits, shares, 0.0, 1.0), expected, rtol=1e-9)


@pytest.mark.parametrize("q", [0.3, 0.7, 1.0])
def test_generalized_cross_entropy_is_the_closed_form(q):
    logits, shares = normal(20, 5), normal(20, 5, seed=1).softmax(1)
    expected = (shares.numpy() * (1 - probabilities(logits) ** q) / q).sum(1)
    np.testing.assert_allclose(generalized_cross_entropy(logits, shares, q), expected, rtol=1e-9)


def test_generalized_cross_entropy_lies_between_cross_entropy_and_half_the_absolute_error():
    logits, shares = normal(20, 5), one_hot(20, 5)
    torch.testing.assert_close(
        generalized_cross_entropy(logits, shares, 1e-9),
        F.cross_entropy(logits, shares, reduction="none"),
        rtol=1e-6,
        atol=1e-7,
    )
    absolute = (logits.softmax(1) - shares).abs().sum(1) / 2
    torch.testing.assert_close(generalized_cross_entropy(logits, shares, 1.0), absolute)


@pytest.mark.parametrize("loss", [symmetric_cross_entropy, generalized_cross_entropy])
def test_the_losses_for_wrong_labels_are_pulled_less_by_one_than_cross_entropy_is(loss):
    """The gradient on a row whose label is wrong and that is sure of the right one, against the gradient on
    one that is undecided: cross-entropy's is twice as large, these's is smaller."""

    def pull(function, logits):
        logits = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
        function(logits, torch.tensor([[0.0, 1.0]], dtype=torch.float64)).sum().backward()
        return logits.grad.abs().sum().item()

    sure, open_ = [6.0, 0.0], [0.0, 0.0]
    assert pull(F.cross_entropy, sure) > 1.9 * pull(F.cross_entropy, open_)
    assert pull(loss, sure) < pull(loss, open_)


# --- hinge --------------------------------------------------------------------------------------------------


def test_the_hinge_is_scikit_learns():
    logits = normal(60, 5)
    own = torch.arange(60) % 5
    found = multiclass_hinge(logits, one_hot(60, 5))
    for row in range(60):
        alone = hinge_loss([own[row]], logits[row : row + 1].numpy(), labels=list(range(5)))
        assert found[row].item() == pytest.approx(alone, rel=1e-9)
    assert (found == 0).any()
    assert (found > 1).any()


def test_the_hinge_of_a_tie_at_the_top_is_the_margin_itself():
    logits = torch.tensor([[2.0, 2.0, 0.0]], dtype=torch.float64)
    assert multiclass_hinge(logits, torch.tensor([[1.0, 0, 0]]).double()).item() == 1
    assert multiclass_hinge(logits, torch.tensor([[0, 1.0, 0]]).double()).item() == 1
