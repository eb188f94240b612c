"""What the keys about pixels refuse, and that switched off they make no earlier run stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.config import Augment, Config, Mixing, UserError
from src.configfile import load_config
from src.steps import run_of, train_step

SEGMENTATION = ("task.name=segmentation", "data.rle=rle")
KEYS_OF_OLD = {
    "hflip",
    "vflip",
    "crop_scale",
    "crop_ratio",
    "rotate",
    "shift",
    "zoom",
    "brightness",
    "contrast",
    "cutout",
}


def read(project: Path, *overrides: str) -> Config:
    return load_config(project / "configs" / "baseline.yaml", list(overrides))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("augment.operations=3",), "are those of augment.policy=randaugment"),
        (
            ("augment.policy=trivialaugment", "augment.magnitude=5"),
            "are those of augment.policy=randaugment; the other policies draw their own",
        ),
        (("augment.policy=randomaugment",), "'autoaugment', 'randaugment' or 'trivialaugment'"),
        (("augment.policy=randaugment", "augment.magnitude=31"), "less than or equal to 30"),
        (("augment.hue=0.6",), "less than or equal to 0.5"),
        (("augment.d4=1.5",), "less than or equal to 1"),
        (("augment.crop=middle",), "'resized', 'random' or 'centre'"),
        (("augment.scales=[0.1,1]",), "greater than or equal to 0.25"),
        (
            (*SEGMENTATION, "augment.policy=autoaugment"),
            "augment.policy=autoaugment turns and shears images, their masks would stay where they were",
        ),
        (("train.sampling=even",), "'balanced' or 'sqrt'"),
        (("mixing.mixup=1", "train.top_share=0.5"), "mixtures always do"),
        (("train.sampling=balanced", "train.class_weights=inverse"), "together they overshoot"),
        (("train.sampling=sqrt", "train.margin.triplet_weight=1"), "batches are made of identities"),
        (("mixing.off_epochs=99",), "has no effect: it is for mixing.mixup or mixing.cutmix"),
        (("mixing.cutmix=1", "train.center_weight=0.003"), "give a row two identities"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(project, overrides, says):
    with pytest.raises(UserError) as error:
        read(project, *overrides)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ("augment.policy=randaugment", "augment.operations=1", "augment.magnitude=0"),
        (*SEGMENTATION, "mixing.cutmix=1", "augment.d4=0.5", "augment.erasing=0.3", "augment.scales=[1,2]"),
        (*SEGMENTATION, "data.cache_size=32", "augment.crop=random"),
        ("data.cache_size=32", "augment.crop=resized", "mixing.mixup=0.2", "train.sampling=sqrt"),
    ],
)
def test_what_goes_together_is_taken(project, overrides):
    read(project, *overrides)


def test_switched_off_the_keys_make_no_earlier_run_stale(prepared):
    """A null counts as not there, and what is there is what was there before."""
    recipe = train_step(run_of(read(prepared)), 0).recipe
    assert {key for key, value in recipe["augment"].items() if value is not None} == KEYS_OF_OLD
    assert "mixing" not in recipe
    assert recipe["train"]["sampling"] is None
    assert recipe["inputs"]["crop"] is None
    assert recipe["inputs"]["images"]["preprocess"] is None


@pytest.mark.parametrize(
    "override",
    ["augment.d4=0.5", "augment.policy=autoaugment", "augment.scales=[1,2]", "train.sampling=sqrt"],
)
def test_switched_on_they_do(prepared, override):
    plain, changed = (train_step(run_of(read(prepared, *more)), 0) for more in ((), (override,)))
    assert changed.fingerprint != plain.fingerprint


def test_nothing_of_it_is_on_unless_asked_for():
    later = {key: value for key, value in Augment().model_dump().items() if key not in KEYS_OF_OLD}
    assert set(later.values()) == {None}
    assert not Mixing().on
