"""From features (B, features) to an `Output`: neck, BNNeck, head, of the whole image and of its parts
alike."""

from __future__ import annotations

import torch
from torch import nn

from src.config import UserError
from src.models.architecture import Architecture
from src.models.heads import CosineHead, Head, LinearHead
from src.models.necks import BNNeck, Projection
from src.models.output import Output


def create_neck(architecture: Architecture, features: int) -> nn.Module:
    """The projection to `embedding`, or nothing. It drops features where the head does not."""
    if architecture.embedding is None:
        return nn.Identity()
    rate = 0.0 if architecture.dropout_samples else architecture.drop_rate  # dropped once
    return Projection(features, architecture.embedding, rate, norm=architecture.neck != "bnneck")


def create_bnneck(architecture: Architecture, features: int) -> nn.Module:
    """The `BNNeck`, or nothing."""
    return BNNeck(features) if architecture.neck == "bnneck" else nn.Identity()


def create_head(architecture: Architecture, features: int, drop_rate: float) -> Head:
    """The head of that name. After a BNNeck it has no bias, as in its paper. Raises `UserError` for
    `subcenters` of a linear one."""
    outputs, samples = architecture.n_outputs, architecture.dropout_samples
    if architecture.head == "cosine":
        subcenters, scale = architecture.subcenters, architecture.logit_scale
        return CosineHead(features, outputs, drop_rate, samples, subcenters, scale)
    if architecture.subcenters is not None:
        raise UserError(
            f"model.subcenters={architecture.subcenters} is for the cosine head of a margin loss such as "
            f"train.loss=arcface; this loss has a linear one: set model.subcenters=null"
        )
    bias = architecture.neck != "bnneck"
    return LinearHead(features, outputs, drop_rate, samples, bias)


def branch_output(features: torch.Tensor, neck: nn.Module, bnneck: nn.Module, head: Head) -> Output:
    """What is said of features (B, F): distances are learned before the BNNeck, all else goes by what comes
    after."""
    metric = neck(features)
    embedding = bnneck(metric)
    return Output(logits=head(embedding), embedding=embedding, metric=metric)
