"""The options of a network together: any of them with any other, from the config to a training step, or a
sentence that says why not."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import BASELINE, forget_the_listings, write_config
from digits import write_competition
from networks import architecture, images, shaken
from pydantic import ValidationError

from src.config import Config, Distill
from src.configfile import load_config
from src.data.loaders import load_fold
from src.data.prepare import prepare_dataset
from src.inference.predict import embed, predict
from src.losses.distillation import distillation
from src.models.build import create_model
from src.models.weights import load_model, save_model
from src.steps import images_step, run_of, train_step
from src.tasks import create_task
from src.training.trainer import Trainer

CHOICES = {
    "pooling": (None, "avg", "max", "dual", "gem"),
    "parts": (None, "pcb", "mgn"),
    "ibn": (None, "a", "b"),
    "head": ("linear", "cosine", "cosine of sub-centres"),
    "neck": (None, "bnneck"),
    "dropout_samples": (None, 2),
    "embedding": (None, 12),
}


def every_pair() -> list[dict]:
    """A few choices of all options among which every two values of two options meet."""
    everything = list(itertools.product(*CHOICES.values()))
    pairs = [set(itertools.combinations(enumerate(values), 2)) for values in everything]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(everything)), key=lambda i: len(pairs[i] & missing))
        missing -= pairs[best]
        chosen.append(dict(zip(CHOICES, everything[best], strict=True)))
    return chosen


@pytest.mark.parametrize("chosen", every_pair(), ids=lambda chosen: "-".join(map(str, chosen.values())))
def test_any_option_goes_with_any_other(chosen, tmp_path):
    if chosen["head"] == "cosine of sub-centres":
        chosen = chosen | {"head": "cosine", "subcenters": 2}
    stripes = 3 if chosen["parts"] == "pcb" else None
    wanted = architecture(size=96, drop_rate=0.2, stripes=stripes, **chosen)
    model = create_model(wanted).train()
    output, labels = model(images(96, n=4)), torch.arange(4)
    sum(F.cross_entropy(one.logits, labels) + one.metric.square().mean() for one in output.all()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    shaken(model).eval()
    save_model(tmp_path / "m.safetensors", wanted, model.state_dict())
    with torch.no_grad():
        said, again = model(images(96)), load_model(tmp_path / "m.safetensors")(images(96))
    assert torch.isfinite(said.logits).all()
    assert torch.equal(said.logits, again.logits)
    assert torch.equal(said.embedding, again.embedding)


# --- the config ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": {"dropout_samples": 4}}, "model.drop_rate=0, which drops nothing"),
        ({"model": {"stripes": 4}}, "set model.parts=pcb with it"),
        ({"model": {"stripes": 4, "parts": "mgn"}}, "set model.parts=pcb with it"),
        ({"task": {"name": "binary"}, "model": {"neck": "bnneck"}}, "it is for multiclass and retrieval"),
        ({"task": {"name": "regression"}, "model": {"neck": "bnneck"}}, "how large a number is"),
        *[
            (
                {"task": {"name": "segmentation"}, "model": {name: value, "drop_rate": 0.1}},
                f"model.{name}={value} is for one answer an image",
            )
            for name, value in {
                "pooling": "gem",
                "neck": "bnneck",
                "dropout_samples": 4,
                "parts": "pcb",
                "subcenters": 2,
            }.items()
        ],
        ({"data": {"squeeze": 100, "max_value": 4095}}, "give one of the two"),
        ({"model": {"pooling": "lp"}}, "model.pooling"),
    ],
)
def test_what_cannot_mean_anything_is_refused_with_the_reason(settings, says):
    with pytest.raises(ValidationError) as caught:
        Config(**settings)
    message = str(caught.value)
    assert says in message or says == ".".join(str(part) for part in caught.value.errors()[0]["loc"])


@pytest.mark.parametrize("name", ["segmentation", "binary", "regression"])
def test_what_makes_sense_is_let_through(name):
    model = {"ibn": "a", "normalize": "backbone", "checkpointing": True}
    if name != "segmentation":
        model |= {"pooling": "dual", "parts": "pcb", "dropout_samples": 2, "drop_rate": 0.1}
    Config(task={"name": name}, model=model)


def test_options_that_are_off_make_no_run_stale_and_each_that_is_on_does(prepared):
    """A recipe as it was before these options, and as it is."""
    new = ("pooling", "neck", "dropout_samples", "ibn", "parts", "stripes", "normalize")

    def recipe(*overrides: str):
        config = load_config(prepared / "configs" / "baseline.yaml", ["model.drop_rate=0.1", *overrides])
        return train_step(run_of(config), 0)

    now = recipe()
    before = recipe()
    for name in (*new, "checkpointing"):
        before.recipe["model"].pop(name, None)
    assert now.fingerprint == before.fingerprint
    assert recipe("model.checkpointing=true").fingerprint == now.fingerprint  # its numbers are the same
    on = [
        "pooling=gem",
        "neck=bnneck",
        "dropout_samples=2",
        "ibn=a",
        "parts=pcb",
        "normalize=backbone",
    ]
    prints = {recipe(f"model.{option}").fingerprint for option in on}
    assert len(prints | {now.fingerprint}) == 1 + len(on)
    margin = recipe("train.loss=arcface")
    assert recipe("train.loss=arcface", "model.subcenters=2").fingerprint != margin.fingerprint


def test_squeezed_images_have_a_folder_of_their_own(project):
    config = load_config(project / "configs" / "baseline.yaml", [])
    squeezed = load_config(project / "configs" / "baseline.yaml", ["data.squeeze=300"])
    assert images_step(config).folder.name == "16px-stretch"
    assert images_step(squeezed).folder.name == "16px-stretch-tanh300"
    assert images_step(config).fingerprint != images_step(squeezed).fingerprint


# --- training -----------------------------------------------------------------------------------------------

EVERYTHING = """\
base: baseline
data: {image_size: 64}
train: {batch_size: 16, images_per_class: 4}
model:
  drop_rate: 0.1
  dropout_samples: 2
  pooling: gem
  neck: bnneck
  ibn: a
  parts: pcb
  stripes: 2
  normalize: backbone
  checkpointing: true
"""
TASKS = {
    "multiclass": "",
    "retrieval": "task: {name: retrieval}\ndata: {id: id, target: Id, new_label: new_id}\n",
}


@pytest.mark.parametrize("task", TASKS)
def test_a_fold_is_trained_and_predicted_with_everything_switched_on(tmp_path, task):
    torch.set_num_threads(1)
    write_competition(tmp_path / "data" / "raw", n_train=80, n_test=10, task=task)
    write_config(tmp_path, "baseline", BASELINE)
    write_config(tmp_path, "all", EVERYTHING)
    more = "" if task == "multiclass" else TASKS[task] + "model: {subcenters: 2, embedding: 24}\n"
    path = write_config(tmp_path, "run", "base: all\n" + more)
    forget_the_listings()
    config = load_config(path)
    prepare_dataset(config)
    described = create_task(config)
    data = load_fold(config, described, 0)
    trainer = Trainer(config, described, data, data.train, 0, torch.device("cpu"))
    row = trainer.train_epoch(0, lambda *_, **__: None)
    assert row["train_loss"] > 0
    model = trainer.average.model
    assert trainer.architecture.mean == (0.5, 0.5, 0.5)  # of the backbone, the digits are darker
    positions = data.store.test
    answers, _ = predict(model, described, data.store, positions, config.inference, trainer.device)
    assert answers.shape == (10, len(data.outputs))
    if task == "multiclass":
        assert answers.sum(1) == pytest.approx(1, abs=1e-5)
    embeddings = embed(model, data.store, positions, config.inference, trainer.device)
    assert embeddings.shape == (10, (24 if task == "retrieval" else 96) + 2 * 256)


def test_a_pupil_with_parts_learns_from_its_teacher_as_one_answer(prepared):
    config = load_config(prepared / "configs" / "baseline.yaml")
    config = config.model_copy(update={"distill": Distill(weight=1.0)})  # the teacher is put in by hand
    task = create_task(config)
    data = load_fold(config, task, 0)
    trainer = Trainer(config, task, data, data.train, 0, torch.device("cpu"))
    teacher = create_model(architecture(outputs=10)).eval()
    trainer.teacher = torch.no_grad()(teacher)
    trainer.model = create_model(architecture(size=64, outputs=10, parts="pcb", stripes=2)).train()
    x, targets = images(64, n=4), torch.eye(10)[:4]
    found = trainer.sample_losses(x, targets)
    pupil, temperature = trainer.model(x).fused(), config.distill.temperature
    told = distillation("kl", pupil.logits, teacher(x).logits, temperature)
    torch.testing.assert_close(found, told)
