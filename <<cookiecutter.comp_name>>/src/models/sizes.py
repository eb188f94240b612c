"""Check which image sizes a network accepts besides the one it was built for."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from src.config import UserError
from src.models.network import Network


@torch.no_grad()
def check_sizes(network: Network, sizes: Iterable[int], key: str, why: str = "") -> None:
    """Run the network on one black square image of each of `sizes` pixels, requested by the config's `key`.

    Raises `UserError` naming that key, and `why` if the key does not explain itself, if the network rejects a
    size: position embeddings tie some transformers to the size they were built for. Weights, statistics and
    mode do not change.
    """
    architecture, training = network.architecture, network.training
    device = next(network.parameters()).device
    network.eval()
    try:
        for size in sizes:
            try:
                network(torch.zeros(1, len(architecture.mean), size, size, dtype=torch.uint8, device=device))
            except (RuntimeError, AssertionError, ValueError, TypeError) as error:
                first = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UserError(
                    f"{key}: model.backbone={architecture.backbone} was built for {architecture.image_size} "
                    f"px and cannot look at {size}{why} ({first}); leave {key}=null, or take a convolutional "
                    f"backbone"
                ) from error
    finally:
        network.train(training)
