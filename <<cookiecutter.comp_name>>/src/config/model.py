"""The network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from src.config.section import Count, Section, Share


class Model(Section):
    backbone: str = "resnet18"
    """Any timm model name. resnet18 is fast enough to find mistakes with and strong enough to compare
    ideas."""

    pretrained: bool = True
    """Start from timm's pretrained weights (transfer learning). `false`: random weights."""

    weights: str | None = None
    """Local .safetensors or .pth file with backbone weights, used instead of a download."""

    drop_rate: Share = 0.0
    """Dropout before the head."""

    drop_path_rate: Share = 0.0
    """Stochastic depth (drop path): probability of skipping a residual block."""

    decoder: Literal["unet", "fpn"] = "unet"
    """Segmentation decoder: `unet` (U-Net) keeps fine edges, `fpn` (feature pyramid network) is lighter."""

    embedding: Count | None = None
    """Retrieval: length of the embedding. `null`: the backbone's own features."""

    pooling: Literal["avg", "max", "dual", "gem"] | None = None
    """Global pooling: average, maximum, both concatenated (`dual`), or generalised mean (`gem`, GeM). `null`:
    the backbone's own, which its weights were trained with."""

    neck: Literal["bnneck"] | None = None
    """BNNeck: metric losses see the features before a batch norm, classification after it. `null`: none."""

    dropout_samples: Annotated[int, Field(ge=2, le=64)] | None = None
    """Multi-sample dropout: number of dropout masks whose logits are averaged in training. `null`: one."""

    ibn: Literal["a", "b"] | None = None
    """IBN-Net for ResNets: instance normalisation in part of the channels, for styles that training never
    showed; variant a or b. `null`: off."""

    parts: Literal["pcb", "mgn"] | None = None
    """Part-based heads beside the global one: `pcb` (PCB, horizontal stripes) or `mgn` (MGN, multiple
    granularities). `null`: off."""

    stripes: Annotated[int, Field(ge=2, le=32)] | None = None
    """Number of horizontal stripes of PCB. `null`: the paper's 6."""

    subcenters: Count | None = None
    """Sub-center ArcFace: directions per class of the cosine head. `null`: one."""

    normalize: Literal["dataset", "backbone"] = "dataset"
    """Input normalisation: mean and standard deviation of this data set, or those the backbone's weights were
    trained with."""

    checkpointing: bool = False
    """Gradient checkpointing: activations are computed twice instead of stored; half the memory for a third
    more time."""

    @model_validator(mode="after")
    def _options_have_what_they_change(self) -> Model:
        """Refuse an option of something that is off."""
        if self.dropout_samples is not None and not self.drop_rate:
            raise ValueError(
                f"model.dropout_samples={self.dropout_samples} draws masks at model.drop_rate=0, which drops "
                f"nothing; set model.drop_rate to 0.2, say"
            )
        if self.stripes is not None and self.parts != "pcb":
            raise ValueError(
                f"model.stripes={self.stripes} is the number of PCB's stripes; set model.parts=pcb with it"
            )
        return self
