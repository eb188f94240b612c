"""What a network says of a batch: the contract between models and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass
class Output:
    """Logits (B, outputs), embedding (B, features), and local parts where the network has them."""

    logits: torch.Tensor
    embedding: torch.Tensor
    parts: list[torch.Tensor] | None = None
