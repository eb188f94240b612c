"""What happens to images before the network sees them: one by one, and in pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.data import Data
from src.config.section import Count, Index, Positive, Section, Share, Switch
from src.config.train import Train


class Augment(Section):
    hflip: Share = 0.5
    vflip: Share = 0.0  # off: most photographs have an up and a down
    crop_scale: tuple[Share, Share] = (
        0.7,
        1.0,
    )  # share of the area kept; 0.08 is too hard here
    crop_ratio: tuple[float, float] = (0.8, 1.25)
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0  # degrees, either way
    shift: Share = 0.0  # share of the side, either way
    zoom: Share = 0.0  # share, in or out
    brightness: Share = 0.0
    contrast: Share = 0.0
    cutout: Share = 0.0  # probability of one erased square, a quarter of the side

    # Below, null is off: a run made before such a key was there is still up to date.
    crop: Literal["resized", "random", "centre"] | None = None  # null: resized; random with data.cache_size
    d4: Share | None = None  # probability of a quarter turn or mirror: cells and tiles have no up
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None  # share of the colour circle, either way
    saturation: Share | None = None  # share, more or less
    gamma: Share | None = None  # 0.2: exponents from 1 / 1.2 to 1.2
    blur: Share | None = None  # probability; sigma from 0.3 to 1 pixel, or a 112th of the side if more
    noise: Share | None = None  # probability; Gaussian, std from 1 to 5 % of white
    compression: Share | None = None  # probability of JPEG at quality 40 to 90: the test set's may be worse
    erasing: Share | None = None  # probability of one rectangle of noise, 2 to 33 % of the area
    policy: Literal["autoaugment", "randaugment", "trivialaugment"] | None = None  # for photographs
    operations: Count | None = None  # of randaugment; null: 2, as in the paper
    magnitude: Annotated[int, Field(ge=0, le=30)] | None = None  # of randaugment; null: 9 of 30
    scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] | None = None  # of image_size, one a batch
    on_device: Switch = (
        None  # true: by the GPU, a batch at once; moves, light and cutout, where cores are few
    )


ONE_BY_ONE = ("hue", "saturation", "gamma", "blur", "noise", "compression", "erasing", "policy")


class Mixing(Section):
    """Two images in one, their targets in the same shares. With both kinds set, a coin is tossed a batch."""

    mixup: Positive | None = None  # alpha of Beta(alpha, alpha); 0.2 is mild, at 1 every share is as likely
    cutmix: Positive | None = None  # alpha; 1 in the paper: boxes of every size
    share: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the batches; the papers mix all
    off_epochs: Index = 0  # last epochs without, so that training ends on images as they are

    @property
    def on(self) -> bool:
        return self.mixup is not None or self.cutmix is not None


def check_pixels(augment: Augment, mixing: Mixing, data: Data, train: Train, task: str) -> None:
    """Refuse what cannot mean anything, with the reason."""
    if data.cache_size is not None and data.cache_size <= data.image_size:
        raise ValueError(
            f"data.cache_size={data.cache_size} must be larger than data.image_size={data.image_size}, "
            f"which is cut from it; null caches at data.image_size"
        )
    if data.cache_size is None and augment.crop in ("random", "centre"):
        raise ValueError(
            f"augment.crop={augment.crop} needs data.cache_size, larger than data.image_size="
            f"{data.image_size}: there is nothing to cut away"
        )
    if augment.policy != "randaugment" and (augment.operations, augment.magnitude) != (None, None):
        raise ValueError(
            "augment.operations and augment.magnitude are those of augment.policy=randaugment; "
            "the other policies draw their own"
        )
    slow = [name for name in ONE_BY_ONE if getattr(augment, name)]
    if augment.on_device and slow:
        raise ValueError(
            f"augment.{slow[0]} is done image by image on the CPU, and augment.on_device=true moves whole "
            f"batches on the device; leave one of them null"
        )
    if augment.scales is not None and len(set(augment.scales)) < 2:
        raise ValueError(
            f"augment.scales={list(augment.scales)} is one size: give two or more, such as [0.75, 1, 1.25]"
        )
    if augment.policy is not None and task == "segmentation":
        raise ValueError(
            f"augment.policy={augment.policy} turns and shears images, their masks would stay where they "
            f"were; for segmentation use augment.rotate, shift, zoom and the colours"
        )
    one_class = train.triplet_weight(task) or train.center_weight
    if mixing.on and one_class:
        raise ValueError(
            "mixing.mixup and mixing.cutmix give a row two identities, a margin or a triplet needs one; "
            "for retrieval use augment.erasing"
        )
    if mixing.on and train.top_share is not None:
        raise ValueError(
            f"train.top_share={train.top_share:g} learns from the rows that cost most, and mixtures always "
            f"do: it would drop the images that are whole; leave it or mixing out"
        )
    if train.sampling is not None and task not in ("multiclass", "binary", "multilabel"):
        raise ValueError(
            f"train.sampling={train.sampling} balances classes, and {task} has none to balance; "
            f"set it to null"
        )
    if train.sampling is not None and train.class_weights is not None:
        raise ValueError(
            f"train.sampling={train.sampling} and train.class_weights both lift rare classes, and together "
            f"they overshoot: of 400, 90 and 10 rows the last class gets 88 % of the loss; leave one out"
        )
    if train.sampling is not None and train.triplet_weight(task):
        raise ValueError(
            f"train.sampling={train.sampling} shares out rows, and a triplet's batches are made of "
            f"identities (train.images_per_class); set it to null"
        )
    if mixing.on and mixing.off_epochs >= train.epochs:
        raise ValueError(
            f"mixing.off_epochs={mixing.off_epochs} leaves none of train.epochs={train.epochs} to mix in"
        )
