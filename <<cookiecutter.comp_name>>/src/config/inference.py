"""Prediction: test-time augmentation, averaging, and what retrieval makes of a ranking."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.section import Count, Section, Share

Side = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]  # pixels; strides of 32 then fit
CropShare = Annotated[float, Field(ge=0.5, lt=1)]  # of the side; four crops of a half just cover the image


class Rerank(Section):
    """k-reciprocal re-ranking (Zhong et al. 2017), see src/inference/rerank.py; the paper's own numbers."""

    k1: Count = 20
    """k-reciprocal neighbours: how many nearest images may be neighbours of each other."""

    k2: Count = 6
    """Local query expansion: how many neighbourhoods are averaged, the image's own included. 1: none."""

    weight: Share = 0.3
    """Weight of the cosine distance (lambda); the Jaccard distance has the rest."""


class Expansion(Section):
    """Query expansion (Chum et al. 2007; Radenovic et al. 2018), see src/inference/expansion.py."""

    k: Count = 5
    """Nearest gallery images added to a query; about as many as an identity has."""

    alpha: Annotated[float, Field(ge=0)] = 3.0
    """Alpha query expansion: each neighbour is weighted by its cosine to this power. 0: all alike."""

    gallery: bool = False
    """`true`: database-side augmentation (DBA), gallery images are averaged with their neighbours as well."""


class Inference(Section):
    tta: tuple[str, ...] = ("identity", "hflip")
    """Test-time augmentation (TTA): the views whose predictions are averaged; names are in
    `src/data/views.py`."""

    scales: tuple[Side, ...] | None = None
    """Multi-scale TTA: sizes in pixels at which each view is predicted. `null`: `data.image_size` alone."""

    crop: CropShare | None = None
    """Crop TTA: share of the side that a crop view keeps. `null`: 7/8 (224 of 256)."""

    average: Literal["probability", "logit", "rank"] = "probability"
    """What TTA views and folds are averaged as: probabilities, logits, or ranks (for AUC and other order
    metrics)."""

    batch_size: Count = 64
    """Images per batch in prediction; changes speed and memory, not results."""

    candidates: Count = 50
    """Retrieval: identities kept of each query's ranking."""

    expansion: Expansion | None = None
    """Query expansion (Chum et al. 2007; Radenovic et al. 2018): queries are averaged with their nearest
    images. `null`: off."""

    rerank: Rerank | None = None
    """k-reciprocal re-ranking (Zhong et al. 2017). `null`: off."""


def check_inference(inference: Inference, task: str) -> None:
    """Raise ValueError for keys of inference that exclude each other, or the task."""
    if not inference.tta:
        raise ValueError("inference.tta is empty: give at least [identity]")
    scales, rerank = inference.scales, inference.rerank
    if scales is not None and (not scales or len(set(scales)) < len(scales)):
        raise ValueError(
            f"inference.scales={list(scales)} must name one size or more, each once, such as [224, 256]"
        )
    if inference.average == "rank" and task not in ("binary", "multilabel", "multiclass"):
        raise ValueError(f"inference.average=rank does not suit {task}: {RANKLESS[task]}")
    for key in ("expansion", "rerank"):
        if getattr(inference, key) is not None and task != "retrieval":
            raise ValueError(
                f"inference.{key} works on the neighbours of an image in a gallery, and {task} has none; "
                f"leave it null"
            )
    if rerank is not None and rerank.k2 > rerank.k1:
        raise ValueError(
            f"inference.rerank.k2={rerank.k2} lies above inference.rerank.k1={rerank.k1}, and only the k1 "
            f"nearest are known; give a smaller k2, such as {min(6, rerank.k1)}"
        )


RANKLESS = {  # why ranks cannot take the place of predictions
    "regression": "a rank is not in the target's units",
    "segmentation": "a pixel's rank among all pixels of all images says nothing of its own image",
    "retrieval": "embeddings are averaged, and they have no order",
}
