"""The mean teacher: its loss against closed forms, its views, its share in a step, and its honesty."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from competitions import prepare_competition
from conftest import forget_the_listings
from pydantic import ValidationError
from trainers import make_trainer, read, silent

from src.config import Augment, Config, Consistency, UserError
from src.configfile import load_config
from src.data.loaders import load_fold
from src.data.unlabelled import UnlabelledSampler, UnlabelledViews, plain_view, strong_view, unlabelled_loader
from src.losses.consistency import confident_cells, consistency
from src.steps import folds_step, run_of, train_step
from src.tasks import create_task
from src.training.consistency import statistics_kept
from src.training.lr_finder import for_range_test
from src.training.overfit import without_regularisation
from src.training.single_steps import take_step, windows
from src.training.trainer import Trainer

CPU = torch.device("cpu")
ON = ("consistency={}", "consistency.threshold=0.0", "consistency.ramp_epochs=0")


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the loss -----------------------------------------------------------------------------------------------


def test_of_classes_a_row_counts_whose_likeliest_class_reaches_the_threshold():
    pupil, teacher = logits(40, 4), logits(40, 4, seed=1)
    seen = torch.ones(40, 1, dtype=torch.bool)
    losses, counted = consistency("kl", pupil, teacher, 0.8, seen)
    for row in range(40):
        p, q = (np.exp(x[row].double().numpy()) for x in (teacher, pupil))
        p, q = p / p.sum(), q / q.sum()
        expected = (p * np.log(p / q)).sum() if p.max() >= 0.8 else 0.0
        assert losses[row].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert counted[row].item() == float(p.max() >= 0.8)
    assert 5 < counted.sum() < 35


def test_of_labels_each_cell_counts_that_is_surely_there_or_surely_not():
    pupil, teacher = logits(30, 5), logits(30, 5, seed=1)
    losses, counted = consistency("bce", pupil, teacher, 0.9, torch.ones(30, 1, dtype=torch.bool))
    p, q = (1 / (1 + np.exp(-x.double().numpy())) for x in (teacher, pupil))
    known = (p >= 0.9) | (p <= 0.1)
    cost = -(p * np.log(q) + (1 - p) * np.log(1 - q))
    np.testing.assert_allclose(losses, (cost * known).mean(1), rtol=1e-4)  # over all cells, known or not
    np.testing.assert_allclose(counted, known.mean(1), rtol=1e-6)
    assert known[p < 0.5].any()
    assert known[p > 0.5].any()


@pytest.mark.parametrize("kind", ["bce", "exclusive"])
def test_of_maps_it_is_pixel_by_pixel_and_what_was_erased_does_not_count(kind):
    pupil, teacher = logits(2, 3, 4, 5), logits(2, 3, 4, 5, seed=1)
    seen = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(2)) < 0.7
    losses, counted = consistency(kind, pupil, teacher, 0.7, seen)
    alone = torch.ones(1, 1, dtype=torch.bool)
    for row in range(2):
        cost, share = 0.0, 0.0
        for y in range(4):
            for x in range(5):
                if seen[row, 0, y, x]:
                    at = (slice(row, row + 1), slice(None), y, x)
                    one, count = consistency(kind, pupil[at], teacher[at], 0.7, alone)
                    cost, share = cost + one.item() / 20, share + count.item() / 20
        assert losses[row].item() == pytest.approx(cost, rel=1e-5)
        assert counted[row].item() == pytest.approx(share, rel=1e-5)


def test_the_background_of_exclusive_classes_can_be_sure_too():
    teacher = torch.tensor([[-9.0, -9.0], [9.0, -9.0], [0.0, 0.0]])  # background, the first class, nothing
    assert confident_cells("exclusive", teacher, 0.95)[:, 0].tolist() == [True, True, False]


def test_numbers_are_always_counted_by_their_squared_distance():
    pupil, teacher = logits(6, 2), logits(6, 2, seed=1)
    losses, counted = consistency("mse", pupil, teacher, 0.95, torch.ones(6, 1, dtype=torch.bool))
    np.testing.assert_allclose(losses, ((pupil - teacher).double().numpy() ** 2).mean(1), rtol=1e-5)
    assert counted.tolist() == [1.0] * 6


@pytest.mark.parametrize("kind", ["kl", "bce", "exclusive"])
def test_the_certainties_of_half_precision_leave_finite_gradients(kind):
    pupil = torch.tensor([[6e4, -6e4], [0.0, 0.0]], dtype=torch.float16, requires_grad=True)
    teacher = torch.tensor([[-6e4, 6e4], [6e4, 6e4]], dtype=torch.float16)
    losses, _ = consistency(kind, pupil, teacher, 0.9, torch.ones(2, 1, dtype=torch.bool))
    assert losses.dtype == torch.float32
    assert torch.isfinite(losses).all()
    losses.sum().backward()
    assert torch.isfinite(pupil.grad).all()


# --- the views ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return prepare_competition(tmp_path_factory.mktemp("masks"), "segmentation", 32, 24, n_test=12)


def views_of(path, *overrides: str) -> tuple[UnlabelledViews, np.ndarray]:
    config = load_config(path, ["consistency={}", *overrides])
    store = load_fold(config, create_task(config), 0).store
    return UnlabelledViews(store.test, store, config), store.pixels[store.test]


MOVING = ("augment.hflip=0.5", "augment.rotate=40", "augment.d4=1.0", "augment.crop_scale=[0.3,0.8]")
SAME_LOOK = ("consistency.policy=off", "consistency.cutout=0")


def test_the_two_views_of_a_mask_are_moved_alike(masks):
    views, images = views_of(masks, *MOVING, *SAME_LOOK)
    rows = np.arange(12)
    plain_one, strong, seen = views[5, rows]
    assert torch.equal(plain_one, strong)
    assert seen.all()
    assert seen.shape == (12, 1, 32, 32)
    still = torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
    assert sum(torch.equal(a, b) for a, b in zip(plain_one, still, strict=True)) == 0  # they were moved


def test_what_of_a_strong_mask_view_is_erased_is_marked_and_no_other_pixel_differs(masks):
    views, _ = views_of(masks, *MOVING, "consistency.policy=off", "consistency.cutout=1")
    plain_one, strong, seen = views[5, np.arange(12)]
    same = (plain_one == strong).all(1, keepdim=True)
    assert same[seen].all()
    assert ((~seen).sum((1, 2, 3)) == 8 * 8).all()  # a quarter of the side, squared
    assert (strong.permute(0, 2, 3, 1)[~seen[:, 0]] == 0).all()


def test_a_strong_mask_view_has_another_light_by_itself(masks):
    views, _ = views_of(masks, "augment.hflip=0", "augment.crop_scale=[1.0,1.0]", "consistency.cutout=0")
    plain_one, strong, _ = views[5, np.arange(12)]
    assert sum(torch.equal(a, b) for a, b in zip(plain_one, strong, strict=True)) == 0


def test_the_plain_view_of_an_image_is_the_image_or_its_mirror_and_the_strong_one_is_neither(prepared):
    path = prepared / "configs" / "baseline.yaml"
    views, images = views_of(path, "augment.hflip=0.5", "augment.brightness=0.3")
    rows = np.arange(40)
    plain_one, strong, seen = views[5, rows]
    still = torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
    kept = [torch.equal(a, b) for a, b in zip(plain_one, still, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(plain_one, still, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert 8 <= sum(mirrored) <= 32
    assert not any(torch.equal(a, b) for a, b in zip(strong, plain_one, strict=True))
    assert seen.shape == (40, 1)
    assert ((strong == 0).all(1).sum((1, 2)) >= 4 * 4).all()  # the erased square


def test_the_views_of_a_larger_cache_have_the_networks_size(tmp_path):
    path = prepare_competition(tmp_path / "cached", "binary", 16, 24, n_test=12, cache_size=24)
    for crop in ("random", "centre", "resized"):
        views, _ = views_of(path, f"augment.crop={crop}")
        for view in views[1, np.arange(5)][:2]:
            assert view.shape == (5, 3, 16, 16)


def test_a_strong_view_is_the_runs_own_augmentation_with_a_policy_and_an_erased_square():
    own = {"rotate": 15.0, "hue": 0.1, "cutout": 0.2}

    def strong(channels: int = 3, task: str = "multiclass", more: dict | None = None, **settings) -> Augment:
        config = Config(
            task={"name": task}, augment=own | (more or {}), consistency=settings, train={"epochs": 9}
        )
        return strong_view(config, channels)

    found = strong()
    assert (found.rotate, found.hue, found.cutout, found.policy) == (15.0, 0.1, 1.0, "randaugment")
    assert strong(policy="trivialaugment").policy == "trivialaugment"
    assert strong(policy="off", cutout=0.5) == Augment(**own | {"cutout": 0.5})
    assert strong(more={"policy": "autoaugment"}).policy == "autoaugment"
    assert strong(policy="off", more={"policy": "autoaugment"}).policy is None
    for other in (strong(channels=1), strong(task="segmentation")):
        assert (other.policy, other.brightness, other.contrast) == (None, 0.3, 0.3)
    assert strong(task="segmentation", more={"brightness": 0.5}).brightness == 0.5
    with pytest.raises(UserError, match=r"consistency\.policy=randaugment is for RGB pictures, these images"):
        strong(channels=1, policy="randaugment")
    assert plain_view(Augment(**own, vflip=0.5), False) == Augment(vflip=0.5, crop_scale=(1, 1))


def test_unlabelled_rows_are_test_rows_and_no_others(prepared):
    config = read(prepared, *ON)
    data = load_fold(config, create_task(config), 0)
    loader, sampler = unlabelled_loader(data.store, config, 3, 0, seed=1)
    assert loader.dataset.positions.tolist() == data.store.test.tolist()
    labelled = set(data.store.train.tolist())
    assert not labelled & set(loader.dataset.positions[np.unique(sampler.batches())].tolist())
    assert len(list(loader)) == 3


@pytest.mark.parametrize(("ratio", "rows"), [(1.0, 16), (2.5, 40), (0.01, 2)])
def test_a_batch_has_the_rows_that_the_ratio_says_and_never_one_alone(prepared, ratio, rows):
    config = read(prepared, *ON, f"consistency.ratio={ratio}")
    store = load_fold(config, create_task(config), 0).store
    _, sampler = unlabelled_loader(store, config, 2, 0, seed=1)
    assert sampler.batches().shape == (2, rows)


def test_every_row_comes_before_any_comes_again_and_another_epoch_has_another_order():
    draws = UnlabelledSampler(7, 5, 4, seed=3)
    first = draws.batches()
    flat = first.ravel()
    assert first.shape == (4, 5)
    assert sorted(flat[:7]) == sorted(flat[7:14]) == list(range(7))
    assert len(set(flat[14:])) == 6
    assert np.array_equal(first, draws.batches())
    seeds = [seed for seed, _ in draws]
    draws.epoch = 1
    assert not np.array_equal(first, draws.batches())
    assert len({*seeds, *(seed for seed, _ in draws)}) == 8


def test_without_a_test_image_there_is_nothing_to_learn_from(prepared):
    import dataclasses

    config = read(prepared, *ON)
    store = load_fold(config, create_task(config), 0).store
    with pytest.raises(UserError, match="there is no test image to learn from; set consistency=null"):
        unlabelled_loader(dataclasses.replace(store, test=store.test[:0]), config, 2, 0, 1)


# --- in the loop --------------------------------------------------------------------------------------------


def gradients(trainer) -> dict[str, torch.Tensor]:
    found = {n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.optimizer.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("window", [1, 3])
def test_a_step_has_the_gradient_of_the_mean_over_its_unlabelled_rows_times_the_weight(prepared, window):
    trainer = make_trainer(prepared, *ON, "consistency.weight=0.7")
    trainer.model.eval()
    with torch.no_grad():
        for parameter in trainer.average.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    side = trainer.consistency
    side.begin(0)
    for _ in range(window):
        side.learn(window)
    found = gradients(trainer)
    batches = [side.loader.dataset[item] for item in list(side.sampler)[:window]]
    plain_one, strong = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    with torch.no_grad():
        told = trainer.average.model(plain_one).logits.softmax(1)
    said = trainer.model(strong).logits.log_softmax(1)
    (0.7 * (told * (told.log() - said)).sum(1).mean()).backward()
    expected = gradients(trainer)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-6)


def test_a_training_gives_each_window_its_length_also_a_short_last_one(prepared):
    trainer = make_trainer(prepared, *ON, "train.accumulate=2")
    windows = []
    learn = trainer.consistency.learn
    trainer.consistency.learn = lambda window: (windows.append(window), learn(window))
    trainer.train_epoch(0, silent)
    count = len(trainer.sampler.batches())
    assert count % 2 == 1, "make it odd: the last window should be short"
    assert windows == [2] * (count - 1) + [1]


def test_the_teacher_is_the_average_sees_plain_views_and_learns_nothing_by_gradients(prepared):
    trainer = make_trainer(prepared, *ON)
    side, shown = trainer.consistency, {}
    trainer.average.model.register_forward_pre_hook(lambda m, x: shown.update(teacher=x[0], mode=m.training))
    trainer.model.register_forward_pre_hook(lambda _, x: shown.update(pupil=x[0]))
    before = {name: tensor.clone() for name, tensor in trainer.average.model.state_dict().items()}
    side.begin(0)
    side.learn(1)
    plain_one, strong, _ = side.loader.dataset[next(iter(side.sampler))]
    assert torch.equal(shown["teacher"], plain_one)
    assert torch.equal(shown["pupil"], strong)
    assert shown["mode"] is False
    assert all(torch.equal(before[name], x) for name, x in trainer.average.model.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.average.model.parameters())


def test_batch_norms_go_by_the_strong_batch_and_keep_the_statistics_of_labelled_images(prepared):
    trainer = make_trainer(prepared, *ON)
    trainer.freeze.apply(0)
    before = {name: x.clone() for name, x in trainer.model.named_buffers()}
    strong = trainer.consistency.loader.dataset[next(iter(trainer.consistency.sampler))][1]
    with statistics_kept(trainer.model):
        said = trainer.model(strong).logits
    assert all(torch.equal(before[name], x) for name, x in trainer.model.named_buffers())
    assert torch.equal(said, trainer.model(strong).logits)  # normalised as in any training step
    assert not all(torch.equal(before[name], x) for name, x in trainer.model.named_buffers())


def test_blocks_that_run_twice_to_save_memory_change_no_gradient_and_no_statistics(prepared):
    def learned(*overrides: str):
        trainer = make_trainer(prepared, *ON, *overrides)
        trainer.freeze.apply(0)
        trainer.consistency.begin(0)
        trainer.consistency.learn(1)
        return gradients(trainer), dict(trainer.model.named_buffers())

    (once, buffers), (twice, same_buffers) = learned(), learned("model.checkpointing=true")
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert all(torch.equal(buffers[name], same_buffers[name]) for name in buffers)


@pytest.mark.parametrize("done", [0.0, 0.25, 0.5, 1.0, 1.5])
def test_the_weight_rises_along_the_papers_curve_step_by_step(prepared, done):
    trainer = make_trainer(
        prepared, "consistency={}", "consistency.weight=3", "consistency.ramp_epochs=2", "train.epochs=4"
    )
    side = trainer.consistency
    epoch, rest = divmod(2 * done, 1)
    side.begin(int(epoch))
    side.number = rest * len(side.sampler)
    expected = 3 * math.exp(-5 * (1 - min(done, 1)) ** 2)
    assert side.weight == pytest.approx(expected)
    side.ramp = 0.0
    assert side.weight == 3


def train(trainer: Trainer, first: int = 0, epochs: int = 2) -> dict[str, torch.Tensor]:
    for epoch in range(first, epochs):
        trainer.train_epoch(epoch, silent)
    states = (("live", trainer.model), ("average", trainer.average.model))
    return {f"{w}.{name}": x.clone() for w, m in states for name, x in m.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


TWO_EPOCHS = (*ON, "train.epochs=2", "model.drop_rate=0.2")  # dropout: the random state matters


def test_the_same_seed_gives_the_same_bits_and_unlabelled_images_are_felt(prepared):
    first, again = (train(make_trainer(prepared, *TWO_EPOCHS)) for _ in range(2))
    assert same(first, again)
    assert not same(first, train(make_trainer(prepared, *TWO_EPOCHS[3:])))
    history = make_trainer(prepared, *TWO_EPOCHS).train_epoch(0, silent)
    assert history["unlabelled_loss"] > 0
    assert history["unlabelled_sure"] == 1.0  # at threshold 0


def test_a_resumed_training_is_the_same_to_the_bit(prepared, tmp_path):
    whole = train(make_trainer(prepared, *TWO_EPOCHS))
    half = make_trainer(prepared, *TWO_EPOCHS)
    half.train_epoch(0, silent)
    half.save(tmp_path / "checkpoint.pt", "recipe")
    torch.manual_seed(99)
    rest = make_trainer(prepared, *TWO_EPOCHS)
    rest.resume(tmp_path / "checkpoint.pt", "recipe")
    assert same(whole, train(rest, first=1))


def test_loader_processes_change_no_bit(prepared):
    config = read(prepared, *ON)
    store = load_fold(config, create_task(config), 0).store
    alone, helped = (list(unlabelled_loader(store, config, 3, workers, 1)[0]) for workers in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression", "segmentation"])
def test_other_tasks_learn_from_test_images_too(task, tmp_path):
    path = prepare_competition(tmp_path / task, task, 32, 24, n_test=12)
    sure = [word for word in ON if task != "regression" or "threshold" not in word]
    config = load_config(path, sure)
    described = create_task(config)
    data = load_fold(config, described, 0)
    rows = []
    for changed in (config, config.model_copy(update={"consistency": None})):
        trainer = Trainer(changed, described, data, data.train, 0, CPU)
        rows.append(trainer.train_epoch(0, silent))
    assert np.isfinite(rows[0]["unlabelled_loss"])
    assert rows[0]["unlabelled_loss"] > 0
    assert rows[0]["grad_norm"] != rows[1]["grad_norm"]


def test_steps_taken_from_outside_have_their_unlabelled_rows_too_and_never_run_out(prepared):
    trainer = make_trainer(prepared, *ON, "train.accumulate=2")
    endless, count = windows(trainer), []
    learn = trainer.consistency.learn
    trainer.consistency.learn = lambda window: (count.append(window), learn(window))
    for _ in range(trainer.steps_per_epoch + 1):
        window = next(endless)
        take_step(trainer, window)
        assert count[-len(window) :] == [len(window)] * len(window)
    for _ in range(trainer.steps_per_epoch + 1):  # one window again and again, as the largest batch is found
        assert np.isfinite(take_step(trainer, window))


# --- honesty ------------------------------------------------------------------------------------------------


def test_a_folds_labels_change_no_bit_of_what_its_rows_are_predicted_as(prepared, tmp_path):
    permuted = shutil.copytree(prepared, tmp_path / "permuted")
    forget_the_listings()
    step = folds_step(read(permuted))
    table = pd.read_csv(permuted / "data/folds.csv", dtype=str)
    mine = table["fold"] == "0"
    table.loc[mine, "target"] = np.random.default_rng(0).permutation(table.loc[mine, "target"])
    table.to_csv(permuted / "data/folds.csv", index=False, lineterminator="\n")
    step.done()

    def said(project, fold: int) -> np.ndarray:
        trainer = make_trainer(project, *TWO_EPOCHS, fold=fold)
        train(trainer)
        return trainer.evaluate(trainer.data.valid)[0]

    assert np.array_equal(said(prepared, 0), said(permuted, 0))
    assert not np.array_equal(said(prepared, 1), said(permuted, 1))  # who learned from those rows felt it


def test_it_makes_a_run_stale_where_it_is_on_alone(prepared):
    def leaves(*overrides: str):
        step = train_step(run_of(read(prepared, *overrides)), 0)
        return step.fingerprint, step.recipe

    off, recipe = leaves()
    assert recipe["consistency"] is None  # and a null is left out of a fingerprint
    on, _ = leaves("consistency={}")
    other, _ = leaves("consistency={}", "consistency.ratio=2")
    assert len({off, on, other}) == 3


# --- the config ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"train": {"ema": {"enabled": False}}}, r"consistency learns from the average .* train\.ema"),
        ({"task": {"name": "retrieval"}}, "the embeddings of a retrieval have no probability"),
        (
            {"consistency": {"ramp_epochs": 16}},
            r"consistency\.ramp_epochs=16 ends after train\.epochs=15.* 5$",
        ),
        (
            {"task": {"name": "segmentation"}, "consistency": {"policy": "randaugment"}},
            r"consistency\.policy=randaugment turns and shears",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(tree, expected):
    with pytest.raises(ValidationError) as error:
        Config.model_validate({"consistency": {}} | tree)
    import re

    assert re.search(expected, str(error.value.errors()[0]["ctx"]["error"]))


def test_the_ramp_goes_along_with_the_epochs_and_other_looks_at_a_training_do_without():
    config = Config(train={"epochs": 10}, consistency={"ramp_epochs": 5})
    assert config.with_epochs(4).consistency.ramp_epochs == 2
    assert Config(consistency={}).with_epochs(2).consistency == Consistency()
    assert Consistency().ramp(15) == 5
    assert for_range_test(config).consistency is None
    assert without_regularisation(config).consistency is None
