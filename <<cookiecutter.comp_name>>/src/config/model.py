"""The network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from src.config.section import Count, Section, Share


class Model(Section):
    backbone: str = "resnet18"  # any timm name; fast enough to find bugs with, strong enough to rank ideas
    pretrained: bool = True
    weights: str | None = None  # local .safetensors or .pth for the backbone, in place of a download
    drop_rate: Share = 0.0
    drop_path_rate: Share = 0.0
    decoder: Literal["unet", "fpn"] = "unet"  # segmentation: U-Net keeps fine edges, FPN is lighter
    embedding: Count | None = None  # retrieval: length of the embedding; null: the backbone's own features
    pooling: Literal["avg", "max", "dual", "gem"] | None = None  # null: the backbone's own, as it was trained
    neck: Literal["bnneck"] | None = None  # distances learned before a batch norm, classes after; null: none
    dropout_samples: Annotated[int, Field(ge=2, le=64)] | None = None  # masks averaged a step; null: one
    ibn: Literal["a", "b"] | None = None  # ResNets: instance norms, for styles nobody has seen; null: none
    parts: Literal["pcb", "mgn"] | None = None  # local embeddings and heads beside the whole; null: none
    stripes: Annotated[int, Field(ge=2, le=32)] | None = None  # of pcb, from the top; null: the paper's 6
    subcenters: Count | None = None  # directions a class of a margin loss's cosine head; null: one
    normalize: Literal["dataset", "backbone"] = "dataset"  # backbone: mean and std its weights were made with
    checkpointing: bool = False  # activations made twice, not kept: less memory, more time

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
