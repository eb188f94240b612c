"""What happens to images before the network sees them: one by one, and in pairs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from src.config.data import Data
from src.config.section import Count, Index, Positive, Section, Share, Switch
from src.config.train import Train


class Augment(Section):
    hflip: Share = 0.5
    """Probability of a horizontal flip. Set 0 where left and right differ, such as digits or text."""

    vflip: Share = 0.0
    """Probability of a vertical flip. Off: most photographs have an up and a down."""

    crop_scale: tuple[Share, Share] = (
        0.7,
        1.0,
    )
    """Random resized crop: share of the area kept, from and to. ImageNet's 0.08 is too hard for small data;
    [1, 1] switches cropping off."""

    crop_ratio: tuple[float, float] = (0.8, 1.25)
    """Random resized crop: aspect ratio, from and to."""

    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotation in degrees, up to this much either way."""

    shift: Share = 0.0
    """Shift (translation) as a share of the side, up to this much either way."""

    zoom: Share = 0.0
    """Zoom (scale) as a share, up to this much in or out."""

    brightness: Share = 0.0
    """Brightness jitter, as a share either way."""

    contrast: Share = 0.0
    """Contrast jitter, as a share either way."""

    cutout: Share = 0.0
    """Cutout: probability that one square, a quarter of the side, is erased."""

    # Below, null is off: a run made before such a key was there is still up to date.
    crop: Literal["resized", "random", "centre"] | None = None
    """Kind of crop: `resized` (random resized crop), `random` or `centre` of a larger cached image. `null`:
    resized, or random with `data.cache_size`."""

    d4: Share | None = None
    """Probability of a random symmetry of the square (D4: quarter turns and mirrors), for cells and tiles,
    which have no up. `null`: off."""

    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Hue jitter as a share of the colour circle, either way. `null`: off."""

    saturation: Share | None = None
    """Saturation jitter as a share, either way. `null`: off."""

    gamma: Share | None = None
    """Gamma jitter: 0.2 draws exponents from 1 / 1.2 to 1.2. `null`: off."""

    blur: Share | None = None
    """Probability of a Gaussian blur, sigma from 0.3 to 1 pixel or to a 112th of the side if that is more.
    `null`: off."""

    noise: Share | None = None
    """Probability of Gaussian noise with a standard deviation of 1 to 5 % of white. `null`: off."""

    compression: Share | None = None
    """Probability of JPEG compression at quality 40 to 90, for test sets that are compressed harder. `null`:
    off."""

    erasing: Share | None = None
    """Random erasing: probability that one rectangle of 2 to 33 % of the area becomes noise. `null`: off."""

    policy: Literal["autoaugment", "randaugment", "trivialaugment"] | None = None
    """Published augmentation policy for photographs: AutoAugment, RandAugment or TrivialAugment. `null`:
    off."""

    operations: Count | None = None
    """RandAugment: number of operations per image (N). `null`: the paper's 2."""

    magnitude: Annotated[int, Field(ge=0, le=30)] | None = None
    """RandAugment: magnitude of 30 (M). `null`: the paper's 9."""

    scales: tuple[Annotated[float, Field(ge=0.25, le=4)], ...] | None = None
    """Multi-scale training: factors of `data.image_size`, one drawn per batch. `null`: one size."""

    on_device: Switch = None
    """`true`: geometry, light and cutout run on the GPU, a batch at a time, where few CPU cores feed it.
    `null`: on the CPU."""


ONE_BY_ONE = ("hue", "saturation", "gamma", "blur", "noise", "compression", "erasing", "policy")


class Mixing(Section):
    """Two images in one, their targets in the same shares. With both kinds set, a coin is tossed a batch."""

    mixup: Positive | None = None
    """Mixup: alpha of Beta(alpha, alpha). 0.2 is mild; at 1 every share is equally likely. `null`: off."""

    cutmix: Positive | None = None
    """CutMix: alpha of Beta(alpha, alpha); the paper uses 1. `null`: off. With mixup as well, one of the two
    is drawn per batch."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the batches that are mixed; the papers mix all."""

    off_epochs: Index = 0
    """Number of last epochs without mixing, so that training ends on natural images."""

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
