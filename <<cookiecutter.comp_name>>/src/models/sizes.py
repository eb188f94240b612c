"""Which image sizes a network takes besides the one it was built for."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from src.config import UserError
from src.models.build import Network


def check_sides(network: Network, sides: Iterable[int]) -> None:
    """Show the network one black square image of each of `sides` pixels.

    Raises `UserError` for `inference.scales` where it cannot take one: transformers with a table of positions
    are tied to the size they were built for. The network's weights, statistics and mode stay what they were.
    """
    architecture, training = network.architecture, network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        for side in sides:
            image = torch.zeros(1, len(architecture.mean), side, side, device=device)
            try:
                with torch.no_grad():
                    network(image)
            except (RuntimeError, AssertionError, ValueError, TypeError) as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UserError(
                    f"inference.scales: {architecture.backbone} was built for {architecture.image_size} px "
                    f"and cannot look at {side} ({first}); leave inference.scales=null, or take a "
                    f"convolutional backbone"
                ) from error
    finally:
        network.train(training)
