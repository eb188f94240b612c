"""A network: uint8 images in, `Output` out. Normalisation is inside, so that training and a Kaggle kernel
cannot differ."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import nn

from src.config import UserError
from src.models.heads import Projection, create_head
from src.models.output import Output
from src.models.scale import TargetScale
from src.models.segmentation import Levels, create_decoder


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
    target_mean: tuple[float, ...] | None = None  # of targets that were standardised for training, else null
    target_std: tuple[float, ...] | None = None
    target_log: bool = False  # whether log(1 + target) was what was standardised
    decoder: str | None = None  # of logits a pixel, "unet" or "fpn"; null: logits an image
    head: str = "linear"  # or "cosine", which the losses with a margin want
    logit_scale: float | None = None  # of a cosine head: its logits are cosines times this; null: 1
    embedding: int | None = None  # length that features are projected to; null: as the backbone has them

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


class Network(nn.Module):
    """What all of them have: normalisation, a timm backbone, and the way back to the targets' units."""

    def __init__(self, architecture: Architecture, backbone: nn.Module):
        super().__init__()
        self.architecture = architecture
        self.normalize = Normalize(architecture.mean, architecture.std)
        self.backbone = backbone
        self.scale = TargetScale(architecture.target_mean, architecture.target_std, architecture.target_log)


class ImageNetwork(Network):
    """Logits an image: the backbone's own pooling, a projection where one is asked for, a head."""

    def __init__(self, architecture: Architecture, backbone: nn.Module):
        super().__init__(architecture, backbone)
        features, drop_rate = (
            getattr(backbone, "head_hidden_size", backbone.num_features),
            architecture.drop_rate,
        )
        self.neck = nn.Identity()
        if architecture.embedding is not None:
            self.neck = Projection(features, architecture.embedding, drop_rate)
            features, drop_rate = architecture.embedding, 0.0  # dropped once
        self.head = create_head(
            architecture.head, features, architecture.n_outputs, drop_rate, architecture.logit_scale
        )

    def forward(self, x: torch.Tensor) -> Output:
        embedding = self.neck(self.backbone(self.normalize(x)))  # (B, features)
        return Output(logits=self.head(embedding), embedding=embedding)


class PixelNetwork(Network):
    """Logits a pixel, at the image's own size: the backbone's feature maps and a decoder. The embedding is
    the mean of the deepest map."""

    def __init__(self, architecture: Architecture, backbone: nn.Module, levels: Levels, channels: list[int]):
        super().__init__(architecture, backbone)
        self.levels = levels
        self.decoder = create_decoder(
            architecture.decoder, channels, levels.strides, architecture.n_outputs, architecture.drop_rate
        )

    def forward(self, x: torch.Tensor) -> Output:
        maps = self.levels.read(self.backbone, self.normalize(x))
        logits = self.decoder(maps, x.shape[-2:])  # (B, outputs, H, W)
        return Output(logits=logits, embedding=maps[-1].mean((2, 3)))


def create_model(
    architecture: Architecture, pretrained: bool = False, state: dict[str, torch.Tensor] | None = None
) -> Network:
    """Build the network, one of pixels where the architecture has a decoder; `pretrained` fetches timm's
    weights, `state` gives the backbone's instead.

    Raises `UserError` where weights cannot be fetched or do not fit, or the image size does not suit the
    backbone.
    """
    download = pretrained and state is None
    try:
        backbone = _backbone(architecture, download)
    except UserError:
        raise
    except Exception as error:  # a download fails in as many ways as there are layers below it
        if not download:
            raise UserError(_why(architecture, error)) from error
        create_model(architecture)  # a size that does not suit it is told as that
        raise UserError(
            f"model.pretrained: the weights of {architecture.backbone} could not be fetched "
            f"({_first_line(error)}); connect, give a file as model.weights, or set model.pretrained=false"
        ) from error
    if state is not None:
        fill(backbone, architecture.backbone, state)
    if architecture.decoder is None:
        _probe(backbone, architecture, backbone)
        return ImageNetwork(architecture, backbone)
    levels = Levels.of(backbone)
    maps = _probe(backbone, architecture, lambda image: levels.read(backbone, image))
    return PixelNetwork(architecture, backbone, levels, [x.shape[1] for x in maps])


def embedding_length(model: Network) -> int:
    """How long the embedding of a network is, as one blank image shows."""
    architecture, training = model.architecture, model.training
    shape = (1, len(architecture.mean), architecture.image_size, architecture.image_size)
    with torch.no_grad():
        found = model.eval()(torch.zeros(shape, device=model.normalize.mean.device)).embedding.shape[1]
    model.train(training)
    return found


def _backbone(architecture: Architecture, download: bool) -> nn.Module:
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


def fill(backbone: nn.Module, name: str, state: dict[str, torch.Tensor]) -> None:
    """Load a checkpoint into the backbone, by the renaming and resizing that timm keeps beside the family.

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


def _probe(backbone: nn.Module, architecture: Architecture, look: Callable[[torch.Tensor], Any]) -> Any:
    """Show the backbone one image, so that a size it cannot take is known before a night is planned on it;
    gives what `look` made of it."""
    size, training = architecture.image_size, backbone.training
    channels = len(architecture.mean)
    backbone.eval()
    try:
        with torch.no_grad():
            return look(torch.zeros(1, channels, size, size))
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise UserError(_why(architecture, error)) from error
    finally:
        backbone.train(training)


def _why(architecture: Architecture, error: Exception) -> str:
    return (
        f"model.backbone: {architecture.backbone} cannot be built for {architecture.image_size} px "
        f"({_first_line(error)}); try another data.image_size, such as 224"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
