"""`Output`: the result of a network for a batch, the interface between models and losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Output:
    """Logits (B, outputs), or (B, outputs, H, W) with a decoder, and embeddings (B, D).

    `embedding` is for classifiers and retrieval, `metric` for metric losses (triplet, center). They are the
    same unless a BNNeck lies between them or parts are fused. `parts` are the outputs of local parts (PCB,
    MGN), each with the same three fields; in evaluation they are already fused.
    """

    logits: torch.Tensor
    embedding: torch.Tensor
    parts: list[Output] | None = None
    metric: torch.Tensor | None = None  # null: the embedding

    def __post_init__(self) -> None:
        if self.metric is None:
            self.metric = self.embedding

    def all(self) -> list[Output]:
        """The global output and its parts."""
        return [self, *(self.parts or [])]

    def fused(self) -> Output:
        """One output of all: the mean logits, and the concatenated L2-normalised embeddings.

        The cosine of two such embeddings is the mean of the parts' cosines. `metric` remains that of the
        global output.
        """
        if not self.parts:
            return self
        logits = torch.stack([one.logits.float() for one in self.all()]).mean(0)  # (B, outputs)
        embedding = torch.cat([F.normalize(one.embedding.float(), dim=1) for one in self.all()], dim=1)
        return Output(logits, embedding, metric=self.metric)


def with_background(logits: torch.Tensor) -> torch.Tensor:
    """Prepend a background logit of 0: (B, C, ...) logits of mutually exclusive classes to (B, 1 + C, ...).

    Softmax depends only on differences of logits, so fixing one of them costs no generality.
    """
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def exclusive_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Softmax probabilities (B, C, ...) of mutually exclusive classes with implicit background, in float32.

    The background has the rest up to 1.
    """
    return with_background(logits.float()).softmax(1)[:, 1:]
