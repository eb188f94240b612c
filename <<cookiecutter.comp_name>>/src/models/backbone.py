"""timm backbones for any image size and number of channels: creation, weights, normalisation."""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import Any

import timm
import torch
from torch import nn

from src.config import Model, UserError
from src.models.architecture import Architecture


def create_backbone(architecture: Architecture, download: bool) -> nn.Module:
    """Create a timm network without a classifier.

    `img_size` and `drop_path_rate` are left out for families that do not accept them. Raises `UserError` if
    `drop_path_rate` is positive and the family has no stochastic depth.
    """
    options: dict[str, Any] = {"drop_path_rate": architecture.drop_path_rate}
    if timm.get_pretrained_cfg(architecture.backbone, allow_unregistered=True).fixed_input_size:
        options["img_size"] = architecture.image_size  # position embeddings of transformers fix the size
    while True:
        try:
            return timm.create_model(
                architecture.backbone,
                pretrained=download,
                num_classes=0,
                in_chans=len(architecture.mean),  # timm sums or repeats channels of pretrained first layers
                **options,
            )
        except TypeError as error:
            unknown = next((key for key in options if key in str(error)), None)
            if unknown is None:
                raise
            if unknown == "drop_path_rate" and architecture.drop_path_rate:
                raise UserError(
                    f"model.drop_path_rate: {architecture.backbone} has no paths to drop; set it to 0"
                ) from error
            del options[unknown]


def input_statistics(
    settings: Model, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel for input normalisation, where white is 1.

    They are those of the data set, as given, or, with `model.normalize=backbone`, those of timm's pretrained
    weights (RGB). A single channel gets the RGB average; any other number of channels repeats RGB in turn, as
    the weights of the first layer are repeated.
    """
    if settings.normalize == "dataset":
        return mean, std
    channels, known = len(mean), timm.get_pretrained_cfg(settings.backbone, allow_unregistered=True)
    mean, std = (tuple(values) * channels for values in (known.mean, known.std))
    if channels == 1:
        return (sum(mean) / len(mean),), (sum(std) / len(std),)
    return mean[:channels], std[:channels]


def load_backbone_weights(backbone: nn.Module, name: str, state: dict[str, torch.Tensor]) -> None:
    """Load a checkpoint into the backbone, with timm's own key renaming and resizing for its family.

    A first layer with another number of channels is summed or repeated. Raises `UserError` unless every
    tensor of the backbone is in the checkpoint with the right shape, because a partly loaded network trains
    without an error, and badly. Additional tensors, such as a classifier, are ignored.
    """
    module = sys.modules[type(backbone).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is not None:
        takes_model = "model" in inspect.signature(convert).parameters
        with contextlib.suppress(Exception):  # unknown key names; the check below reports missing tensors
            state = convert(dict(state), backbone) if takes_model else convert(dict(state))
    wanted = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = _adapt_first_layers(backbone, state, wanted)
    lost = [key for key, tensor in wanted.items() if key not in state or state[key].shape != tensor.shape]
    if lost:
        found = tuple(state[lost[0]].shape) if lost[0] in state else "absent"
        raise UserError(
            f"model.weights: {len(wanted) - len(lost)} of the {len(wanted)} tensors of {name} are in the "
            f"file ({lost[0]} should be {tuple(wanted[lost[0]].shape)} and is {found}); "
            f"give weights of this very backbone, or set model.backbone to theirs"
        )
    known = backbone.state_dict().keys()
    backbone.load_state_dict({key: tensor for key, tensor in state.items() if key in known}, strict=False)


def _adapt_first_layers(
    backbone: nn.Module, state: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The state dict with its first convolutions adapted to the number of input channels in `wanted`."""
    first = backbone.pretrained_cfg.get("first_conv") or ()
    for key in (f"{name}.weight" for name in ((first,) if isinstance(first, str) else first)):
        if key in state and key in wanted and state[key].ndim == wanted[key].ndim == 4:
            state = state | {key: adapt_channels(state[key], wanted[key].shape[1])}
    return state


def adapt_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Adapt a first convolution's weight (O, I, H, W) to another number of channels, by timm's rule.

    For one channel the weight is summed; otherwise it is repeated in turn and scaled by I / `channels`, so
    that a grey image gives the same output. Unlike timm's own, it works for any I.
    """
    had = weight.shape[1]
    if channels == had:
        return weight
    if channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.repeat(1, -(-channels // had), 1, 1)[:, :channels]
    return (repeated.float() * (had / channels)).to(weight.dtype)
