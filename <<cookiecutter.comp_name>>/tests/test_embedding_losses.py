"""ArcFace and the batch-hard triplet: numbers against a loop in float64, and gradients that stay finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from src.config import Margin
from src.losses.embedding import arcface, batch_hard_triplet, create_arcface, default_scale
from src.models.output import Output


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines(rows: int, classes: int, seed: int = 0) -> torch.Tensor:
    """(rows, classes) anywhere between -1 and 1."""
    return 2 * torch.rand(rows, classes, generator=torch.Generator().manual_seed(seed)) - 1


def arcface_by_angles(cosine, labels, scale: float, angle: float) -> list[float]:
    """Row by row in float64, with the angle itself."""
    found = []
    for row, label in zip(cosine.double().numpy(), labels.tolist(), strict=True):
        logits, theta = scale * row, math.acos(row[label])
        turned = theta + angle <= math.pi
        logits[label] = scale * (math.cos(theta + angle) if turned else row[label] - angle * math.sin(angle))
        found.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    return found


def triplet_by_loops(embedding, labels, margin) -> list[float]:
    """Hardest of hardest by walking over all pairs in float64; a negative label takes no part."""
    unit = embedding.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    found = []
    for i, label in enumerate(labels.tolist()):
        away = [(float(np.linalg.norm(unit[i] - unit[j])), j) for j in range(len(unit)) if j != i]
        mates = [d for d, j in away if labels[j] == label]
        others = [d for d, j in away if labels[j] != label and labels[j] >= 0]
        if label < 0 or not mates or not others:
            found.append(0.0)
            continue
        difference = max(mates) - min(others)
        found.append(math.log1p(math.exp(difference)) if margin == "soft" else max(difference + margin, 0))
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


# --- the triplet --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", ["soft", 0.1, 0.7])
@pytest.mark.parametrize("identities", [1, 2, 5, 16])
def test_the_hardest_positive_and_negative_of_each_row_are_those_of_a_loop_over_all_pairs(identities, margin):
    labels = torch.from_numpy(np.random.default_rng(identities).integers(-1, identities, 40))
    embedding = (
        normal(40, 6, seed=identities) * torch.linspace(0.1, 30, 40)[:, None]
    )  # length must not matter
    found = batch_hard_triplet(embedding, labels, margin)
    expected = triplet_by_loops(embedding, labels, margin)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (identities == 1) == (not any(expected))


def test_a_row_without_a_positive_or_without_a_negative_costs_nothing():
    embedding = normal(4, 3)
    assert batch_hard_triplet(embedding, torch.tensor([0, 1, 2, 3]), 0.5).tolist() == [0.0] * 4
    assert batch_hard_triplet(embedding, torch.tensor([7, 7, 7, 7]), 0.5).tolist() == [0.0] * 4
    mixed = batch_hard_triplet(embedding, torch.tensor([0, 0, 1, -1]), "soft")
    assert [value > 0 for value in mixed.tolist()] == [True, True, False, False]


def test_a_row_is_not_its_own_positive_and_a_copy_of_it_is():
    embedding = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, -1]])
    found = batch_hard_triplet(embedding, torch.tensor([0, 0, 1, 1]), 0.5)
    across, beside = 2.0, math.sqrt(2)
    expected = [beside - beside + 0.5, beside - 0 + 0.5, across - 0 + 0.5, across - beside + 0.5]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    copies = batch_hard_triplet(embedding[[1, 1, 0]], torch.tensor([0, 0, 1]), 2.0)
    np.testing.assert_allclose(copies[:2], [2 - beside] * 2, atol=1e-5)


@pytest.mark.parametrize("margin", ["soft", 3.0])
def test_rows_on_one_point_have_finite_gradients(margin):
    embedding = torch.ones(4, 3, requires_grad=True)
    batch_hard_triplet(embedding, torch.tensor([0, 0, 1, 1]), margin).sum().backward()
    assert torch.isfinite(embedding.grad).all()


def test_a_step_down_the_gradient_brings_positives_nearer_and_negatives_farther():
    embedding, labels = normal(12, 5).requires_grad_(), torch.arange(12) % 3
    before = batch_hard_triplet(embedding, labels, "soft").sum()
    before.backward()
    with torch.no_grad():
        after = batch_hard_triplet(embedding - 0.05 * embedding.grad, labels, "soft").sum()
    expected = 0.05 * float(embedding.grad.square().sum())
    assert float(before.detach() - after) == pytest.approx(expected, rel=0.2)


def test_near_rows_are_told_apart_also_where_the_product_of_float32_cannot():
    """Cosines of 1 - 1e-9 and of 1 are one number in float32; the distances 4.5e-5 and 0 are not."""
    embedding = torch.tensor([[1.0, 0.0], [1.0, 4.5e-5], [-1.0, 0.0]])
    found = batch_hard_triplet(embedding, torch.tensor([0, 0, 1]), 2.0)
    np.testing.assert_allclose(found[:1], [4.5e-5], rtol=0.01)


# --- both together ------------------------------------------------------------------------------------------


def batch(rows: int = 24, classes: int = 6, seed: int = 0) -> tuple[Output, torch.Tensor]:
    targets = torch.arange(rows)[:, None].float() % classes
    return Output(cosines(rows, classes, seed), normal(rows, 8, seed=seed)), targets


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_loss_of_a_run_is_arcface_and_the_triplet_by_its_weight(weight):
    output, targets = batch()
    settings = Margin(scale=12.0, angle=0.4, triplet_weight=weight, triplet=0.6)
    labels = targets[:, 0].long()
    margin, hard = (
        arcface(output.logits, labels, 12.0, 0.4),
        batch_hard_triplet(output.embedding, labels, 0.6),
    )
    assert hard.sum() > 0
    torch.testing.assert_close(create_arcface(settings, 6, True)(output, targets), margin + weight * hard)
    assert torch.equal(create_arcface(settings, 6, False)(output, targets), margin)


def test_without_a_scale_the_rule_gives_it():
    output, targets = batch()
    default, told = (create_arcface(Margin(scale=s), 5000, False) for s in (None, default_scale(5000)))
    assert torch.equal(default(output, targets), told(output, targets))
    other = create_arcface(Margin(scale=30.0), 5000, False)
    assert not torch.allclose(default(output, targets), other(output, targets))


@pytest.mark.parametrize("triplet", [False, True])
def test_unknown_rows_cost_nothing_and_change_nothing_for_the_others(triplet):
    output, targets = batch()
    loss = create_arcface(Margin(), 6, triplet)
    known = torch.arange(24) % 5 != 2
    holes = torch.where(known[:, None], targets, torch.nan)
    found = loss(output, holes)
    alone = loss(Output(output.logits[known], output.embedding[known]), targets[known])
    assert (found[~known] == 0).all()
    torch.testing.assert_close(found[known], alone)
    output.embedding.requires_grad_()
    output.logits.requires_grad_()
    loss(output, holes).sum().backward()
    assert (output.logits.grad[~known] == 0).all()
    assert torch.isfinite(output.logits.grad).all()
    if triplet:
        assert (output.embedding.grad[~known] == 0).all()
        assert torch.isfinite(output.embedding.grad).all()


def test_a_batch_of_unknown_rows_alone_costs_nothing():
    output, targets = batch()
    found = create_arcface(Margin(), 6, True)(output, torch.full_like(targets, torch.nan))
    assert found.tolist() == [0.0] * 24


def test_an_embedding_that_is_not_finite_is_not_hidden():
    output, targets = batch()
    output.embedding[3] = torch.nan
    assert create_arcface(Margin(), 6, True)(output, targets).isnan()[3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_taken_to_float32_first_also_under_autocast(dtype):
    output, targets = batch()
    loss = create_arcface(Margin(), 6, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(output, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(output, targets))
    halves = Output(output.logits.to(dtype), output.embedding.to(dtype))
    wide = Output(halves.logits.float(), halves.embedding.float())
    torch.testing.assert_close(loss(halves, targets), loss(wide, targets))


def test_under_autocast_the_hardest_are_still_found_among_rows_that_a_half_cannot_tell_apart():
    embedding, labels = normal(30, 4) * 0.02 + torch.tensor([1.0, 0, 0, 0]), torch.arange(30) % 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (embedding @ embedding.T).unique().numel() < 50  # of 435 pairs
        found = batch_hard_triplet(embedding, labels, 0.1)
    np.testing.assert_allclose(found, triplet_by_loops(embedding, labels, 0.1), rtol=1e-3, atol=1e-5)


# --- the scale ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [20, 1000, 100_000])
def test_the_default_scale_lets_a_row_in_the_centre_of_its_identity_be_sure(classes):
    """Centres as far apart as can be have the cosine -1 / (C - 1) to each other."""
    scale = default_scale(classes)
    others = (classes - 1) * math.exp(-scale / (classes - 1))
    assert math.exp(scale) / (math.exp(scale) + others) == pytest.approx(0.9999, abs=1e-8)


def test_the_default_scale_rises_with_the_identities_from_ten():
    assert [default_scale(n) for n in (1, 2, 5)] == [10.0] * 3
    assert [round(default_scale(n)) for n in (10, 1000, 100_000)] == [10, 16, 21]
