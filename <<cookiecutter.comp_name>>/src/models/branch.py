"""From pooled features (B, features) to an `Output`: neck, BNNeck and head of a branch."""

from __future__ import annotations

import torch
from torch import nn

from src.config import UserError
from src.models.architecture import Architecture
from src.models.heads import CosineHead, Head, LinearHead
from src.models.necks import BNNeck, Projection
from src.models.output import Output


def create_neck(architecture: Architecture, features: int) -> nn.Module:
    """The projection to an embedding of length `embedding`, or the identity.

    It applies dropout, except with multi-sample dropout, which is in the head.
    """
    if architecture.embedding is None:
        return nn.Identity()
    rate = 0.0 if architecture.dropout_samples else architecture.drop_rate  # only one dropout
    return Projection(features, architecture.embedding, rate, norm=architecture.neck != "bnneck")


def create_bnneck(architecture: Architecture, features: int) -> nn.Module:
    """The `BNNeck`, or the identity."""
    return BNNeck(features) if architecture.neck == "bnneck" else nn.Identity()


def create_head(architecture: Architecture, features: int, drop_rate: float) -> Head:
    """The head: linear, or cosine for margin losses.

    After a BNNeck a linear head has no bias, as in the paper. Raises `UserError` if `subcenters` is set for a
    linear head.
    """
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
    """Neck, BNNeck and head applied to features (B, F).

    Metric losses use the embedding before the BNNeck, all else the one after it.
    """
    metric = neck(features)
    embedding = bnneck(metric)
    return Output(logits=head(embedding), embedding=embedding, metric=metric)
