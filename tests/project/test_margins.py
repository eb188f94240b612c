"""Softmax over cosines with a margin: numbers against loops over angles in float64, and rules that keep their
word."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from src.config import MARGINS, Margin, Train
from src.losses.build import create_loss
from src.losses.margins import (
    added_angle,
    create_widen,
    log_sum_of_others,
    margin_scale,
    margin_size,
    margin_softmax,
    multiplied_angle,
    sizes_by_rows,
)
from src.models.output import Output


def cosines(rows: int, classes: int, seed: int = 0) -> torch.Tensor:
    """(rows, classes) anywhere between -1 and 1."""
    return 2 * torch.rand(rows, classes, generator=torch.Generator().manual_seed(seed)) - 1


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.eye(classes)[labels]


def with_margin(name: str, cosine, labels, scale: float, size: float) -> torch.Tensor:
    """(B,) of rows that have one class each."""
    widen = create_widen(name, Margin(size=size), cosine.shape[1])
    return margin_softmax(cosine, one_hot(labels, cosine.shape[1]).to(cosine), scale, widen)


def arcface(cosine, labels, scale: float, angle: float) -> torch.Tensor:
    return with_margin("arcface", cosine, labels, scale, angle)


def arcface_by_angles(cosine, labels, scale: float, angle: float) -> list[float]:
    """Row by row in float64, with the angle itself."""
    found = []
    for row, label in zip(cosine.double().numpy(), labels.tolist(), strict=True):
        logits, theta = scale * row, math.acos(row[label])
        turned = theta + angle <= math.pi
        logits[label] = scale * (math.cos(theta + angle) if turned else row[label] - angle * math.sin(angle))
        found.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return found


# --- ArcFace ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.5, 1.5])
@pytest.mark.parametrize("scale", [1.0, 17.7, 64.0])
def test_arcface_is_cross_entropy_with_the_angle_added_to_the_own_class(scale, angle):
    said, labels = cosines(200, 7), torch.arange(200) % 7
    own = said[torch.arange(200), labels]
    fallback = own < -math.cos(angle)
    assert fallback.any() == (angle > 0)  # and so both branches are seen
    found = arcface(said, labels, scale, angle)
    np.testing.assert_allclose(found, arcface_by_angles(said, labels, scale, angle), rtol=2e-4, atol=2e-4)


def test_without_an_angle_arcface_is_the_cross_entropy_of_scaled_cosines():
    said, labels = cosines(50, 7), torch.arange(50) % 7
    expected = torch.nn.functional.cross_entropy(30 * said, labels, reduction="none")
    torch.testing.assert_close(arcface(said, labels, 30.0, 0.0), expected)


@pytest.mark.parametrize("angle", [0.1, 0.3, 0.5, 1.0, 1.5])
def test_the_loss_never_falls_as_a_row_turns_away_from_its_identity(angle):
    own = torch.linspace(1, -1, 2001)
    said = torch.stack([own, torch.zeros_like(own)], 1)
    losses = arcface(said, torch.zeros(2001, dtype=torch.long), 8.0, angle)
    assert (losses.diff() >= -1e-6).all()
    assert losses[-1] - losses[0] > 8


@pytest.mark.parametrize("value", [1.0, 1.0000001, -1.0, -1.0000001, 0.9999999, -0.9999999, 0.0])
def test_gradients_at_the_ends_are_finite_and_pull_towards_the_identity(value):
    said = torch.tensor([[value, 0.1]], requires_grad=True)
    arcface(said, torch.tensor([0]), 16.0, 0.3).sum().backward()
    assert torch.isfinite(said.grad).all()
    assert said.grad[0, 0] < 0 < said.grad[0, 1]


def test_the_gradient_is_the_closed_form():
    """Scale times prediction minus truth, and for the own class times sin(theta + m) / sin(theta)."""
    said, labels = cosines(40, 4, seed=3).requires_grad_(), torch.arange(40) % 4
    arcface(said, labels, 5.0, 0.3).sum().backward()
    cosine, rows = said.detach().double().numpy(), np.arange(40)
    theta = np.arccos(cosine[rows, labels])
    turned = theta + 0.3 <= np.pi
    own = np.where(turned, np.cos(theta + 0.3), cosine[rows, labels] - 0.3 * np.sin(0.3))
    logits = 5.0 * cosine
    logits[rows, labels] = 5.0 * own
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected[rows, labels] -= 1
    expected[rows, labels] *= np.where(turned, np.sin(theta + 0.3) / np.sin(theta), 1.0)
    np.testing.assert_allclose(said.grad, 5.0 * expected, rtol=1e-3, atol=1e-5)
    assert 0 < turned.sum() < 40


# --- the other margins --------------------------------------------------------------------------------------


def own_by_definition(name: str, cosine: float, size: float) -> float:
    """What counts of a row's own cosine, of float64 angles."""
    theta = math.acos(max(-1.0, min(1.0, cosine)))
    if name == "sphereface":  # (-1)^k cos(m theta) - 2 k for m theta from k pi to (k + 1) pi
        k = math.floor(size * theta / math.pi)
        return (-1) ** k * math.cos(size * theta) - 2 * k
    return {"cosface": cosine - size, "normface": cosine}[name]


@pytest.mark.parametrize(
    ("name", "size"), [("normface", 0.0), ("cosface", 0.35), ("sphereface", 1.5), ("sphereface", 4.0)]
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_margin_is_cross_entropy_with_the_own_cosine_changed_as_its_paper_says(name, size, scale):
    said, labels = cosines(200, 7).double(), torch.arange(200) % 7
    found = with_margin(name, said, labels, scale, size)
    for row, label in enumerate(labels.tolist()):
        logits = scale * said[row].numpy()
        logits[label] = scale * own_by_definition(name, said[row, label].item(), size)
        expected = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label]
        assert found[row].item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_the_multiplied_angle_falls_all_the_way_and_is_the_cosine_at_factor_one():
    said = torch.linspace(1, -1, 4001, dtype=torch.float64)[:, None]
    for factor in (1.0, 1.3, 2.0, 4.0):
        wider = multiplied_angle(said, factor)
        assert (wider.diff(dim=0) < 0).all()
        assert wider[0] == 1
    torch.testing.assert_close(multiplied_angle(said, 1.0), said)


def test_the_gradient_of_sphereface_is_that_of_the_softmax_at_the_widened_cosines():
    """SphereFace Revived, characteristic gradient detachment: scale times prediction minus truth, with no
    factor for the angle, which has no bound at 180 degrees."""
    said, labels = cosines(40, 4, seed=3).double().requires_grad_(), torch.arange(40) % 4
    with_margin("sphereface", said, labels, 5.0, 1.5).sum().backward()
    logits, rows = 5.0 * said.detach(), torch.arange(40)
    logits[rows, labels] = 5.0 * multiplied_angle(said.detach(), 1.5)[rows, labels]
    expected = logits.softmax(1) - one_hot(labels, 4).double()
    torch.testing.assert_close(said.grad, 5.0 * expected)


@pytest.mark.parametrize("name", MARGINS)
def test_cosines_of_one_and_minus_one_have_finite_losses_and_gradients_at_any_scale(name):
    said = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], requires_grad=True)
    size = {"sphereface": 1.5, "normface": 0.0}.get(name, 0.3)
    for scale in (1.0, 64.0, 6e4):
        found = with_margin(name, said, torch.tensor([0, 0, 2]), scale, size)
        said.grad = None
        found.sum().backward()
        assert torch.isfinite(found).all()
        assert torch.isfinite(said.grad).all()


@pytest.mark.parametrize("name", MARGINS)
def test_a_row_of_two_classes_loses_its_share_of_each(name):
    said, size = cosines(30, 5).double(), {"sphereface": 1.5, "normface": 0.0}.get(name, 0.3)
    first, second = torch.arange(30) % 5, (torch.arange(30) + 2) % 5
    share = torch.linspace(0, 1, 30, dtype=torch.float64)
    mixed = share[:, None] * one_hot(first, 5) + (1 - share[:, None]) * one_hot(second, 5)
    found = margin_softmax(said, mixed, 12.0, create_widen(name, Margin(size=size), 5))
    expected = share * with_margin(name, said, first, 12.0, size)
    expected += (1 - share) * with_margin(name, said, second, 12.0, size)
    torch.testing.assert_close(found, expected)


def test_the_sum_over_all_classes_but_each_keeps_its_digits_where_one_has_it_all():
    logits = torch.tensor([[300.0, 0.0, -1.0], [5.0, 5.0, 5.0], [-300.0, -301.0, -900.0]])
    found = log_sum_of_others(logits)
    for row in range(3):
        for c in range(3):
            others = torch.cat([logits[row, :c], logits[row, c + 1 :]]).double()
            assert found[row, c].item() == pytest.approx(others.logsumexp(0).item(), rel=1e-6)
    small = (3 * cosines(4, 5)).double().requires_grad_()
    assert torch.autograd.gradcheck(log_sum_of_others, (small,))


# --- scale and size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [20, 1000, 100_000])
def test_the_default_scale_lets_a_row_in_the_centre_of_its_class_be_sure(classes):
    """Centres as far apart as can be have the cosine -1 / (C - 1) to each other."""
    scale = margin_scale(Margin(), classes)
    others = (classes - 1) * math.exp(-scale / (classes - 1))
    assert math.exp(scale) / (math.exp(scale) + others) == pytest.approx(0.9999, abs=1e-8)


def test_the_default_scale_rises_with_the_classes_from_ten_and_a_given_one_is_taken():
    assert [margin_scale(Margin(), n) for n in (1, 2, 5)] == [10.0] * 3
    assert [round(margin_scale(Margin(), n)) for n in (10, 1000, 100_000)] == [10, 16, 21]
    assert margin_scale(Margin(scale=30.0), 1000) == 30.0


@pytest.mark.parametrize("classes", [10, 1000, 100_000])
def test_the_default_angle_halves_the_odds_of_a_row_in_the_centre_of_its_class(classes):
    scale = margin_scale(Margin(), classes)
    said = torch.full((1, classes), -1 / (classes - 1), dtype=torch.float64)
    said[0, 0] = 1
    shares = torch.zeros_like(said)
    shares[0, 0] = 1
    plain, wider = (
        margin_softmax(said, shares, scale, create_widen(name, Margin(), classes)).item()
        for name in ("normface", "arcface")
    )
    odds = [math.exp(-loss) / (1 - math.exp(-loss)) for loss in (plain, wider)]
    assert odds[0] / odds[1] == pytest.approx(2, rel=1e-2)  # the sine is bounded below, where it has no slope
    angles = [margin_size("arcface", n) for n in (2, 10, 1000, 100_000)]
    assert angles == sorted(angles, reverse=True)
    assert [round(a, 2) for a in angles] == [0.37, 0.37, 0.29, 0.26]


@pytest.mark.parametrize("classes", [2, 1000])
def test_all_default_margins_move_a_row_at_a_right_angle_to_its_class_alike(classes):
    right_angle, angle = torch.zeros(1, 1, dtype=torch.float64), margin_size("arcface", classes)
    for name in ("arcface", "cosface", "sphereface"):
        wider = create_widen(name, Margin(), classes)(right_angle)
        assert wider.item() == pytest.approx(math.cos(math.pi / 2 + angle), abs=1e-9)


def test_margins_by_rows_fall_with_their_fourth_root_from_the_rarest_class_to_the_commonest():
    counts = torch.tensor([1.0, 16, 81, 10_000])
    found = sizes_by_rows(counts, 0.05, 0.5)
    power = counts.numpy() ** -0.25  # 1, 1/2, 1/3, 1/10
    expected = 0.05 + 0.45 * (power - power.min()) / (power.max() - power.min())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (found[0].item(), found[3].item()) == (pytest.approx(0.5), pytest.approx(0.05))
    assert sizes_by_rows(torch.tensor([0.0, 1, 16]), 0.1, 0.4).tolist() == pytest.approx([0.4, 0.4, 0.1])
    assert sizes_by_rows(torch.tensor([5.0, 5]), 0.1, 0.4).tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("name", ["arcface", "cosface", "sphereface"])
def test_each_class_has_the_margin_that_its_training_rows_give_it(name):
    targets = np.repeat(np.arange(3.0), [1, 16, 81])[:, None].astype(np.float32)
    low, high = (1.1, 1.6) if name == "sphereface" else (0.1, 0.4)
    settings = Train(loss=name, margin={"size": low, "rarest": high, "triplet_weight": 0, "scale": 8.0})
    loss = create_loss("retrieval", settings, list("abc"), targets)
    said, labels = cosines(30, 3), torch.arange(30) % 3
    found = loss(Output(8.0 * said, torch.zeros(30, 2)), labels[:, None].float())
    sizes = sizes_by_rows(torch.tensor([1.0, 16, 81]), low, high)
    for c in range(3):
        own = labels == c
        alone = with_margin(name, said, labels, 8.0, sizes[c].item())
        torch.testing.assert_close(found[own], alone[own], rtol=1e-5, atol=1e-5)


# --- the loss of a run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["multiclass", "retrieval"])
@pytest.mark.parametrize("name", MARGINS)
def test_the_loss_of_a_run_takes_logits_that_are_cosines_times_its_scale(name, task):
    size = {"sphereface": 1.5, "normface": None}.get(name, 0.25)
    settings = Train(loss=name, margin={"scale": 12.0, "size": size, "triplet_weight": 0})
    said, labels = cosines(24, 6), torch.arange(24) % 6
    targets = labels[:, None].float() if task == "retrieval" else one_hot(labels, 6)
    found = create_loss(task, settings, list("abcdef"))(Output(12.0 * said, torch.zeros(24, 2)), targets)
    torch.testing.assert_close(
        found, with_margin(name, said, labels, 12.0, size or 0.0), rtol=1e-5, atol=1e-5
    )


def test_normface_is_the_cross_entropy_of_the_logits_as_they_are():
    logits, labels = 10 * cosines(24, 6), torch.arange(24) % 6
    settings = Train(loss="normface")
    found = create_loss("multiclass", settings, list("abcdef"))(Output(logits, logits), one_hot(labels, 6))
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, labels, reduction="none"))


def test_the_angle_is_added_the_same_in_float32_and_float64():
    said = cosines(100, 5)
    torch.testing.assert_close(
        added_angle(said, 0.3).double(), added_angle(said.double(), 0.3), atol=1e-5, rtol=0
    )
