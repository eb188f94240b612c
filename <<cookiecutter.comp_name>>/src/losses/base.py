"""Base class of all losses: (output, targets) -> (B,) float32, averaged over all parts of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from src.models.output import Output

RowLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits and targets to (B,)


class SampleLoss(nn.Module):
    """Per-sample loss (B,), computed in float32 even under autocast.

    For a network with parts (PCB, MGN), each with its own logits and embedding, it is the mean over the
    global branch and the parts. The papers use the sum (Sun et al. 2018, PCB; Wang et al. 2018, MGN), which
    differs by a constant.
    """

    def forward(self, output: Output, targets: torch.Tensor) -> torch.Tensor:
        views = [in_float32(view) for view in output.all()]
        with torch.autocast(output.logits.device.type, enabled=False):
            return self.of_views(views, targets)

    def of_views(self, views: list[Output], targets: torch.Tensor) -> torch.Tensor:
        """Losses (B,) of the global output, which comes first, and the parts."""
        raise NotImplementedError


class LogitLoss(SampleLoss):
    """Weighted sum of losses of logits."""

    def __init__(self, terms: list[tuple[float, RowLoss]]):
        super().__init__()
        self.terms = terms

    def of_views(self, views: list[Output], targets: torch.Tensor) -> torch.Tensor:
        return mean_of_views(
            [sum(weight * term(view.logits, targets) for weight, term in self.terms) for view in views]
        )


def mean_of_views(several: list[torch.Tensor]) -> torch.Tensor:
    """Mean of tensors of the same shape; a single tensor is returned as it is."""
    return several[0] if len(several) == 1 else torch.stack(several).mean(0)


def in_float32(output: Output) -> Output:
    """The output in float32 or higher precision: half precision cannot tell similar embeddings apart."""
    logits, embedding, metric = (
        x if x is None else x.to(torch.promote_types(x.dtype, torch.float32))
        for x in (output.logits, output.embedding, output.metric)
    )
    return replace(output, logits=logits, embedding=embedding, metric=metric)
