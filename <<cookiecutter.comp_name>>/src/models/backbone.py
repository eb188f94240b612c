"""timm's networks as backbones: built for any image size and number of channels, filled from a checkpoint,
normalised as they were trained."""

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
    """timm's network without a classifier; an option that a family does not know is left out where it says
    nothing."""
    options: dict[str, Any] = {"drop_path_rate": architecture.drop_path_rate}
    if timm.get_pretrained_cfg(architecture.backbone, allow_unregistered=True).fixed_input_size:
        options["img_size"] = architecture.image_size  # transformers tie their position tables to a size
    while True:
        try:
            return timm.create_model(
                architecture.backbone,
                pretrained=download,
                num_classes=0,
                in_chans=len(architecture.mean),  # pretrained first layers are summed or repeated by timm
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
    """Mean and std a channel, in units of white, to normalise by: those of the data set, as given, or with
    `model.normalize=backbone` those that timm's weights were trained with.

    The latter are of three colours. One channel gets their average, any other number repeats them in turn, as
    the first layer's weights are summed and repeated.
    """
    if settings.normalize == "dataset":
        return mean, std
    channels, known = len(mean), timm.get_pretrained_cfg(settings.backbone, allow_unregistered=True)
    mean, std = (tuple(values) * channels for values in (known.mean, known.std))
    if channels == 1:
        return (sum(mean) / len(mean),), (sum(std) / len(std),)
    return mean[:channels], std[:channels]


def load_backbone_weights(backbone: nn.Module, name: str, state: dict[str, torch.Tensor]) -> None:
    """Load a checkpoint into the backbone, by the renaming and resizing that timm keeps beside the family; a
    first layer of another number of channels is summed or repeated.

    Raises `UserError` unless every tensor of the backbone is there in its shape: a network filled in part
    trains without complaint, and badly. What the file holds besides, such as its classifier, is left.
    """
    module = sys.modules[type(backbone).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", None)
    if convert is not None:
        takes_model = "model" in inspect.signature(convert).parameters
        with contextlib.suppress(Exception):  # a stranger's names; the count below says what is the matter
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
    """The state with its first convolutions for as many channels as `wanted` has."""
    first = backbone.pretrained_cfg.get("first_conv") or ()
    for key in (f"{name}.weight" for name in ((first,) if isinstance(first, str) else first)):
        if key in state and key in wanted and state[key].ndim == wanted[key].ndim == 4:
            state = state | {key: adapt_channels(state[key], wanted[key].shape[1])}
    return state


def adapt_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """A first convolution (O, I, H, W) for another number of input channels: summed to one; else repeated in
    turn and scaled by I / `channels`, so that a grey image gives what it gave. timm's rule, from any I."""
    had = weight.shape[1]
    if channels == had:
        return weight
    if channels == 1:
        return weight.float().sum(1, keepdim=True).to(weight.dtype)
    repeated = weight.repeat(1, -(-channels // had), 1, 1)[:, :channels]
    return (repeated.float() * (had / channels)).to(weight.dtype)
