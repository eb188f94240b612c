"""Builds a network from its `Architecture`: backbone and weights, IBN, pooling, neck, head or decoder."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import nn

from src.config import UserError
from src.models.architecture import Architecture
from src.models.backbone import create_backbone, load_backbone_weights
from src.models.features import FeatureLayout
from src.models.ibn import add_ibn, has_ibn
from src.models.laststage import LastStage
from src.models.network import ImageNetwork, Network, PixelNetwork
from src.models.parts import check_rows
from src.models.segmentation import FeatureLevels

NO_ANSWER = 60.0  # download timeout in seconds without a reply; torch.hub sets none

__all__ = ["Architecture", "Network", "create_model", "embedding_length"]


def create_model(
    architecture: Architecture, pretrained: bool = False, state: dict[str, torch.Tensor] | None = None
) -> Network:
    """Build the network; one for segmentation if the architecture has a decoder.

    `pretrained` downloads timm's weights; `state` holds weights of the backbone to use instead. Raises
    `UserError` if weights cannot be downloaded or do not match, the backbone does not accept the image size,
    or it does not support what the architecture requests.
    """
    download = pretrained and state is None
    limit = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(NO_ANSWER)
        backbone = create_backbone(architecture, download)
    except UserError:
        raise
    except Exception as error:  # downloads raise many types of errors
        if not download:
            raise UserError(_why(architecture, error)) from error
        create_model(architecture)  # raises its own error for an unsuitable image size
        raise UserError(
            f"model.pretrained: the weights of {architecture.backbone} could not be fetched "
            f"({_first_line(error)}); connect, give a file as model.weights, or set model.pretrained=false"
        ) from error
    finally:
        socket.setdefaulttimeout(limit)
    _start(backbone, architecture, state)
    if architecture.decoder is None:
        return _image_network(architecture, backbone)
    levels = FeatureLevels.of(backbone)
    maps = _probe(backbone, architecture, lambda image: levels.read(backbone, image))
    return PixelNetwork(architecture, backbone, levels, [x.shape[1] for x in maps])


def embedding_length(model: Network) -> int:
    """Length of the `metric` embedding (for metric losses), found with one blank image."""
    architecture, training = model.architecture, model.training
    shape = (1, len(architecture.mean), architecture.image_size, architecture.image_size)
    with torch.no_grad():
        found = model.eval()(torch.zeros(shape, device=model.normalize.mean.device)).metric.shape[1]
    model.train(training)
    return found


def _start(backbone: nn.Module, architecture: Architecture, state: dict[str, torch.Tensor] | None) -> None:
    """Load the backbone's weights and add IBN if requested.

    IBN is added after plain weights are loaded, or before weights that already contain IBN.
    """
    changed = state is not None and has_ibn(state)
    if architecture.ibn and changed:
        add_ibn(backbone, architecture.ibn, architecture.backbone)
    if state is not None:
        load_backbone_weights(backbone, architecture.backbone, state)
    if architecture.ibn and not changed:
        add_ibn(backbone, architecture.ibn, architecture.backbone)


def _image_network(architecture: Architecture, backbone: nn.Module) -> ImageNetwork:
    """The network for one output per image.

    With own pooling or parts, the layout of the backbone's features is found with a forward pass.
    """
    if architecture.pooling is None and architecture.parts is None:
        _probe(backbone, architecture, backbone)
        return ImageNetwork(architecture, backbone)
    name, size, last_stage = architecture.backbone, architecture.image_size, None
    key = "model.pooling" if architecture.pooling else "model.parts"
    raw = _probe(backbone, architecture, backbone.forward_features)
    features = _probe(backbone, architecture, lambda _: FeatureLayout.of(backbone, raw, size, key, name))
    if architecture.parts is not None:
        check_rows(features.rows, architecture)
    if architecture.parts == "mgn":
        last_stage = _probe(backbone, architecture, lambda image: LastStage.of(backbone, image, name))
    return ImageNetwork(architecture, backbone, features, last_stage)


def _probe(backbone: nn.Module, architecture: Architecture, look: Callable[[torch.Tensor], Any]) -> Any:
    """Run `look` on one random image in evaluation mode and return its result; raises `UserError` for an
    image size or backbone that does not work, before any training starts."""
    size, training = architecture.image_size, backbone.training
    channels = len(architecture.mean)
    backbone.eval()
    try:
        with torch.no_grad():
            return look(torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0)))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise UserError(_why(architecture, error)) from error
    finally:
        backbone.train(training)


def _why(architecture: Architecture, error: Exception) -> str:
    """The `UserError` message for a backbone that cannot be built."""
    known = timm.is_model(architecture.backbone)
    if not known or _first_line(error).startswith("Invalid pretrained tag"):
        return (
            f"model.backbone: timm {timm.__version__} does not know {architecture.backbone}; choose "
            f"another, or install the version of timm that it was trained with"
        )
    return (
        f"model.backbone: {architecture.backbone} cannot be built for {architecture.image_size} px "
        f"({_first_line(error)}); try another data.image_size, such as 224"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
