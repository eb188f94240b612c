"""Heads and necks: sub-centres, dropout many times, and the batch norm between distances and classes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from networks import architecture, images
from torch.autograd import gradcheck

from src.config import Train, UserError
from src.losses.build import create_loss
from src.losses.triplet import batch_hard_triplet
from src.models.build import create_model, embedding_length
from src.models.heads import CosineHead, LinearHead
from src.models.necks import BNNeck
from src.models.output import Output


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


# --- sub-centres --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subcenters", [2, 3])
def test_a_cosine_is_that_of_the_nearest_of_an_outputs_directions(subcenters):
    torch.manual_seed(0)
    head, embedding = CosineHead(7, 4, subcenters=subcenters), 3 * normal(5, 7)
    assert head.weight.shape == (4 * subcenters, 7)
    found = head(embedding)
    for row in range(5):
        for output in range(4):
            own = range(output * subcenters, (output + 1) * subcenters)
            best = max(F.cosine_similarity(embedding[row], head.weight[k], dim=0).item() for k in own)
            assert found[row, output].item() == pytest.approx(best, abs=1e-6)


def test_the_scale_multiplies_the_cosine_of_the_nearest_direction():
    torch.manual_seed(0)
    plain = CosineHead(7, 4, subcenters=2)
    torch.manual_seed(0)
    scaled = CosineHead(7, 4, subcenters=2, scale=12.0)
    torch.testing.assert_close(scaled(normal(5, 7)), 12 * plain(normal(5, 7)))


def test_one_sub_centre_is_the_plain_head():
    torch.manual_seed(0)
    one = CosineHead(7, 4, subcenters=1)
    torch.manual_seed(0)
    plain = CosineHead(7, 4)
    assert torch.equal(one(normal(5, 7)), plain(normal(5, 7)))


def test_only_the_nearest_direction_learns():
    head = CosineHead(2, 1, subcenters=2)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    head(torch.tensor([[1.0, 0.1]])).sum().backward()
    assert head.weight.grad[0].abs().sum() > 0
    assert head.weight.grad[1].tolist() == [0, 0]


def test_the_gradient_through_sub_centres_is_right():
    head = CosineHead(5, 3, subcenters=2).double()
    embedding = normal(4, 5, dtype=torch.float64).requires_grad_()
    weight = normal(6, 5, seed=1, dtype=torch.float64).requires_grad_()

    def cosines(embedding, weight):
        return torch.func.functional_call(head, {"weight": weight}, embedding)

    assert gradcheck(cosines, (embedding, weight))


def test_sub_centres_of_a_linear_head_are_refused():
    with pytest.raises(UserError, match=r"^model.subcenters=3 is for the cosine head of a margin loss"):
        create_model(architecture(subcenters=3))


# --- dropout many times -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LinearHead, CosineHead])
def test_logits_are_averaged_over_the_masks_in_training(kind):
    torch.manual_seed(0)
    head, embedding = kind(20, 3, drop_rate=0.5, samples=4).train(), normal(6, 20)
    torch.manual_seed(7)
    found = head(embedding)
    torch.manual_seed(7)
    masks = [F.dropout(embedding, 0.5) for _ in range(4)]
    assert not torch.equal(masks[0], masks[1])
    torch.testing.assert_close(found, torch.stack([head.logits(x) for x in masks]).mean(0))


@pytest.mark.parametrize("kind", [LinearHead, CosineHead])
def test_many_masks_change_nothing_in_evaluation(kind):
    head = kind(20, 3, drop_rate=0.5, samples=4).eval()
    assert torch.equal(head(normal(6, 20)), head.logits(normal(6, 20)))


def test_many_masks_are_calmer_than_one():
    torch.manual_seed(0)
    one, many = LinearHead(50, 1, 0.5).train(), LinearHead(50, 1, 0.5, samples=16).train()
    many.load_state_dict(one.state_dict())
    embedding = normal(1, 50).expand(4000, -1)
    with torch.no_grad():
        ratio = one(embedding).std() / many(embedding).std()
    assert ratio.item() == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("embedding", [None, 24])
def test_with_many_masks_features_are_dropped_once_and_before_the_head(embedding):
    model = create_model(architecture(embedding=embedding, drop_rate=0.25, dropout_samples=3))
    dropped = {
        name: module.p
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Dropout) and not name.startswith("backbone") and module.p
    }
    assert dropped == {"head.dropout": 0.25}


# --- BNNeck -------------------------------------------------------------------------------------------------


def test_a_bnneck_is_a_batch_norm_that_scales_and_does_not_shift():
    torch.manual_seed(0)
    neck, x = BNNeck(6), 3 * normal(50, 6) + 5
    with torch.no_grad():
        neck.weight.uniform_(0.5, 2)
    reference = torch.nn.BatchNorm1d(6)
    with torch.no_grad():
        reference.weight.copy_(neck.weight)
    torch.testing.assert_close(neck(x), reference(x))
    torch.testing.assert_close(neck(x).mean(0), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(neck.eval()(x), neck.weight * F.batch_norm(x, *statistics(neck)))
    assert [name for name, _ in neck.named_parameters()] == ["weight"]


def statistics(neck: BNNeck) -> tuple[torch.Tensor, torch.Tensor]:
    return neck.norm.running_mean, neck.norm.running_var


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("embedding", [None, 24])
def test_distances_are_learned_before_the_neck_and_classes_after_it(head, embedding):
    torch.manual_seed(0)
    model = create_model(architecture(head=head, embedding=embedding, neck="bnneck"))
    output = model(images(n=8))
    torch.testing.assert_close(output.embedding, model.bnneck(output.metric))
    torch.testing.assert_close(output.logits, model.head(output.embedding))
    assert (output.metric - output.embedding).abs().mean() > 0.05
    torch.testing.assert_close(output.embedding.mean(0), torch.zeros(embedding or 96), rtol=0, atol=1e-4)
    names = {name for name, _ in model.named_parameters() if not name.startswith("backbone")}
    linear = {"linear": "head.linear.weight", "cosine": "head.weight"}[head]
    assert names == {"bnneck.weight", linear} | ({"neck.linear.weight"} if embedding else set())


def test_without_a_neck_both_embeddings_are_one():
    output = create_model(architecture())(images())
    assert output.metric is output.embedding


def test_the_triplet_goes_by_the_distances_before_the_neck():
    labels = torch.tensor([0, 0, 1, 1])
    output = Output(normal(4, 2).clamp(-1, 1), normal(4, 3, seed=1), metric=normal(4, 3, seed=2))
    both, alone = (
        create_loss("retrieval", Train(loss="arcface", margin={"triplet_weight": weight}), ["a", "b"])
        for weight in (1.0, 0.0)
    )
    targets = labels[:, None].float()
    hard = batch_hard_triplet(output.metric, labels, "soft")
    torch.testing.assert_close(both(output, targets) - alone(output, targets), hard)


def test_the_centres_are_of_what_lies_before_the_neck():
    output = Output(normal(4, 2), normal(4, 3, seed=1), metric=normal(4, 3, seed=2))
    both, alone = (
        create_loss("multiclass", Train(center_weight=weight), ["a", "b"], features=3)
        for weight in (1.0, 0.0)
    )
    targets = torch.eye(2)[[0, 0, 1, 1]]
    half = 0.5 * output.metric.square().sum(1)  # centres begin at 0
    torch.testing.assert_close(both(output, targets) - alone(output, targets), half)


def test_the_length_of_what_distances_are_learned_of_is_that_of_the_whole_in_training_and_evaluation():
    model = create_model(architecture(size=64, embedding=12, neck="bnneck", parts="pcb", stripes=2))
    assert embedding_length(model) == 12
    for mode in (True, False):
        assert model.train(mode)(images(64)).metric.shape[1] == 12


# --- several answers as one ---------------------------------------------------------------------------------


def test_the_cosine_of_fused_embeddings_is_the_mean_of_the_parts_cosines():
    def one(seed: int) -> Output:
        return Output(
            normal(4, 5, seed=seed), normal(4, 3 + seed, seed=seed), metric=normal(4, 2, seed=9 + seed)
        )

    whole = one(0)
    whole.parts = [one(1), one(2)]
    fused = whole.fused()
    torch.testing.assert_close(fused.logits, sum(x.logits for x in whole.all()) / 3)
    assert fused.embedding.shape == (4, 3 + 4 + 5)
    assert fused.parts is None
    cosine = F.cosine_similarity(*fused.embedding[:2], dim=0)
    each = [F.cosine_similarity(*one.embedding[:2], dim=0) for one in whole.all()]
    torch.testing.assert_close(cosine, sum(each) / 3)
    assert fused.metric is whole.metric


def test_the_loss_of_several_answers_is_their_mean():
    whole = Output(normal(4, 5), normal(4, 2), [Output(normal(4, 5, seed=s), normal(4, 2)) for s in (1, 2)])
    targets = torch.eye(5)[:4]
    found = create_loss("multiclass", Train(label_smoothing=0), list("abcde"))(whole, targets)
    each = [F.cross_entropy(one.logits, targets, reduction="none") for one in whole.all()]
    torch.testing.assert_close(found, sum(each) / 3)


def test_an_answer_without_parts_is_fused_already():
    output = Output(normal(4, 5), normal(4, 2))
    assert output.fused() is output
