"""Monitors losses and gradient norms of an epoch: their means, and the first NaN or infinite loss.

Losses stay on the device, which runs ahead of the loop; the monitor waits for it only every `LOOK_EVERY`
batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from src.config import Train, UserError
from src.training.distributed import SINGLE_PROCESS, World

LOOK_EVERY = 50  # batches; each check waits for the device, and at most so many are lost after a NaN
NAMED, NORMS = 8, 5  # number of rows and of gradient norms in the message
FIRST_EPOCHS = 3  # epochs after warm-up, within which the loss should have fallen ...
LEAST_FALL = 0.01  # ... by this fraction


class LossMonitor:
    """Losses of one epoch: `batch()` after each batch, `step()` after each optimiser step, then `means()`.

    Raises `UserError` within `LOOK_EVERY` batches of a NaN or infinite loss.
    """

    def __init__(
        self,
        epoch: int,
        batches: list[np.ndarray],
        ids: Callable[[np.ndarray], list[str]],
        settings: Train,
        device: torch.device,
        world: World = SINGLE_PROCESS,
    ):
        """`batches` are the row numbers of each batch in order; `ids(rows)` gives the ids of rows."""
        self.epoch, self.batches, self.ids, self.settings = epoch, batches, ids, settings
        self.world = world
        self.sums = torch.zeros(2, device=device)  # weighted losses, weights
        self.losses: list[torch.Tensor] = []  # (B,) of each batch since the last check
        self.norms: list[torch.Tensor] = []
        self.fine = 0  # number of batches known to have finite losses

    def batch(self, losses: torch.Tensor, weights: torch.Tensor) -> None:
        """Record the losses (B,) and weights (B,) of a batch."""
        losses = losses.detach()
        self.sums += torch.stack([(losses * weights).sum(), weights.sum()])
        self.losses.append(losses)

    def step(self, norm: torch.Tensor) -> None:
        """Record the gradient norm of an optimiser step, before clipping."""
        self.norms.append(norm.detach())
        if len(self.losses) >= LOOK_EVERY:
            self.look()

    def state_dict(self) -> dict[str, Any]:
        """State within an epoch; all losses so far have been checked."""
        self.look()
        return {"sums": self.sums, "norms": self.norms, "fine": self.fine}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.fine = state["sums"].to(self.sums.device), state["fine"]
        self.norms = [norm.to(self.sums.device) for norm in state["norms"]]

    def look(self) -> None:
        """Wait for the device; raise `UserError` for the first batch with a NaN or infinite loss."""
        if self.losses:
            fine = torch.stack([losses.isfinite().all() for losses in self.losses]).tolist()
            if not all(fine):
                raise self.error(fine.index(False))
        self.fine += len(self.losses)
        self.losses.clear()

    def means(self) -> dict[str, float]:
        """Columns for history.csv: the weighted mean loss, and the median gradient norm."""
        self.look()
        total, weight = self.world.sum(self.sums).tolist()
        return {"train_loss": total / weight, "grad_norm": float(torch.stack(self.norms).cpu().nanmedian())}

    def error(self, place: int) -> UserError:
        """The error for a batch, by its place among those since the last check, with advice."""
        number, settings = self.fine + place, self.settings
        bad = (~self.losses[place].isfinite()).cpu().numpy()
        ids = self.ids(self.batches[number])
        named = [name for name, wrong in zip(ids, bad, strict=True) if wrong]
        share = f"all {len(ids)} rows" if bad.all() else f"{len(named)} of {len(ids)} rows"
        step = number // settings.accumulate
        norms = torch.stack(self.norms[: step + 1])[-NORMS:].tolist()
        lower = (
            f"lower train.lr={settings.lr:g} to {settings.lr / 10:g}, or set train.clip_grad=1.0, "
            f"and run the same command again"
        )
        first = "" if bad.all() else "look at the targets of these rows; if they are right, "
        return UserError(
            f"epoch {self.epoch + 1}, step {step + 1}: the loss is no longer a number in {share} of batch "
            f"{number + 1} ({', '.join(named[:NAMED])}{', ...' if len(named) > NAMED else ''}); gradient "
            f"norms of the last steps: {', '.join(f'{norm:.3g}' for norm in norms)}; {first}{lower}"
        )


def hardly_falls(history: list[dict[str, Any]], settings: Train) -> str | None:
    """Advice a few epochs after warm-up if the training loss is still about that of epoch 1; else None."""
    front = (settings.freeze_epochs or 0) + settings.warmup_epochs + (settings.hold_epochs or 0)
    if len(history) != int(front) + FIRST_EPOCHS:
        return None
    first, last = history[0]["train_loss"], min(row["train_loss"] for row in history[1:])
    if first - last >= LEAST_FALL * abs(first):
        return None
    return (
        f"the loss hardly falls ({first:.3g} in epoch 1, {last:.3g} at best since): raise "
        f"train.lr={settings.lr:g} to {settings.lr * 10:g} (`make lr-find` looks for a good one), and check "
        f"that the target is the right one (`make overfit` tells the two apart)"
    )
