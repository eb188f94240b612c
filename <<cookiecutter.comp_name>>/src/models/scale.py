"""Target scaling for regression: standardisation, after log(1 + target) for heavy-tailed targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from src.config import UserError
from src.metrics.base import NOT_NEGATIVE


@dataclass(frozen=True)
class TargetScale:
    """Mean and std (C,) of the fold's own training targets; None means no scaling (classes, labels)."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    log: bool = False

    @classmethod
    def of(cls, targets: np.ndarray, log: bool) -> TargetScale:
        """The scale of targets (N, C); with `log`, of log(1 + target).

        Raises `UserError` for targets that are not finite, and for negative ones with `log`.
        """
        if log:
            NOT_NEGATIVE.check(targets, "train.target_log")
        values = np.log1p(targets.astype(np.float64)) if log else targets.astype(np.float64)
        if not np.isfinite(values).all():
            raise UserError(
                "a target is beyond single precision; look at data/folds.csv for the largest ones"
            )
        std = np.maximum(values.std(0), 1e-6)
        return cls(tuple(values.mean(0).tolist()), tuple(std.tolist()), log)

    def encode(self, targets: np.ndarray) -> np.ndarray:
        """Targets (N, C) in their own units to the scale that the network is trained on."""
        if self.mean is None:
            return targets
        values = np.log1p(np.maximum(targets, 0)) if self.log else targets
        return ((values - np.array(self.mean)) / np.array(self.std)).astype(np.float32)

    def decode(self, logits: torch.Tensor) -> torch.Tensor:
        """Network outputs (B, C) to the targets' own units."""
        if self.mean is None:
            return logits
        mean, std = (
            torch.tensor(x, dtype=torch.float32, device=logits.device) for x in (self.mean, self.std)
        )
        values = logits.float() * std + mean
        return torch.expm1(values) if self.log else values

    def encode_tensor(self, values: torch.Tensor) -> torch.Tensor:
        """The same as `encode`, for a tensor."""
        if self.mean is None:
            return values
        mean, std = (
            torch.tensor(x, dtype=torch.float32, device=values.device) for x in (self.mean, self.std)
        )
        return ((torch.log1p(values.clamp(min=0)) if self.log else values) - mean) / std
