"""Networks: uint8 images to `Output`, normalisation included, so training and a Kaggle kernel agree."""

from __future__ import annotations

import torch
from torch import nn

from src.models.architecture import Architecture
from src.models.branch import branch_output, create_bnneck, create_head, create_neck
from src.models.features import FeatureLayout
from src.models.laststage import LastStage
from src.models.output import Output
from src.models.parts import MGN, PCB
from src.models.pooling import POOLINGS
from src.models.scale import TargetScale
from src.models.segmentation import FeatureLevels, create_decoder


class Normalize(nn.Module):
    """Input normalisation (B, C, H, W), uint8 to float: (x - mean) / std, both given for white = 1."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():  # mixed or resized; do not modify the caller's tensor
            return (x - self.mean) / self.std
        return x.to(self.mean.dtype).sub_(self.mean).div_(self.std)  # in place: one new tensor, not three


class Network(nn.Module):
    """Base class: input normalisation, a timm backbone, and the scale of the targets."""

    def __init__(self, architecture: Architecture, backbone: nn.Module):
        super().__init__()
        self.architecture = architecture
        self.normalize = Normalize(architecture.mean, architecture.std)
        self.backbone = backbone
        self.scale = TargetScale(architecture.target_mean, architecture.target_std, architecture.target_log)


class ImageNetwork(Network):
    """Network with one output per image: backbone, pooling (its own or ours), neck, head, optional parts.

    In training the parts (PCB, MGN) are separate outputs; in evaluation they are fused with the global one.
    """

    def __init__(
        self,
        architecture: Architecture,
        backbone: nn.Module,
        features: FeatureLayout | None = None,
        last_stage: LastStage | None = None,
    ):
        """`features` is required for `pooling` and `parts`, `last_stage` for MGN parts."""
        super().__init__(architecture, backbone)
        self.features, self.last_stage = features, last_stage
        length = features.length if features else getattr(backbone, "head_hidden_size", backbone.num_features)
        self.pooling = POOLINGS[architecture.pooling]() if architecture.pooling else None
        length *= self.pooling.times if self.pooling is not None else 1
        self.neck = create_neck(architecture, length)
        length = architecture.embedding or length
        self.bnneck = create_bnneck(architecture, length)
        here = architecture.embedding is None or architecture.dropout_samples  # else the neck has the dropout
        self.head = create_head(architecture, length, architecture.drop_rate if here else 0.0)
        self.parts = None
        if architecture.parts == "pcb":
            self.parts = PCB(architecture, features.channels)
        elif architecture.parts == "mgn":
            self.parts = MGN(architecture, last_stage, backbone)

    def forward(self, x: torch.Tensor) -> Output:
        x, size = self.normalize(x), x.shape[-2:]
        if self.features is None:
            return branch_output(self.backbone(x), self.neck, self.bnneck, self.head)
        if self.last_stage is None:
            raw, before = self.backbone.forward_features(x), None
        else:
            raw, before = self.last_stage.read(self.backbone, x)
        maps = self.features.maps(raw, size)  # (B, C, H / stride, W / stride)
        output = branch_output(self.pooled(raw, maps), self.neck, self.bnneck, self.head)
        if self.parts is not None:
            output.parts = self.parts(maps if before is None else before)
        return output if self.training else output.fused()

    def pooled(self, raw: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """Pooled features (B, length), by the requested pooling or the backbone's own."""
        if self.pooling is None:
            return self.backbone.forward_head(raw)
        return self.features.finish(self.backbone, self.pooling(maps))


class PixelNetwork(Network):
    """Segmentation network: a backbone with a decoder (U-Net, FPN), logits at the image's own size.

    The embedding is the mean of the deepest feature map.
    """

    def __init__(
        self, architecture: Architecture, backbone: nn.Module, levels: FeatureLevels, channels: list[int]
    ):
        super().__init__(architecture, backbone)
        self.levels = levels
        self.decoder = create_decoder(
            architecture.decoder, channels, levels.strides, architecture.n_outputs, architecture.drop_rate
        )

    def forward(self, x: torch.Tensor) -> Output:
        maps = self.levels.read(self.backbone, self.normalize(x))
        logits = self.decoder(maps, x.shape[-2:])  # (B, outputs, H, W)
        return Output(logits=logits, embedding=maps[-1].mean((2, 3)))
