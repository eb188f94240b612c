"""Relational distillation: against loops over pairs and triples, and where rows lie on each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.losses.relations import relations


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def by_loops(pupil: np.ndarray, teacher: np.ndarray) -> list[float]:
    """The paper's two losses, row by row: distances in units of their mean, cosines of angles."""
    n, scaled, cosines = len(pupil), [], []
    for x in (pupil, teacher):
        far = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(n)] for i in range(n)])
        scaled.append(far / far[far > 0].mean())
        cosines.append(lambda i, a, b, x=x, far=far: (x[a] - x[i]) @ (x[b] - x[i]) / (far[i, a] * far[i, b]))
    found = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        distance = np.mean([huber(scaled[0][i, j] - scaled[1][i, j]) for j in others])
        pairs = [(a, b) for a in others for b in others if a != b]
        angle = np.mean([huber(cosines[0](i, a, b) - cosines[1](i, a, b)) for a, b in pairs])
        found.append(distance + 2 * angle)
    return found


def test_it_is_the_papers_loss_row_by_row_of_embeddings_of_any_lengths():
    pupil, teacher = normal(6, 3) * 4, normal(6, 9, seed=1)
    expected = by_loops(pupil.numpy(), teacher.numpy())
    np.testing.assert_allclose(relations(pupil, teacher), expected, rtol=1e-9)
    found = relations(pupil.float(), teacher.float())
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_turned_moved_and_larger_copy_says_the_same():
    teacher = normal(8, 5)
    turn, _ = torch.linalg.qr(normal(5, 5, seed=2))
    assert relations(3 * teacher @ turn + 7, teacher).abs().max() < 1e-12
    assert relations(normal(8, 5, seed=3), teacher).min() > 0.01


def test_the_gradient_is_that_of_finite_differences():
    pupil, teacher = normal(5, 3).requires_grad_(), normal(5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: relations(x, teacher), pupil)


@pytest.mark.parametrize("which", ["pupil", "teacher", "both"])
def test_rows_that_lie_on_each_other_have_finite_gradients(which):
    twins = normal(4, 3).float()[[0, 0, 1, 2, 2]]
    others = normal(5, 3, seed=1).float()
    pupil = (others if which == "teacher" else twins).clone().requires_grad_()
    losses = relations(pupil, others if which == "pupil" else twins)
    losses.sum().backward()
    assert torch.isfinite(losses).all()
    assert torch.isfinite(pupil.grad).all()


def test_one_row_or_one_and_the_same_has_nothing_to_relate_to():
    for rows in (normal(1, 3), normal(1, 3).expand(4, 3).clone()):
        pupil = rows.requires_grad_()
        losses = relations(pupil, rows.detach())
        assert losses.abs().max() == 0
        losses.sum().backward()
        assert pupil.grad.abs().max() == 0


def test_half_precision_is_reckoned_in_full():
    pupil, teacher = ((100 * normal(6, 400, seed=i)).half() for i in (0, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = relations(pupil.requires_grad_(), teacher)
    torch.testing.assert_close(found, relations(pupil.float(), teacher.float()))
    found.sum().backward()
    assert torch.isfinite(pupil.grad).all()
