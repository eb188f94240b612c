"""Losses in the config: which suit a task, which keys go together, and whose change makes a run stale."""

from __future__ import annotations

import pytest
from conftest import write_config

from src.config import LOSSES, Config, NoEffect, UserError
from src.configfile import load_config
from src.steps import run_of, train_step
from src.tasks import create_task


def load(tmp_path, text: str = "", *overrides: str):
    return load_config(write_config(tmp_path, "experiment", text), list(overrides)).train


def refused(tmp_path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize("task", LOSSES)
def test_every_task_takes_its_losses_and_refuses_the_others_with_those(tmp_path, task):
    for name in LOSSES[task]:
        assert load(tmp_path, f"task: {{name: {task}}}", f"train.loss={name}").name(task) == name
    other = {name for names in LOSSES.values() for name in names} - set(LOSSES[task])
    for name in sorted(other):
        message = refused(tmp_path, f"task: {{name: {task}}}", f"train.loss={name}")
        assert f"train.loss={name} does not suit {task}; good are {', '.join(LOSSES[task])}" in message


@pytest.mark.parametrize(
    ("task", "override", "expected"),
    [
        ("multiclass", "loss=arcface margin.size=1.6", "is, for arcface, radians added to the angle: from 0"),
        ("multiclass", "loss=cosface margin.size=1.1", "what is taken off the cosine: from 0 to 1, such as"),
        ("multiclass", "loss=sphereface margin.size=0.3", "the angle is multiplied by: from 1 to 4, such as"),
        ("retrieval", "loss=cosface margin.rarest=2", "train.margin.rarest=2 is, for cosface, what is taken"),
        ("multiclass", "loss=normface margin.size=0.3", "normface has no margin; cosface is that with one"),
        ("binary", "margin.triplet_weight=1", "needs one class a row; it is for multiclass and retrieval"),
        ("multilabel", "center_weight=0.003", "needs one class a row; it is for multiclass and retrieval"),
        ("binary", "lovasz_weight=1", "several labels a row, or pixels; it is for multilabel and segm"),
        ("multilabel", "loss=lovasz lovasz_weight=1", "stands beside train.loss=lovasz, which is that loss"),
        (
            "segmentation",
            "class_weights=inverse",
            "for rows with classes or labels, task.name is segmentation",
        ),
        ("regression", "class_weights=inverse", "for rows with classes or labels, task.name is regression"),
        (
            "multilabel",
            "loss=fbeta class_weights=inverse",
            "train.loss=fbeta looks at a row's labels together",
        ),
        ("binary", "loss=focal class_weights=inverse focal.alpha=0.3", "both weigh yes against no"),
        ("multiclass", "loss=focal focal.alpha=0.3", "give each class its own in train.class_weights"),
        ("multiclass", "margin.triplet_weight=1 batch_size=6", "holds fewer than two identities"),
    ],
)
def test_what_means_nothing_together_is_refused_with_the_reason(tmp_path, task, override, expected):
    overrides = [f"train.{item}" for item in override.split()]
    assert expected in refused(tmp_path, f"task: {{name: {task}}}", *overrides)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.focal.gamma=0.5", "`train.focal.gamma` is 0.5: between 0 and 1 the gradient where a row is"),
        ("train.asymmetric.gamma_negative=0.5", "give 0, or 1 up; a good value looks like 4.0"),
        ("train.top_share=0", "`train.top_share` is 0: input should be greater than 0"),
        ("train.top_share=1.5", "less than or equal to 1"),
        ("train.class_weights=balanced", "`train.class_weights` is 'balanced': it is inverse, effective, or"),
        ("train.class_weights={}", "`train.class_weights` is {}: it is inverse, effective, or a weight for"),
        ("train.class_weights={cat: 0}", "the weight of cat is a number above 0, such as 2"),
        ("train.class_weights={cat: many}", "the weight of cat is a number above 0, such as 2"),
        (
            "train.class_weights={yes: 2}",
            "a class called yes, no, on or off is read as true or false; quote it",
        ),
        ("train.effective_beta=1", "`train.effective_beta` is 1: input should be less than 1"),
        (
            "train.class_weight.cat=2",
            "unknown key `train.class_weight.cat`; did you mean `train.class_weights",
        ),
    ],
)
def test_a_value_out_of_bounds_is_named_with_its_key(tmp_path, override, expected):
    assert expected in refused(tmp_path, "", override)


def test_class_weights_are_named_as_the_classes_are_in_files_and_on_the_command_line(tmp_path):
    text = "train:\n  class_weights:\n    3: 2\n    '007': 1.5\n    big.cat: 4\n"
    assert load(tmp_path, text).class_weights == {"3": 2, "007": 1.5, "big.cat": 4}
    assert load(tmp_path, "", "train.class_weights={dog: 2, 'yes': 3}").class_weights == {"dog": 2, "yes": 3}
    assert load(tmp_path, "", "train.class_weights.dog=2").class_weights == {"dog": 2}
    assert load(tmp_path, text, "train.class_weights=effective").class_weights == "effective"
    assert load(tmp_path, text, "train.class_weights=null").class_weights is None


@pytest.mark.parametrize("name", LOSSES["segmentation"])
def test_masks_exclude_each_other_where_the_loss_says_so(name):
    task = create_task(Config(task={"name": "segmentation"}, train={"loss": name}))
    assert task.exclusive == (name in ("ce_dice", "lovasz_softmax"))


def fingerprint(project, *overrides: str) -> str:
    config = load_config(project / "configs" / "baseline.yaml", list(overrides))
    return train_step(run_of(config), 0).fingerprint


def test_a_knob_of_another_loss_makes_no_run_stale_and_its_own_does(prepared):
    plain = fingerprint(prepared)
    for loss, knob in (
        ("focal", "train.focal.gamma=3"),
        ("arcface", "train.margin.scale=20"),
        ("generalized_cross_entropy", "train.generalized_q=0.5"),
    ):
        other = fingerprint(prepared, f"train.loss={loss}")
        assert other != plain
        assert fingerprint(prepared, f"train.loss={loss}", knob) != other
        with pytest.raises(NoEffect, match=f"`{knob.partition('=')[0]}` is .* has no effect"):
            fingerprint(prepared, knob)
    weighted = fingerprint(prepared, "train.class_weights=effective")
    assert fingerprint(prepared, "train.class_weights=effective", "train.effective_beta=0.9") != weighted
    triplet = fingerprint(prepared, "train.margin.triplet_weight=1")
    assert fingerprint(prepared, "train.margin.triplet_weight=1", "train.images_per_class=2") != triplet


def test_what_is_off_is_as_if_it_were_not_there(prepared):
    """So that runs of an earlier version stay up to date."""
    config = load_config(prepared / "configs" / "baseline.yaml")
    recipe = train_step(run_of(config), 0).recipe["train"]
    assert {recipe[key] for key in ("center_weight", "class_weights", "top_share")} == {None}
    assert {"lovasz_weight", "focal", "asymmetric", "symmetric", "generalized_q", "fbeta"}.isdisjoint(recipe)
    assert recipe["margin"] == {"triplet_weight": None}
