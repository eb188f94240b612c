"""The batch-hard triplet and the centre loss: numbers against a loop in float64, and gradients that stay
finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from src.config import Train
from src.losses.build import create_loss
from src.losses.center import CenterLoss
from src.losses.triplet import batch_hard_triplet
from src.models.output import Output


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("margin", ["soft", 0.7])
def test_the_gradient_of_the_triplet_is_that_of_the_loss(margin):
    labels, embedding = torch.arange(9) % 3, normal(9, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: batch_hard_triplet(x, labels, margin), (embedding,))


def test_embeddings_at_the_ends_of_half_precision_have_finite_losses_and_gradients():
    embedding = torch.tensor([[6e4, 0], [-6e4, 6e4], [6e4, 6e4], [1e-7, 0]], requires_grad=True)
    found = batch_hard_triplet(embedding, torch.tensor([0, 0, 1, 1]), "soft")
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(embedding.grad).all()


# --- the centre loss ----------------------------------------------------------------------------------------


def test_the_centre_loss_is_half_the_squared_distance_and_moves_centres_by_the_papers_rule():
    """Wen et al., equation 4, by a loop over rows in float64, batch after batch."""
    loss, centers = CenterLoss(4, 3), np.zeros((4, 3))
    for seed in range(5):
        embedding = normal(10, 3, seed=seed)
        labels = torch.from_numpy(np.random.default_rng(seed).integers(-1, 3, 10))
        found = loss(embedding, labels)
        x, sums, rows = embedding.double().numpy(), np.zeros((4, 3)), np.zeros(4)
        for i, label in enumerate(labels.tolist()):
            expected = 0.0 if label < 0 else 0.5 * ((x[i] - centers[label]) ** 2).sum()
            assert found[i].item() == pytest.approx(expected, rel=1e-5)
            if label >= 0:
                sums[label] += centers[label] - x[i]
                rows[label] += 1
        centers -= 0.5 * sums / (1 + rows)[:, None]
        np.testing.assert_allclose(loss.centers, centers, rtol=1e-5, atol=1e-6)
    assert (loss.centers[3] == 0).all()  # whom no row shows


def test_the_gradient_of_the_centre_loss_is_that_of_the_loss():
    loss, labels = CenterLoss(3, 4).double(), torch.tensor([0, 1, -1, 2, 0])
    with torch.no_grad():
        loss.centers.copy_(normal(3, 4, seed=5))
    x = normal(5, 4).double().requires_grad_()
    loss(x, labels).sum().backward()
    expected = x.detach() - normal(3, 4, seed=5).double()[labels.clamp(min=0)]
    expected[2] = 0
    torch.testing.assert_close(x.grad, expected)


def test_a_look_without_gradients_moves_no_centre():
    loss = CenterLoss(3, 4)
    with torch.inference_mode():
        loss(normal(6, 4), torch.arange(6) % 3)
    assert (loss.centers == 0).all()


def test_rows_come_close_to_the_centre_of_their_class_and_centres_to_their_mean():
    loss, labels = CenterLoss(2, 3), torch.arange(40) % 2
    rows = normal(40, 3) + 5 * labels[:, None]
    for _ in range(60):
        loss(rows, labels)
    for c in range(2):
        torch.testing.assert_close(loss.centers[c], rows[labels == c].mean(0), rtol=1e-4, atol=1e-4)


def test_an_overflow_in_half_precision_does_not_stay_in_a_centre():
    loss, embedding = CenterLoss(2, 3), torch.ones(3, 3)
    embedding[0, 1] = torch.inf
    found = loss(embedding, torch.tensor([0, 0, 1]))
    assert found[0] == torch.inf  # the loss scaler must see it
    np.testing.assert_allclose(loss.centers, [[0.25] * 3, [0.25] * 3])


def test_centres_come_back_from_a_state_and_nothing_else_is_in_it():
    settings = Train(center_weight=0.1, class_weights={"a": 2}, loss="cross_entropy")
    targets = np.eye(3, dtype=np.float32)
    loss = create_loss("multiclass", settings, list("abc"), targets, features=4)
    loss(Output(normal(6, 3), normal(6, 4)), torch.eye(3)[torch.arange(6) % 3])
    state = loss.state_dict()
    assert [*state] == ["center.centers"]
    assert list(loss.parameters()) == []
    other = create_loss("multiclass", settings, list("abc"), targets, features=4)
    other.load_state_dict(state)
    batch = Output(normal(6, 3, seed=2), normal(6, 4, seed=2)), torch.eye(3)[torch.arange(6) % 3]
    assert torch.equal(loss(*batch), other(*batch))


# --- beside a loss of classes -------------------------------------------------------------------------------


def loss_of(task: str, name: str = "cross_entropy", features: int = 8, **settings):
    values = {"loss": name, "label_smoothing": 0.0, **settings}
    return create_loss(task, Train(**values), list("abcdef"), features=features)


def batch(task: str, rows: int = 24, seed: int = 0) -> tuple[Output, torch.Tensor]:
    labels = torch.arange(rows) % 6
    targets = labels[:, None].float() if task == "retrieval" else torch.eye(6)[labels]
    return Output(normal(rows, 6, seed=seed), normal(rows, 8, seed=seed)), targets


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["cross_entropy", "arcface"])
@pytest.mark.parametrize("task", ["multiclass", "retrieval"])
def test_the_triplet_stands_beside_a_loss_by_its_weight(task, name, weight):
    output, targets = batch(task)
    plain = loss_of(task, name, margin={"triplet_weight": 0})(output, targets)
    found = loss_of(task, name, margin={"triplet_weight": weight, "triplet": 0.6})(output, targets)
    hard = batch_hard_triplet(output.embedding, torch.arange(24) % 6, 0.6)
    assert hard.sum() > 0
    torch.testing.assert_close(found, plain + weight * hard)


def test_by_itself_the_triplet_counts_fully_in_retrieval_and_not_at_all_elsewhere():
    for task, weight in (("retrieval", 1.0), ("multiclass", 0.0)):
        output, targets = batch(task)
        default = loss_of(task)(output, targets)
        assert torch.equal(default, loss_of(task, margin={"triplet_weight": weight})(output, targets))
        assert not torch.equal(default, loss_of(task, margin={"triplet_weight": 0.5})(output, targets))


def test_the_centre_loss_stands_beside_a_loss_by_its_weight_and_looks_at_the_whole_alone():
    output, targets = batch("multiclass")
    part = Output(normal(24, 6, seed=4), normal(24, 3, seed=4))  # of another length
    plain = loss_of("multiclass")(Output(output.logits, output.embedding, [part]), targets)
    loss, alone = loss_of("multiclass", center_weight=0.3), CenterLoss(6, 8)
    for _ in range(3):
        found = loss(Output(output.logits, output.embedding, [part]), targets)
        torch.testing.assert_close(found, plain + 0.3 * alone(output.embedding, torch.arange(24) % 6))


def test_a_mixed_row_is_nobodys_like_and_moves_no_centre():
    output, targets = batch("multiclass")
    mixed = targets.clone()
    mixed[::4] = 0.6 * mixed[::4] + 0.4 * mixed[::4].roll(1, 1)
    mixed[1] = 0.95 * mixed[1] + 0.05 * mixed[1].roll(1, 0)  # a pseudo-label, nearly sure, counts
    loss = loss_of("multiclass", center_weight=1.0, margin={"triplet_weight": 1.0})
    found = loss(output, mixed) - loss_of("multiclass")(output, mixed)
    labels = (torch.arange(24) % 6).masked_fill(torch.arange(24) % 4 == 0, -1)
    beside = batch_hard_triplet(output.embedding, labels, "soft")
    alone = CenterLoss(6, 8)
    torch.testing.assert_close(found, beside + alone(output.embedding, labels), rtol=1e-4, atol=1e-5)
    assert (found[::4] == 0).all()
    torch.testing.assert_close(loss.center.centers, alone.centers)


@pytest.mark.parametrize("name", ["cross_entropy", "arcface"])
@pytest.mark.parametrize("beside", [0.0, 1.0])
def test_unknown_rows_cost_nothing_and_change_nothing_for_the_others(beside, name):
    output, targets = batch("retrieval")
    more = {"margin": {"triplet_weight": beside}, "center_weight": beside or None}
    known = torch.arange(24) % 5 != 2
    holes = torch.where(known[:, None], targets, torch.nan)
    found = loss_of("retrieval", name, **more)(output, holes)
    alone = loss_of("retrieval", name, **more)(
        Output(output.logits[known], output.embedding[known]), targets[known]
    )
    assert (found[~known] == 0).all()
    torch.testing.assert_close(found[known], alone)
    output.embedding.requires_grad_()
    output.logits.requires_grad_()
    loss_of("retrieval", name, **more)(output, holes).sum().backward()
    assert (output.logits.grad[~known] == 0).all()
    assert torch.isfinite(output.logits.grad).all()
    if beside:
        assert (output.embedding.grad[~known] == 0).all()
        assert torch.isfinite(output.embedding.grad).all()


def test_a_batch_of_unknown_rows_alone_costs_nothing():
    output, targets = batch("retrieval")
    found = loss_of("retrieval", center_weight=1.0)(output, torch.full_like(targets, torch.nan))
    assert found.tolist() == [0.0] * 24


def test_an_embedding_that_is_not_finite_is_not_hidden():
    output, targets = batch("retrieval")
    output.embedding[3] = torch.nan
    assert loss_of("retrieval")(output, targets).isnan()[3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_taken_to_float32_first_also_under_autocast(dtype):
    output, targets = batch("retrieval")
    halves = Output(output.logits.to(dtype), output.embedding.to(dtype))
    wide = Output(halves.logits.float(), halves.embedding.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_of("retrieval", "arcface", center_weight=0.1)(halves, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss_of("retrieval", "arcface", center_weight=0.1)(wide, targets))


def test_under_autocast_the_hardest_are_still_found_among_rows_that_a_half_cannot_tell_apart():
    embedding, labels = normal(30, 4) * 0.02 + torch.tensor([1.0, 0, 0, 0]), torch.arange(30) % 5
    logits, targets = torch.zeros(30, 6), labels[:, None].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (embedding @ embedding.T).unique().numel() < 50  # of 435 pairs
        found = loss_of("retrieval", margin={"triplet": 0.1})(Output(logits, embedding), targets)
    expected = triplet_by_loops(embedding, labels, 0.1)
    np.testing.assert_allclose(found - math.log(6), expected, rtol=1e-3, atol=1e-5)
