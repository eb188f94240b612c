"""Class weights by the rows that train, and what is left of a batch when its hardest rows alone count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from src.config import Train, UserError
from src.losses.balance import class_counts, weights_of_classes, weights_of_labels
from src.losses.build import create_loss
from src.losses.reduction import ohem_weights, reduce
from src.models.output import Output

NAMES = ["ant", "bee", "cat"]
LABELS = np.repeat([0, 1, 2], [70, 20, 10])
SHARES = np.eye(3, dtype=np.float32)[LABELS]
MANY = np.random.default_rng(0).random((200, 3)) < [0.5, 0.1, 0.02]


def weights(kind, **more) -> np.ndarray:
    return weights_of_classes(Train(class_weights=kind, **more), SHARES, NAMES).numpy()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- weights of classes -------------------------------------------------------------------------------------


def test_inverse_weights_are_scikit_learns_balanced_ones():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    np.testing.assert_allclose(weights("inverse"), expected)


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_effective_weights_are_those_of_the_papers_effective_number(beta):
    """Cui et al., equation 2: (1 - beta) / (1 - beta^n), here scaled to a mean of 1 over the rows."""
    raw = np.array([(1 - beta) / (1 - beta**n) for n in (70, 20, 10)])
    expected = raw * 100 / (raw * [70, 20, 10]).sum()
    np.testing.assert_allclose(weights("effective", effective_beta=beta), expected)


def test_effective_weights_go_from_none_to_inverse_as_beta_rises():
    np.testing.assert_allclose(weights("effective", effective_beta=1e-9), [1, 1, 1])
    np.testing.assert_allclose(weights("effective", effective_beta=1 - 1e-9), weights("inverse"), rtol=1e-6)


def test_named_weights_keep_their_ratio_and_those_not_named_stand_at_one():
    found = weights({"cat": 5.0, "bee": 2.0})
    np.testing.assert_allclose(found / found[0], [1, 2, 5])


@pytest.mark.parametrize("kind", ["inverse", "effective", {"cat": 5.0}])
def test_the_mean_weight_over_the_training_rows_is_one(kind):
    assert weights(kind)[LABELS].mean() == pytest.approx(1)
    numbers = LABELS[:, None].astype(np.float32)  # as retrieval has them
    same = weights_of_classes(Train(class_weights=kind), numbers, NAMES)
    np.testing.assert_allclose(same, weights(kind))


def test_a_class_that_no_training_row_shows_has_a_finite_weight():
    found = weights_of_classes(Train(class_weights="inverse"), SHARES[LABELS < 2], NAMES)
    assert found.isfinite().all()
    assert found.numpy()[LABELS[LABELS < 2]].mean() == pytest.approx(1)


def test_a_class_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(
        UserError,
        match=r"train.class_weights: there is no class 'dog'; name some of ant, bee, cat, .* \{ant: 2\}",
    ):
        weights({"dog": 2.0})


def test_rows_are_counted_by_their_shares_and_unknown_ones_not_at_all():
    soft = np.array([[0.5, 0.5, 0], [0, 0.25, 0.75], [np.nan] * 3])
    assert class_counts(soft, 3).tolist() == [0.5, 0.75, 0.75]
    assert class_counts(np.array([[2.0], [2.0], [0.0], [np.nan]]), 3).tolist() == [1, 0, 2]


# --- weights of labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["inverse", "effective", {"bee": 4.0}])
def test_the_mean_weight_of_a_label_over_the_training_rows_is_one(kind):
    no, yes = weights_of_labels(Train(class_weights=kind), MANY.astype(np.float32), NAMES).numpy()
    np.testing.assert_allclose(np.where(MANY, yes, no).mean(0), 1)


def test_inverse_weights_of_a_label_are_scikit_learns_and_their_ratio_torchs_pos_weight():
    no, yes = weights_of_labels(Train(class_weights="inverse"), MANY.astype(np.float32), NAMES).numpy()
    for c in range(3):
        expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=MANY[:, c].astype(int))
        np.testing.assert_allclose([no[c], yes[c]], expected)
    counts = MANY.sum(0)
    np.testing.assert_allclose(yes / no, (200 - counts) / counts)


def test_a_named_label_has_that_weight_for_its_yes_beside_one_for_its_no():
    no, yes = weights_of_labels(Train(class_weights={"bee": 4.0}), MANY.astype(np.float32), NAMES).numpy()
    np.testing.assert_allclose(yes / no, [1, 4, 1])


def test_unknown_labels_are_counted_on_neither_side():
    targets = np.array([[1.0], [0.0], [0.0], [0.0], [np.nan], [np.nan]], np.float32)
    no, yes = weights_of_labels(Train(class_weights="inverse"), targets, ["ant"])
    np.testing.assert_allclose([no.item(), yes.item()], [4 / 6, 4 / 2])


# --- in the loss --------------------------------------------------------------------------------------------


def loss_of(task: str, name: str, targets=SHARES, **more):
    settings = Train(loss=name, **{"label_smoothing": 0.0, "margin": {"triplet_weight": 0}} | more)
    return create_loss(task, settings, NAMES, targets)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "arcface"])
def test_a_row_counts_what_its_class_does_and_a_mixed_one_by_its_shares(name):
    logits, shares = normal(12, 3), torch.eye(3)[torch.arange(12) % 3]
    shares[0] = torch.tensor([0.6, 0.0, 0.4])
    plain = loss_of("multiclass", name)(Output(logits, logits), shares)
    found = loss_of("multiclass", name, class_weights="inverse")(Output(logits, logits), shares)
    expected = torch.tensor(weights("inverse"), dtype=torch.float32)
    torch.testing.assert_close(found, plain * (shares @ expected))


def test_weighted_cross_entropy_is_torchs_of_indices():
    logits, labels = normal(12, 3), torch.arange(12) % 3
    weight = torch.tensor(weights("inverse"), dtype=torch.float32)
    expected = torch.nn.CrossEntropyLoss(weight, reduction="none")(logits, labels)
    loss = loss_of("multiclass", "cross_entropy", class_weights="inverse")
    torch.testing.assert_close(loss(Output(logits, logits), torch.eye(3)[labels]), expected)


def test_weighted_binary_cross_entropy_is_torchs_with_its_pos_weight_scaled():
    logits, targets = normal(12, 3), (normal(12, 3, seed=1) > 0).float()
    table = MANY.astype(np.float32)
    no, yes = weights_of_labels(Train(class_weights="inverse"), table, NAMES).float()
    torchs = torch.nn.BCEWithLogitsLoss(reduction="none", pos_weight=yes / no)(logits, targets)
    loss = loss_of("multilabel", "bce", table, class_weights="inverse")
    torch.testing.assert_close(loss(Output(logits, logits), targets), (no * torchs).mean(1))


@pytest.mark.parametrize("name", ["bce", "focal", "asymmetric", "hinge"])
def test_cells_count_what_their_side_does_and_unknown_ones_nothing(name):
    logits, targets = normal(12, 3), (normal(12, 3, seed=1) > 0).float()
    table = MANY.astype(np.float32)
    targets[2, 1] = torch.nan
    no, yes = weights_of_labels(Train(class_weights="effective"), table, NAMES).float()
    found = loss_of("multilabel", name, table, class_weights="effective")(Output(logits, logits), targets)
    plain = loss_of("multilabel", name, table)
    for row in range(12):
        cells = []
        for c in range(3):
            if not targets[row, c].isnan():
                alone = torch.full((1, 3), torch.nan)
                alone[0, c] = targets[row, c]
                cell = plain(Output(logits[row : row + 1], logits[:1]), alone).item()
                cells.append(cell * (yes[c] if targets[row, c] == 1 else no[c]).item())
        assert found[row].item() == pytest.approx(np.mean(cells), rel=1e-5)


# --- the hardest rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 10])
def test_of_rows_that_count_alike_the_hardest_are_torchs_top_k(k):
    losses = normal(10).square().requires_grad_()
    found = reduce(losses, torch.ones(10), 10.0, top_share=k / 10)
    torch.testing.assert_close(found, losses.detach().topk(k).values.mean())
    found.backward()
    expected = torch.zeros(10).index_fill(0, losses.detach().topk(k).indices, 1 / k)
    torch.testing.assert_close(losses.grad, expected)


def test_a_row_of_weight_three_counts_as_three_rows():
    losses, repeats = normal(6).square(), torch.tensor([3, 1, 2, 1, 4, 1])
    one_by_one = losses.repeat_interleave(repeats)
    for k in range(1, 13):
        found = reduce(losses, repeats.float(), 12.0, top_share=k / 12)
        torch.testing.assert_close(found, one_by_one.topk(k).values.mean())


def test_the_last_row_counts_in_part_so_that_a_batch_gives_exactly_its_share():
    losses, given = torch.tensor([1.0, 4.0, 3.0, 2.0]), torch.tensor([1.0, 0.5, 2.0, 1.0])
    assert ohem_weights(losses, given, 0.4).tolist() == pytest.approx([0, 0.5, 1.3, 0])
    for share in (0.05, 0.33, 0.7, 1.0):
        assert ohem_weights(losses, given, share).sum().item() == pytest.approx(share * 4.5)
    assert torch.equal(ohem_weights(losses, given, 1.0), given)


def test_the_whole_of_a_batch_is_the_plain_mean():
    losses, given = normal(9).square(), normal(9, seed=1).square()
    total = given.sum().item()
    torch.testing.assert_close(reduce(losses, given, total, top_share=1.0), reduce(losses, given, total))


def test_with_accumulation_every_batch_gives_its_own_hardest_by_its_weight_in_the_window():
    losses, given = normal(16).square(), 1 + normal(16, seed=1).square()
    parts = [slice(0, 10), slice(10, 16)]
    total = given.sum().item()
    found = sum(reduce(losses[part], given[part], total, top_share=0.3) for part in parts)
    means = [reduce(losses[part], given[part], given[part].sum().item(), top_share=0.3) for part in parts]
    expected = sum(mean * given[part].sum() for mean, part in zip(means, parts, strict=True)) / total
    torch.testing.assert_close(found, expected)


def test_a_loss_that_is_no_number_is_not_hidden_among_the_easy_ones():
    losses = torch.tensor([1.0, torch.nan, 3.0, 2.0])
    assert reduce(losses, torch.ones(4), 4.0, top_share=0.25).isnan()
