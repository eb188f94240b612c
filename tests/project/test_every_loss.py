"""What holds of every loss of every task: one value a row, its gradient, soft and unknown targets, halves,
parts."""

from __future__ import annotations

import pytest
import torch

from src.config import LOSSES, MARGINS, Config, Train
from src.losses.build import create_loss
from src.losses.margins import margin_scale
from src.models.output import Output

CLASSES = ("multiclass", "retrieval")
EVERY = [(task, name) for task, names in LOSSES.items() for name in names]
SMOOTH = [pair for pair in EVERY if pair[1] != "sphereface"]  # whose gradient is detached, see its own test
OUTPUTS = {"binary": 1, "segmentation": 2}  # of the others 4
EDGE = 6e4  # about as far as fp16 goes


def normal(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def settings_of(task: str, name: str, **more) -> Train:
    """Without a triplet, which looks at other rows, and without smoothing."""
    margin = {"triplet_weight": 0.0 if task == "retrieval" else None} | more.pop("margin", {})
    values = {"loss": name, "label_smoothing": 0.0, "margin": margin, **more}
    return Config(task={"name": task}, train=values).train


def loss_of(task: str, name: str, targets=None, features: int = 0, **more):
    names = [f"class {i}" for i in range(OUTPUTS.get(task, 4))]
    return create_loss(task, settings_of(task, name, **more), names, targets, features)


def logits_of(task: str, name: str, rows: int = 6, seed: int = 0) -> torch.Tensor:
    """What a network may say: any numbers; of a margin loss cosines times its scale; of masks maps."""
    outputs = OUTPUTS.get(task, 4)
    if task == "segmentation":
        return normal(rows, outputs, 3, 4, seed=seed)
    if name in MARGINS:
        return margin_scale(Train().margin, outputs) * 0.9 * normal(rows, outputs, seed=seed).tanh()
    return normal(rows, outputs, seed=seed)


def hard_targets(task: str, rows: int = 6) -> torch.Tensor:
    outputs = OUTPUTS.get(task, 4)
    if task == "retrieval":
        return torch.arange(rows)[:, None].double() % outputs
    if task == "multiclass":
        return torch.eye(outputs, dtype=torch.float64)[torch.arange(rows) % outputs]
    if task == "regression":
        return normal(rows, outputs, seed=7)
    if task == "segmentation":  # classes that exclude each other suit every loss
        index = (normal(rows, 1, 3, 4, seed=7) > 0).long() + (normal(rows, 1, 3, 4, seed=8) > 0).long()
        return torch.cat([index == 1, index == 2], dim=1).double()
    return (normal(rows, outputs, seed=7) > 0).double()


def soft_targets(task: str, rows: int = 6) -> torch.Tensor:
    """As mixing and pseudo-labels give them."""
    share = torch.linspace(0.15, 0.95, rows, dtype=torch.float64)
    hard = hard_targets(task, rows)
    if task == "retrieval":
        hard = torch.eye(4, dtype=torch.float64)[hard[:, 0].long()]
    share = share.view(-1, *[1] * (hard.ndim - 1))
    return share * hard + (1 - share) * hard.roll(1, 0)


def output_of(logits: torch.Tensor) -> Output:
    """An output whose embedding no loss of logits should look at."""
    return Output(logits, torch.full((len(logits), 3), torch.nan, dtype=logits.dtype))


@pytest.mark.parametrize("targets", [hard_targets, soft_targets], ids=["hard", "soft"])
@pytest.mark.parametrize(("task", "name"), SMOOTH)
def test_the_gradient_is_that_of_the_loss(task, name, targets):
    loss, wanted = loss_of(task, name), targets(task)
    logits = logits_of(task, name).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(output_of(x), wanted), (logits,), atol=1e-6)


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_it_is_one_value_a_row_that_no_other_row_changes(task, name):
    loss, logits, targets = loss_of(task, name), logits_of(task, name), soft_targets(task)
    found = loss(output_of(logits), targets)
    assert found.shape == (6,)
    assert (found >= 0).all()
    alone = torch.cat([loss(output_of(logits[i : i + 1]), targets[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(found, alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("task", "name"), EVERY)
def test_it_is_reckoned_in_float32_also_of_halves_and_under_autocast(task, name, dtype):
    loss, targets = loss_of(task, name), hard_targets(task).float()
    halves = logits_of(task, name).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(output_of(halves), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(output_of(halves.float()), targets))
    torch.testing.assert_close(
        found.double(), loss(output_of(halves.double()), targets.double()), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("targets", [hard_targets, soft_targets], ids=["hard", "soft"])
@pytest.mark.parametrize(("task", "name"), EVERY)
def test_the_ends_of_half_precision_have_finite_losses_and_gradients(task, name, targets):
    """Certain and right, certain and wrong, all certain, none; for margins cosines of 1 and of -1."""
    end = margin_scale(Train().margin, OUTPUTS.get(task, 4)) if name in MARGINS else EDGE
    signs = logits_of(task, name).sign()
    for logits in (end * signs, -end * signs, torch.full_like(signs, end), torch.full_like(signs, -end)):
        logits = logits.float().requires_grad_()
        found = loss_of(task, name)(output_of(logits), targets(task).float())
        found.sum().backward()
        assert torch.isfinite(found).all()
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_a_row_of_which_nothing_is_known_costs_nothing_and_changes_no_other(task, name):
    loss, targets = loss_of(task, name), hard_targets(task)
    logits = logits_of(task, name).requires_grad_()
    whole = loss(output_of(logits), targets).detach()
    targets[2] = torch.nan
    found = loss(output_of(logits), targets)
    found.sum().backward()
    assert found[2] == 0
    assert logits.grad[2].count_nonzero() == 0
    assert torch.isfinite(logits.grad).all()
    others = torch.arange(6) != 2
    assert torch.equal(found.detach()[others], whole[others])


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_a_right_answer_costs_less_than_a_wrong_one_and_a_step_down_the_gradient_less_again(task, name):
    loss, targets = loss_of(task, name), hard_targets(task)
    if task == "regression":
        right, wrong = targets, targets + 3
    else:
        shares = torch.eye(4, dtype=torch.float64)[targets[:, 0].long()] if task == "retrieval" else targets
        size = margin_scale(Train().margin, 4) if name in MARGINS else 8.0
        right, wrong = size * (2 * shares - 1), size * (1 - 2 * shares)
    assert (loss(output_of(right), targets) < loss(output_of(wrong), targets)).all()
    logits = logits_of(task, name).requires_grad_()
    before = loss(output_of(logits), targets).sum()
    before.backward()
    after = loss(output_of(logits.detach() - 1e-3 * logits.grad), targets).sum()
    assert after < before


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_of_a_network_with_parts_it_is_the_mean_over_the_whole_and_the_parts(task, name):
    loss, targets = loss_of(task, name), hard_targets(task)
    views = [output_of(logits_of(task, name, seed=seed)) for seed in range(3)]
    expected = torch.stack([loss(view, targets) for view in views]).mean(0)
    together = Output(views[0].logits, views[0].embedding, parts=views[1:])
    torch.testing.assert_close(loss(together, targets), expected)
    assert not torch.allclose(expected, loss(views[0], targets))


LINEAR = [(t, n) for t, n in EVERY if t in CLASSES and n != "symmetric_cross_entropy"]
LINEAR += [("binary", "bce"), ("binary", "asymmetric"), ("multilabel", "hinge")]


@pytest.mark.parametrize(("task", "name"), LINEAR)
def test_a_mixed_row_loses_its_shares_of_what_it_would_lose_as_each(task, name):
    loss, logits = loss_of(task, name), logits_of(task, name)
    share = torch.linspace(0, 1, 6, dtype=torch.float64)
    one = torch.eye(4, dtype=torch.float64)[torch.arange(6) % 4]
    other = one.roll(1, 1)
    if task in ("binary", "multilabel"):
        one, other = hard_targets(task), 1 - hard_targets(task)
    mixed = share[:, None] * one + (1 - share[:, None]) * other
    found = loss(output_of(logits), mixed)
    expected = share * loss(output_of(logits), one) + (1 - share) * loss(output_of(logits), other)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_all_it_reckons_with_is_on_the_device_of_the_network(task, name):
    """The meta device refuses to mix as a GPU does: weights, margins by class and centres go along."""
    weighs = task in ("binary", "multilabel", *CLASSES) and name not in ("fbeta", "lovasz")
    more = {"class_weights": "inverse"} if weighs else {}
    if task in CLASSES:
        rarest = {"arcface": 0.5, "cosface": 0.5, "sphereface": 2.0}.get(name)
        more |= {"center_weight": 0.1, "margin": {"triplet_weight": 1.0, "rarest": rarest}}
    loss = loss_of(task, name, hard_targets(task).numpy(), features=3, **more).to("meta")
    logits, targets = logits_of(task, name).float().to("meta"), hard_targets(task).float().to("meta")
    whole = Output(logits, torch.zeros(6, 3, device="meta"))
    found = loss.of_views([whole], targets)  # there is no autocast to switch off on that device
    assert (found.device.type, found.shape) == ("meta", (6,))


def test_numbers_of_classes_and_their_shares_are_the_same_targets():
    logits, numbers = logits_of("retrieval", "arcface"), hard_targets("retrieval")
    shares = torch.eye(4, dtype=torch.float64)[numbers[:, 0].long()]
    for name in LOSSES["retrieval"]:
        loss = loss_of("retrieval", name)
        assert torch.equal(loss(output_of(logits), numbers), loss(output_of(logits), shares))
