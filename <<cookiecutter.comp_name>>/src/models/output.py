"""What a network says of a batch: the contract between models and losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass
class Output:
    """Logits (B, outputs), or (B, outputs, H, W) of a decoder; embedding (B, features); and local parts
    where the network has them."""

    logits: torch.Tensor
    embedding: torch.Tensor
    parts: list[torch.Tensor] | None = None


Loss = Callable[[Output, torch.Tensor], torch.Tensor]  # per sample: (output, targets) -> (B,)


def with_background(logits: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) logits of classes that exclude each other to (B, 1 + C, ...): background first, at 0.

    Softmax knows differences of logits alone, so pinning one of them loses nothing.
    """
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def exclusive_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(B, C, ...) probabilities of classes that exclude each other, in float32; what they lack of 1 is
    background."""
    return with_background(logits.float()).softmax(1)[:, 1:]
