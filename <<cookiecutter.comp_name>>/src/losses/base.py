"""What every run's loss is: (output, targets) -> (B,) float32, over all parts of the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from src.models.output import Output

RowLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits and targets to (B,)


class SampleLoss(nn.Module):
    """One value a row, in full precision under autocast too.

    Where the network has parts, each with logits and embedding of its own, it is the mean over the whole and
    the parts. The papers sum (Sun et al. 2018, PCB; Wang et al. 2018, MGN), which is this times a constant.
    """

    def forward(self, output: Output, targets: torch.Tensor) -> torch.Tensor:
        views = [in_float32(view) for view in output.all()]
        with torch.autocast(output.logits.device.type, enabled=False):
            return self.of_views(views, targets)

    def of_views(self, views: list[Output], targets: torch.Tensor) -> torch.Tensor:
        """(B,) of the whole, which comes first, and the parts."""
        raise NotImplementedError


class LogitLoss(SampleLoss):
    """The sum of losses of logits, each by its weight."""

    def __init__(self, terms: list[tuple[float, RowLoss]]):
        super().__init__()
        self.terms = terms

    def of_views(self, views: list[Output], targets: torch.Tensor) -> torch.Tensor:
        return mean_of_views(
            [sum(weight * term(view.logits, targets) for weight, term in self.terms) for view in views]
        )


def mean_of_views(several: list[torch.Tensor]) -> torch.Tensor:
    """The mean of tensors of one shape; of one alone that very tensor."""
    return several[0] if len(several) == 1 else torch.stack(several).mean(0)


def in_float32(output: Output) -> Output:
    """The same in float32 at least: a half cannot tell near rows apart."""
    logits, embedding, metric = (
        x if x is None else x.to(torch.promote_types(x.dtype, torch.float32))
        for x in (output.logits, output.embedding, output.metric)
    )
    return replace(output, logits=logits, embedding=embedding, metric=metric)
