"""Knowledge distillation: the teacher of a fold, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn
from trainers import CPU, make_trainer, read, silent

from src.artifacts import digest, write_json
from src.config import Config, UserError
from src.losses.distillation import distillation
from src.losses.relations import relations
from src.models.build import Architecture, create_model
from src.models.weights import save_model
from src.steps import run_of, train_step
from src.training import teacher_cache
from src.training.teachers import Teacher


def make_teacher(
    project: Path,
    size: int = 16,
    outputs: int = 10,
    folds: str | None = None,
    name: str = "teacher",
    seed: int = 0,
) -> dict:
    """A finished run of that name with another network in each fold; gives them."""
    models = {}
    for fold in (0, 1):
        torch.manual_seed(10 * seed + fold)
        model = create_model(Architecture("test_resnet", outputs, size, (0.4,) * 3, (0.3,) * 3)).eval()
        folder = project / "runs" / name / f"fold{fold}"
        save_model(folder / "model.safetensors", model.architecture, model.state_dict())
        known = folds or digest(project / "data" / "folds.csv")
        recipe = {"inputs": {"folds": known}}
        write_json(folder / "train.stamp.json", {"fingerprint": "", "outputs": {}, "recipe": recipe})
        models[fold] = model
    return models


def teacher_of(project: Path, fold: int, outputs: int = 10) -> Teacher:
    pupil = Architecture("test_resnet", outputs, 16, (0.5,) * 3, (0.5,) * 3)
    return Teacher(read(project), "teacher", fold, pupil, CPU)


def some_images(size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)


def test_the_teacher_of_a_fold_is_the_teacher_runs_model_of_that_fold_and_of_no_other(prepared):
    models, images = make_teacher(prepared), some_images()
    with torch.no_grad():
        said = {fold: models[fold](images).logits for fold in (0, 1)}
    for fold in (0, 1):
        assert torch.equal(teacher_of(prepared, fold)(images).logits, said[fold])
        assert not torch.equal(teacher_of(prepared, fold)(images).logits, said[1 - fold])


def test_training_asks_the_teacher_of_its_own_fold(prepared):
    make_teacher(prepared)
    for fold in (0, 1):
        trainer = make_trainer(prepared, "distill.teacher=teacher", fold=fold)
        weight = trainer.teacher.each[0].model.head.linear.weight
        assert torch.equal(weight, teacher_of(prepared, fold).model.head.linear.weight)


def test_a_teacher_trained_on_other_folds_is_refused(prepared):
    make_teacher(prepared)
    path = prepared / "data" / "folds.csv"
    path.write_text(path.read_text().replace(",0,", ",1,", 1))
    with pytest.raises(
        UserError, match=r"teacher was trained on other folds .* run `make train EXP=teacher`"
    ):
        teacher_of(prepared, 0)


def test_a_teacher_that_is_not_finished_is_refused(prepared):
    make_teacher(prepared)
    (prepared / "runs" / "teacher" / "fold1" / "train.stamp.json").unlink()
    with pytest.raises(UserError, match=r"fold1 is not finished; run `make train EXP=teacher` first"):
        teacher_of(prepared, 1)


def test_a_teacher_of_other_outputs_is_refused(prepared):
    make_teacher(prepared, outputs=7)
    with pytest.raises(UserError, match="teacher has 7 outputs, this task has 10"):
        teacher_of(prepared, 0)


def test_a_teacher_of_another_size_is_shown_the_same_view_resized(prepared):
    models = make_teacher(prepared, size=32)
    images = some_images(16)
    resized = F.interpolate(images.float(), size=(32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = models[0](resized).logits
    assert torch.equal(teacher_of(prepared, 0)(images).logits, expected)


def test_a_teacher_learns_nothing(prepared):
    make_teacher(prepared)
    trainer = make_trainer(prepared, "distill.teacher=teacher")
    before = {name: tensor.clone() for name, tensor in trainer.teacher.each[0].model.state_dict().items()}
    assert not trainer.teacher(some_images()).logits.requires_grad
    trainer.train_epoch(0, silent)
    assert all(p.grad is None for p in trainer.teacher.each[0].model.parameters())
    assert all(torch.equal(before[name], t) for name, t in trainer.teacher.each[0].model.state_dict().items())
    taught = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert taught.isdisjoint(id(p) for p in trainer.teacher.each[0].model.parameters())


def test_pupil_and_teacher_see_the_very_same_pixels_and_only_the_pupils_labels_are_smoothed(prepared):
    make_teacher(prepared)
    overrides = (
        "distill.teacher=teacher",
        "distill.weight=0.3",
        "distill.temperature=3",
        "augment.hflip=0.5",
    )
    trainer = make_trainer(prepared, *overrides, "train.label_smoothing=0.2")
    model, teacher, shown = trainer.model, trainer.teacher, []

    class Watch(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.scale = network, model.scale

        def forward(self, images):
            shown.append(images)
            return self.network(images)

    trainer.model, trainer.teacher = Watch(model.eval()), Watch(teacher)
    images, targets, _ = next(iter(trainer.loader))
    losses = trainer.sample_losses(images, targets)
    assert shown[0] is shown[1] is images
    with torch.no_grad():
        pupil, told = model(images).logits, teacher(images).logits
    label = F.cross_entropy(pupil, targets, reduction="none", label_smoothing=0.2)
    softened = (told / 3).softmax(1)
    word = 9 * (softened * (softened.log() - (pupil / 3).log_softmax(1))).sum(1)
    torch.testing.assert_close(losses, 0.3 * word + 0.7 * label, rtol=1e-5, atol=1e-6)


# --- several teachers ---------------------------------------------------------------------------------------

TWO = "distill.teacher=[teacher,other]"
FIXED = ("distill.teacher=teacher", "augment.crop_scale=[1.0,1.0]")  # hflip is off here: every view is fixed


def test_a_pupil_of_two_teachers_learns_from_the_mean_of_their_probabilities(prepared):
    models = [make_teacher(prepared)[0], make_teacher(prepared, size=32, name="other", seed=1)[0]]
    trainer = make_trainer(prepared, TWO, "distill.weight=1.0", "distill.temperature=3")
    trainer.model.eval()
    images, targets, _ = next(iter(trainer.loader))
    larger = F.interpolate(images.float(), size=(32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        losses = trainer.sample_losses(images, targets)
        said = [model(x).logits.double() for model, x in zip(models, (images, larger), strict=True)]
        log_pupil = (trainer.model(images).logits.double() / 3).log_softmax(1)
    told = torch.stack([(one / 3).softmax(1) for one in said]).mean(0)
    expected = 9 * (told * (told.log() - log_pupil)).sum(1)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-5)
    middle = torch.stack(said).mean(0)  # a mean of logits is another teacher
    assert (distillation("kl", trainer.model(images).logits, middle, 3.0) - losses).abs().max() > 1e-4


def test_each_of_several_teachers_is_checked(prepared):
    make_teacher(prepared)
    with pytest.raises(UserError, match=r"runs/other/fold0 is not finished; run `make train EXP=other`"):
        make_trainer(prepared, TWO)
    make_teacher(prepared, outputs=7, name="other")
    with pytest.raises(UserError, match="other has 7 outputs, this task has 10"):
        make_trainer(prepared, TWO)
    make_teacher(prepared, folds="others", name="other")
    with pytest.raises(UserError, match="other was trained on other folds"):
        make_trainer(prepared, TWO)


def test_a_run_is_stale_once_any_of_its_teachers_has_other_weights(prepared):
    def fingerprint(*overrides: str) -> str:
        return train_step(run_of(read(prepared, *overrides)), 0).fingerprint

    make_teacher(prepared)
    make_teacher(prepared, name="other", seed=1)
    one, two = fingerprint("distill.teacher=teacher"), fingerprint(TWO)
    assert fingerprint("distill.teacher=[teacher]") == one != two
    make_teacher(prepared, name="other", seed=2)
    assert fingerprint("distill.teacher=teacher") == one
    changed = fingerprint(TWO)
    assert changed != two
    make_teacher(prepared, seed=3)
    assert fingerprint("distill.teacher=teacher") != one
    assert fingerprint(TWO) not in (two, changed)


@pytest.mark.parametrize("names", [[], ["one", "one"]])
def test_teachers_are_named_each_once(names):
    with pytest.raises(ValidationError, match=r"one finished run or more, each once, such as \[big, wide\]"):
        Config(distill={"teacher": names})


def test_a_run_does_not_teach_itself_among_others():
    with pytest.raises(ValidationError, match=r"distill\.teacher=pupil is this run itself"):
        Config(name="pupil", distill={"teacher": ["big", "pupil"]})


# --- features, and labels in place of probabilities ---------------------------------------------------------


@pytest.mark.parametrize("fixed", [False, True])
def test_features_are_led_to_lie_as_the_teachers_do_beside_its_answer(prepared, fixed):
    teacher = make_teacher(prepared)[0]
    plain = ("distill.teacher=teacher", *(FIXED if fixed else ()))
    trainer = make_trainer(prepared, *plain, "distill.features=5", "distill.weight=0.4")
    trainer.model.eval()
    rows = trainer.sampler.batches()[0]
    images, targets, _ = trainer.loader.dataset[0, rows]
    found = trainer.sample_losses(images, targets, rows)
    with torch.no_grad():
        pupil, told = trainer.model(images), teacher(images)
        label = trainer.loss(pupil, targets)
        answer = distillation("kl", pupil.logits, told.logits, 2.0)
        relation = relations(pupil.embedding, told.embedding)
    torch.testing.assert_close(found, 0.4 * answer + 0.6 * label + 5 * relation, rtol=1e-4, atol=1e-5)
    taught = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert taught == {id(p) for p in trainer.model.parameters()}


def test_features_of_other_lengths_and_of_several_teachers_are_as_good(prepared):
    make_teacher(prepared)
    make_teacher(prepared, size=32, name="other", seed=1)
    settings = ("distill.features=1", "distill.weight=0", "model.backbone=test_efficientnet")
    trainer = make_trainer(prepared, TWO, *settings)
    images = some_images()
    lengths = trainer.teacher(images).embedding.shape[1], trainer.model(images).embedding.shape[1]
    assert lengths[0] == 2 * 96 != lengths[1]
    assert np.isfinite(trainer.train_epoch(0, silent)["train_loss"])


def test_a_hard_teacher_gives_labels_at_no_temperature(prepared):
    models = [make_teacher(prepared)[0], make_teacher(prepared, name="other", seed=1)[0]]
    settings = ("distill.hard=true", "distill.weight=0.3", "train.label_smoothing=0.1")
    trainer = make_trainer(prepared, TWO, *settings)
    with pytest.raises(UserError, match=r"`distill.temperature` is 5.0 and has no effect"):
        make_trainer(prepared, TWO, *settings, "distill.temperature=5")
    trainer.model.eval()
    images, targets, _ = next(iter(trainer.loader))
    with torch.no_grad():
        found = trainer.sample_losses(images, targets)
        said = sum(model(images).logits.softmax(1) for model in models).argmax(1)
        logits = trainer.model(images).logits
    label = F.cross_entropy(logits, targets, reduction="none", label_smoothing=0.1)
    expected = 0.3 * F.cross_entropy(logits, said, reduction="none") + 0.7 * label
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"distill": {"hard": True}}, "distill.hard is about a teacher, and there is none"),
        ({"distill": {"features": 1}}, "distill.features is about a teacher, and there is none"),
        (
            {"task": {"name": "regression"}, "distill": {"teacher": "big", "hard": True}},
            "distill.hard makes labels of probabilities, and a regression's teacher says a number",
        ),
        (
            {"task": {"name": "retrieval"}, "distill": {"teacher": "big", "hard": True}},
            "a retrieval's teacher says an embedding",
        ),
    ],
)
def test_a_lesson_that_makes_no_sense_is_refused_with_the_reason(tree, expected):
    with pytest.raises(ValidationError) as error:
        Config.model_validate(tree)
    assert expected in str(error.value.errors()[0]["ctx"]["error"])


# --- notes of what it said ----------------------------------------------------------------------------------


def epochs(trainer, number: int = 2) -> tuple[list, dict[str, torch.Tensor]]:
    """Train on; the losses and weights."""
    losses = [trainer.train_epoch(epoch, silent)["train_loss"] for epoch in range(number)]
    return losses, trainer.model.state_dict()


def asked(trainer) -> list[int]:
    """How many images its teacher is shown, call by call, from now on."""
    shown: list[int] = []
    trainer.teacher.each[0].model.register_forward_pre_hook(lambda _, inputs: shown.append(len(inputs[0])))
    return shown


def test_of_views_that_never_change_the_teacher_is_asked_once_an_image_and_nothing_else_changes(prepared):
    make_teacher(prepared)
    noting, asking = make_trainer(prepared, *FIXED), make_trainer(prepared, *FIXED)
    asking.teacher_cache = None
    shown, shown_anew = asked(noting), asked(asking)
    (losses, _), (expected, _) = epochs(noting), epochs(asking)
    assert sum(shown) == len(noting.rows)
    assert sum(shown_anew) == 2 * sum(map(len, asking.sampler.batches()))
    assert losses == pytest.approx(expected, rel=1e-5)  # the last bits of a product depend on its batch


def test_notes_are_the_very_words_on_the_very_view(prepared):
    make_teacher(prepared)
    trainer = make_trainer(prepared, *FIXED)
    size = trainer.config.train.batch_size
    for start in (2 * size, 0):
        rows = np.arange(start, min(start + size, len(trainer.rows)))
        images, *_ = trainer.loader.dataset[3, rows]
        said, noted = trainer.teacher(images), trainer.teacher_cache(images, rows[::-1].copy())
        assert torch.equal(noted.logits, said.logits.flip(0))
        assert torch.equal(noted.embedding, said.embedding.flip(0))


def test_notes_do_not_depend_on_the_epoch_that_a_training_is_resumed_in(prepared, tmp_path):
    make_teacher(prepared)
    whole, first = make_trainer(prepared, *FIXED), make_trainer(prepared, *FIXED)
    _, weights = epochs(whole)
    first.train_epoch(0, silent)
    first.save(tmp_path / "checkpoint.pt", "recipe")
    second = make_trainer(prepared, *FIXED)
    second.resume(tmp_path / "checkpoint.pt", "recipe")
    second.train_epoch(1, silent)
    assert all(torch.equal(weights[name], x) for name, x in second.model.state_dict().items())


@pytest.mark.parametrize(
    "changing",
    [
        "augment.hflip=0.5",
        "augment.crop_scale=[0.7,1.0]",
        "augment.cutout=0.1",
        "augment.gamma=0.2",
        "mixing.mixup=0.2",
        "augment.scales=[1,2]",
    ],
)
def test_a_view_that_changes_is_asked_of_anew(prepared, changing):
    make_teacher(prepared)
    assert make_trainer(prepared, *FIXED, changing).teacher_cache is None


def test_notes_that_would_not_fit_are_not_taken_and_nothing_else_changes(prepared, monkeypatch):
    make_teacher(prepared)
    noting, trainer = make_trainer(prepared, *FIXED), make_trainer(prepared, *FIXED)
    expected, _ = epochs(noting)
    monkeypatch.setattr(teacher_cache, "_MOST", 100)
    shown = asked(trainer)
    assert epochs(trainer)[0] == pytest.approx(expected, rel=1e-5)
    assert sum(shown) > 2 * len(trainer.rows) - trainer.config.train.batch_size


def test_a_wrong_name_among_several_is_told_as_that_name():
    with pytest.raises(ValidationError) as error:
        Config(distill={"teacher": ["big", "a b"]})
    (only,) = error.value.errors()
    assert (only["type"], only["input"]) == ("string_pattern_mismatch", "a b")
