"""A network: uint8 images in, `Output` out. Normalisation is inside, so that training and a Kaggle kernel
cannot differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import nn

from src.config import UserError
from src.models.heads import LinearHead


@dataclass
class Output:
    """What a network says of B images: logits (B, outputs), embedding (B, features), and local parts where it
    has them."""

    logits: torch.Tensor
    embedding: torch.Tensor
    parts: list[torch.Tensor] | None = None


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build the network again; stored inside the weights file."""

    backbone: str
    n_outputs: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Normalize(nn.Module):
    """(B, C, H, W) uint8 to float: minus the data set's mean, over its std, both in units of white."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.float() - self.mean) / self.std


class Classifier(nn.Module):
    """Normalisation, a timm backbone with its own pooling, a linear head."""

    def __init__(self, architecture: Architecture, backbone: nn.Module):
        super().__init__()
        self.architecture = architecture
        self.normalize = Normalize(architecture.mean, architecture.std)
        self.backbone = backbone
        self.head = LinearHead(
            getattr(backbone, "head_hidden_size", backbone.num_features),
            architecture.n_outputs,
            architecture.drop_rate,
        )

    def forward(self, x: torch.Tensor) -> Output:
        embedding = self.backbone(self.normalize(x))  # (B, features)
        return Output(logits=self.head(embedding), embedding=embedding)


def create_model(
    architecture: Architecture, pretrained: bool = False, state: dict[str, torch.Tensor] | None = None
) -> Classifier:
    """Build the network; `pretrained` fetches timm's weights, `state` gives the backbone's instead.

    Raises `UserError` where weights cannot be fetched or do not fit, or the image size does not suit the
    backbone.
    """
    options: dict[str, Any] = {"num_classes": 0, "drop_path_rate": architecture.drop_path_rate}
    if timm.get_pretrained_cfg(architecture.backbone, allow_unregistered=True).fixed_input_size:
        options["img_size"] = architecture.image_size  # transformers tie their position tables to a size
    if state is not None:
        options |= {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
    elif pretrained:
        options["pretrained"] = True
    try:
        backbone = timm.create_model(architecture.backbone, **options)
        if backbone.training and "img_size" in options:
            _probe(backbone, architecture.image_size)
    except (RuntimeError, AssertionError, ValueError, OSError, TypeError) as error:
        raise UserError(_why(architecture, error, pretrained and state is None)) from error
    return Classifier(architecture, backbone)


def _probe(backbone: nn.Module, size: int) -> None:
    """Show the backbone one image, so that a size it cannot take is known before a night is planned on it."""
    with torch.no_grad():
        backbone.eval()(torch.zeros(1, 3, size, size))
    backbone.train()


def _why(architecture: Architecture, error: Exception, download: bool) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if download:
        return (
            f"model.pretrained: the weights of {architecture.backbone} could not be fetched ({first}); connect, "
            f"give a file as model.weights, or set model.pretrained=false"
        )
    size = architecture.image_size
    return f"model.backbone: {architecture.backbone} cannot be built for {size} px ({first}); try another data.image_size, such as 224"
