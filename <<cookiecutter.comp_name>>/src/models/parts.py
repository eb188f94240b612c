"""Part-based models for re-identification (PCB, MGN): local outputs with their own embedding and head."""

from __future__ import annotations

import torch
from torch import nn

from src.config import UserError
from src.models.architecture import Architecture
from src.models.branch import branch_output, create_bnneck, create_head
from src.models.laststage import LastStage
from src.models.necks import Reduction
from src.models.output import Output
from src.models.pooling import POOLINGS

REDUCED = 256  # length of a part's embedding, in both papers
STRIPES = 6  # of PCB, in the paper
MGN_STRIPES = (2, 3)  # of MGN's second and third branch


class Part(nn.Module):
    """One part: pooled features (B, features) of a region to its own `Output`."""

    def __init__(self, architecture: Architecture, features: int):
        super().__init__()
        self.neck = Reduction(features, REDUCED)
        self.bnneck = create_bnneck(architecture, REDUCED)
        self.head = create_head(architecture, REDUCED, architecture.drop_rate)

    def forward(self, features: torch.Tensor) -> Output:
        return branch_output(features, self.neck, self.bnneck, self.head)


class PCB(nn.Module):
    """Part-based Convolutional Baseline (PCB): pools horizontal stripes of the map (B, C, H, W).

    Returns one `Output` per stripe, from the top. Sun, Zheng, Yang, Tian, Wang 2018, Beyond Part Models:
    Person Retrieval with Refined Part Pooling.
    """

    def __init__(self, architecture: Architecture, channels: int):
        super().__init__()
        self.pooling = POOLINGS[architecture.pooling or "avg"]()
        count = architecture.stripes or STRIPES
        self.parts = nn.ModuleList(Part(architecture, channels * self.pooling.times) for _ in range(count))

    def forward(self, maps: torch.Tensor) -> list[Output]:
        stripes = horizontal_stripes(maps, len(self.parts))
        return [part(self.pooling(stripe)) for part, stripe in zip(self.parts, stripes, strict=True)]


class MGN(nn.Module):
    """Multiple Granularity Network (MGN): two copies of the last stage, with 2 and 3 stripes.

    Its input is the map (B, C, H, W) that enters the last stage; the whole map of a copy and each of its
    stripes are a part, seven in total. Wang, Yuan, Chen, Li, Zhou 2018, Learning Discriminative Features with
    Multiple Granularities for Person Re-Identification. As in the paper, the copies of a ResNet's stage do
    not downsample; those of other families do. Simpler than the paper: a part has one embedding, of length
    256, for all losses, and the global branch is the network's own.
    """

    def __init__(self, architecture: Architecture, stage: LastStage, backbone: nn.Module):
        super().__init__()
        self.pooling = POOLINGS[architecture.pooling or "max"]()
        self.branches = nn.ModuleList(stage.copied(backbone, finer=True) for _ in MGN_STRIPES)
        features = backbone.feature_info[-1]["num_chs"] * self.pooling.times
        self.parts = nn.ModuleList(
            nn.ModuleList(Part(architecture, features) for _ in range(1 + count)) for count in MGN_STRIPES
        )

    def forward(self, before: torch.Tensor) -> list[Output]:
        said = []
        for branch, parts in zip(self.branches, self.parts, strict=True):
            maps = branch(before)
            places = [maps, *horizontal_stripes(maps, len(parts) - 1)]
            said += [part(self.pooling(place)) for part, place in zip(parts, places, strict=True)]
        return said


def horizontal_stripes(maps: torch.Tensor, count: int) -> list[torch.Tensor]:
    """`count` horizontal stripes of (B, C, H, W), from the top; neighbours share a row if H is no
    multiple."""
    rows = maps.shape[2]
    return [maps[:, :, i * rows // count : -(-(i + 1) * rows // count)] for i in range(count)]


def check_rows(rows: int, architecture: Architecture) -> None:
    """Raise `UserError` if a map with this number of rows has fewer rows than stripes."""
    pcb = architecture.parts == "pcb"
    count = (architecture.stripes or STRIPES) if pcb else MGN_STRIPES[-1]
    if rows < count:
        lower = "lower model.stripes, " if pcb else ""
        raise UserError(
            f"model.parts={architecture.parts} cuts {count} stripes, and the map of {architecture.backbone} "
            f"has {rows} row(s) at {architecture.image_size} px; {lower}raise data.image_size, or set "
            f"model.parts=null"
        )
