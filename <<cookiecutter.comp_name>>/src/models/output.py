"""What a network says of a batch: the contract between models and losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Output:
    """Logits (B, outputs), or (B, outputs, H, W) of a decoder. `embedding` (B, D) is what classifiers and
    searches go by, `metric` (B, D) what losses of distances learn: one and the same unless a BNNeck lies
    between, or parts are fused. `parts` are local answers, each with its own three; in evaluation they are
    fused already."""

    logits: torch.Tensor
    embedding: torch.Tensor
    parts: list[Output] | None = None
    metric: torch.Tensor | None = None  # null: the embedding

    def __post_init__(self) -> None:
        if self.metric is None:
            self.metric = self.embedding

    def all(self) -> list[Output]:
        """The whole and its parts."""
        return [self, *(self.parts or [])]

    def fused(self) -> Output:
        """One answer of all: the mean of the logits, and embeddings of length 1 side by side, whose cosine is
        the mean of the parts' cosines; `metric` stays that of the whole."""
        if not self.parts:
            return self
        logits = torch.stack([one.logits.float() for one in self.all()]).mean(0)  # (B, outputs)
        embedding = torch.cat([F.normalize(one.embedding.float(), dim=1) for one in self.all()], dim=1)
        return Output(logits, embedding, metric=self.metric)


def with_background(logits: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) logits of classes that exclude each other to (B, 1 + C, ...): background first, at 0.

    Softmax knows differences of logits alone, so pinning one of them loses nothing.
    """
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def exclusive_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) probabilities of classes that exclude each other, in float32; what they lack of 1 is
    background."""
    return with_background(logits.float()).softmax(1)[:, 1:]
