"""TTA: what each view shows, the way back for maps, several sizes, and the three ways to average."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import write_config
from PIL import Image
from torch import nn

from src.artifacts import Step
from src.cli import check_known_names
from src.config import Config, Inference, UserError
from src.configfile import load_config
from src.data.images import ImageStore
from src.data.views import CROPS, VIEWS, View, check_views, views_of
from src.inference.average import rank_mean
from src.inference.predict import embed, predict, predict_maps
from src.models.build import Architecture, create_model
from src.models.output import Output
from src.models.scale import TargetScale
from src.models.sizes import check_sizes
from src.pseudo.rounds import check_allowed
from src.tasks import create_task

CPU = torch.device("cpu")

# --- views of the whole image -------------------------------------------------------------------------------

BACK = {
    "identity": "identity",
    "hflip": "hflip",
    "vflip": "vflip",
    "rot90": "rot270",
    "rot180": "rot180",
    "rot270": "rot90",
    "transpose": "transpose",
}
SHIFTS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def batch(height: int = 40, width: int = 40) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))  # (B, C, H, W)


def test_every_view_is_tested_below():
    assert set(VIEWS) == set(BACK) | set(SHIFTS)
    assert set(CROPS) == set(PLACES)


@pytest.mark.parametrize("name", BACK)
def test_a_view_and_the_way_back_give_the_same_image_at_any_shape(name):
    for image in (batch(), batch(24, 40)):
        assert VIEWS[BACK[name]](VIEWS[name](image)).equal(image)
        assert VIEWS[name](image).equal(image) == (name == "identity")
        assert View(name).undo(View(name).see(image), image.shape[-2:]).equal(image)


def test_views_turn_the_way_that_their_names_say():
    image = batch()
    expected = {
        "hflip": np.flip(image.numpy(), -1),
        "vflip": np.flip(image.numpy(), -2),
        "rot90": np.rot90(image.numpy(), 1, (-2, -1)),
        "rot180": np.rot90(image.numpy(), 2, (-2, -1)),
        "rot270": np.rot90(image.numpy(), 3, (-2, -1)),
        "transpose": np.swapaxes(image.numpy(), -2, -1),
    }
    for name, pixels in expected.items():
        assert VIEWS[name](image).equal(torch.from_numpy(pixels.copy())), name


@pytest.mark.parametrize("name", SHIFTS)
@pytest.mark.parametrize(("side", "step"), [(96, 3), (64, 2), (32, 1), (8, 1)])
def test_a_shift_moves_by_a_32nd_and_repeats_the_edge(name, side, step):
    image = batch(side, side).numpy()
    down, right = (step * direction for direction in SHIFTS[name])
    moved = VIEWS[name](batch(side, side)).numpy()
    around = np.pad(image, ((0, 0), (0, 0), (step, step), (step, step)), mode="edge")
    expected = around[..., step - down : step - down + side, step - right : step - right + side]
    assert np.array_equal(moved, expected)


@pytest.mark.parametrize("name", [*VIEWS, *CROPS])
@pytest.mark.parametrize("side", [None, 64])
def test_a_view_leaves_its_input_alone(name, side):
    image = batch()
    View(name, side).undo(View(name, side).see(image), (40, 40))
    assert image.equal(batch())


# --- crops and sizes ----------------------------------------------------------------------------------------

PLACES = {  # top and left of 28 pixels of 32, and of 16
    "centre": ((2, 2), (8, 8)),
    "top_left": ((0, 0), (0, 0)),
    "top_right": ((0, 4), (0, 16)),
    "bottom_left": ((4, 0), (16, 0)),
    "bottom_right": ((4, 4), (16, 16)),
}


def by_pillow(images: np.ndarray, side: int) -> np.ndarray:
    """(B, C, h, w) to (B, C, side, side), by somebody else's antialiased linear filter."""
    size, filter_ = (side, side), Image.Resampling.BILINEAR
    return np.stack(
        [[np.asarray(Image.fromarray(x.astype(np.float32)).resize(size, filter_)) for x in i] for i in images]
    )


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("side", [None, 64])
@pytest.mark.parametrize(("share", "kept"), [(7 / 8, 28), (0.5, 16)])
def test_a_crop_shows_its_part_at_the_size_asked_for(name, side, share, kept):
    image = batch(32, 32) * 255
    top, left = PLACES[name][share == 0.5]
    part = image[..., top : top + kept, left : left + kept].numpy()
    np.testing.assert_allclose(View(name, side, share).see(image), by_pillow(part, side or 32), atol=1e-3)


@pytest.mark.parametrize("side", [32, 64, 96])
@pytest.mark.parametrize("name", ["identity", "rot90", "left"])
def test_a_size_is_that_of_the_image_that_is_turned_or_moved(name, side):
    image = batch(64, 64) * 255
    expected = VIEWS[name](torch.from_numpy(by_pillow(image.numpy(), side)))
    np.testing.assert_allclose(View(name, side).see(image), expected, atol=1e-3)


def test_an_image_of_the_size_asked_for_stays_as_it_is_bytes_and_all():
    image = (batch(64, 64) * 255).byte()
    assert View("identity", 64).see(image) is not None
    assert View("identity", 64).see(image).dtype == torch.uint8
    assert View("identity", 64).see(image).equal(image)
    bytes_, floats = (View("top_left", 96).see(x) for x in (image, image.float()))
    assert bytes_.equal(floats)


@pytest.mark.parametrize("name", [*BACK, *PLACES])
@pytest.mark.parametrize("side", [None, 64])
def test_the_way_back_puts_a_map_where_it_was_seen_and_nothing_elsewhere(name, side):
    """Ramps come back as they were, but for the outermost pixels, which have nothing to be mixed with."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    image = torch.cat([ramp, ramp.transpose(-2, -1)], dim=1)  # (1, 2, 32, 32)
    view = View(name, side)
    found = view.undo(view.see(image), (32, 32))
    top, left = PLACES.get(name, ((0, 0),))[0]
    kept = 28 if name in PLACES else 32
    inside = np.zeros((32, 32), bool)
    inside[top : top + kept, left : left + kept] = True
    assert found.shape == image.shape
    assert not found.numpy()[0, :, ~inside].any()
    within = np.s_[:, :, top + 1 : top + kept - 1, left + 1 : left + kept - 1]
    np.testing.assert_allclose(found[within], image[within], atol=0.06)
    seen = view.undo(torch.ones_like(view.see(image)), (32, 32))
    assert seen.numpy()[0, 0] == pytest.approx(inside.astype(float), abs=1e-6)


def test_every_view_is_shown_at_every_size():
    settings = Inference(tta=("identity", "centre"), scales=(64, 96), crop=0.5)
    assert views_of(settings) == [
        View("identity", 64, 0.5),
        View("centre", 64, 0.5),
        View("identity", 96, 0.5),
        View("centre", 96, 0.5),
    ]
    assert views_of(Inference(tta=("hflip",))) == [View("hflip", None, 7 / 8)]


# --- predictions --------------------------------------------------------------------------------------------


def pixels_of(n: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def store_of(pixels: np.ndarray) -> ImageStore:
    everything = np.arange(len(pixels))
    ids = [str(i) for i in everything]
    return ImageStore(pixels, everything, everything[:0], ids, [], (0.5,) * 3, (1,) * 3)


def small_model(outputs: int = 4, side: int = 32, **more) -> nn.Module:
    torch.manual_seed(0)
    return create_model(Architecture("test_resnet", outputs, side, (0.5,) * 3, (0.05,) * 3, **more)).eval()


def shown(pixels: np.ndarray, name: str, side: int) -> torch.Tensor:
    """What a view shows, by Pillow."""
    images = pixels.transpose(0, 3, 1, 2)
    if name in CROPS:
        top, left = PLACES[name][0]
        images = images[..., top : top + 28, left : left + 28]
    return VIEWS.get(name, VIEWS["identity"])(torch.from_numpy(by_pillow(images, side)))


TTA, SCALES = ("identity", "hflip", "top_right"), (32, 64)


@pytest.mark.parametrize("average", ["probability", "logit", "rank"])
def test_a_prediction_is_the_average_over_views_and_sizes(average):
    pixels, model = pixels_of(11, 32), small_model()
    positions = np.random.default_rng(1).permutation(11)[:9]
    settings = Inference(tta=TTA, scales=SCALES, average=average, batch_size=4)
    task = create_task(Config(task={"name": "multilabel"}))
    found, spread = predict(model, task, store_of(pixels), positions, settings, CPU)
    with torch.no_grad():
        seen = [shown(pixels[positions], name, side) for side in SCALES for name in TTA]
        logits = torch.stack([model(images).logits for images in seen]).double()  # (6, 9, 4)
    said = logits.sigmoid()
    expected = {
        "probability": said.mean(0),
        "logit": logits.mean(0).sigmoid(),
        "rank": torch.from_numpy(ranks_by_counting(said.numpy())),
    }[average]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    np.testing.assert_allclose(spread, said.numpy().std(0).mean(1), atol=2e-4)
    assert found.dtype == np.float32


def ranks_by_counting(said: np.ndarray) -> np.ndarray:
    """(V, N, C): of each value how many of its column lie below it, and half of those as large, over N."""
    below = (said[:, None] < said[:, :, None]).sum(2)
    same = (said[:, None] == said[:, :, None]).sum(2)
    return ((below + same / 2) / said.shape[1]).mean(0)


def test_ranks_share_their_places_between_equals_and_lie_between_0_and_1():
    said = np.random.default_rng(0).integers(0, 4, (3, 50, 2)) / 4
    found = rank_mean(said)
    np.testing.assert_allclose(found, ranks_by_counting(said), atol=1e-7)
    assert 0 < found.min() < found.max() <= 1
    assert rank_mean(np.zeros((2, 0, 3))).shape == (0, 3)


def test_ranks_forget_how_sure_a_view_is():
    """A view that shouts (its probabilities are all near 0 and 1) does not outvote a calm one."""
    said = np.random.default_rng(0).uniform(0.4, 0.6, (2, 100, 1))
    loud = np.stack([said[0], 1 / (1 + np.exp(-200 * (said[1] - 0.5)))])
    np.testing.assert_array_equal(rank_mean(loud), rank_mean(said))


def test_an_embedding_is_the_sum_over_views_and_sizes_of_length_one():
    pixels, model = pixels_of(6, 32), small_model(head="cosine", embedding=8)
    found = embed(model, store_of(pixels), np.arange(6), Inference(tta=TTA, scales=SCALES, batch_size=4), CPU)
    with torch.no_grad():
        total = sum(model(shown(pixels, name, side)).embedding for side in SCALES for name in TTA).numpy()
    np.testing.assert_allclose(found, total / np.linalg.norm(total, axis=1, keepdims=True), atol=1e-3)


class Constant(nn.Module):
    """A network that says another number at every call, the same of every pixel."""

    def __init__(self, logits: list[float]):
        super().__init__()
        self.logits, self.calls = logits, []
        self.scale, self.architecture = TargetScale(), Architecture("none", 1, 32, (0.5,), (1,))

    def forward(self, images: torch.Tensor) -> Output:
        self.calls.append(tuple(images.shape[-2:]))
        value = self.logits[(len(self.calls) - 1) % len(self.logits)]
        logits = torch.full((len(images), 1, *images.shape[-2:]), value)
        return Output(logits=logits, embedding=logits.mean((2, 3)))


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_a_pixel_is_the_average_over_the_views_that_saw_it(average):
    logits, names = [-3.0, 2.0, 1.0, 0.5], ("identity", "top_left", "bottom_right", "centre")
    model, task = Constant(logits), create_task(Config(task={"name": "segmentation"}))
    settings = Inference(tta=names, average=average, batch_size=2)
    config = Config(data={"image_size": 32})
    maps = predict_maps(
        model, task, store_of(pixels_of(3, 32)), np.arange(3), [(32, 32)] * 3, settings, config.data, CPU
    )
    total, seen = np.zeros((32, 32)), np.zeros((32, 32))
    for name, logit in zip(names, logits, strict=True):
        (top, left), kept = PLACES[name][0] if name in PLACES else (0, 0), 28 if name in PLACES else 32
        value = logit if average == "logit" else 1 / (1 + np.exp(-logit))
        total[top : top + kept, left : left + kept] += value
        seen[top : top + kept, left : left + kept] += 1
    mean = total / seen
    mean = 1 / (1 + np.exp(-mean)) if average == "logit" else mean
    for one in maps:
        np.testing.assert_allclose(one[0], mean * 255, atol=0.51)
    assert len(np.unique(np.round(mean, 6))) > 3


@pytest.mark.parametrize("name", BACK)
def test_maps_of_every_size_come_back_to_the_images_own(name):
    """A network that says of each pixel how bright it is must say so of the image, whatever it is shown."""

    class Echo(Constant):
        def forward(self, images: torch.Tensor) -> Output:
            self.calls.append(tuple(images.shape[-2:]))
            logits = torch.logit(images.float()[:, :1] / 255, eps=1e-4)
            return Output(logits=logits, embedding=logits.mean((2, 3)))

    ramp = np.linspace(20, 230, 32)
    pixels = np.repeat((ramp[:, None] + ramp[None]) / 2, 3).reshape(1, 32, 32, 3).astype(np.uint8)
    model, task = Echo([0.0]), create_task(Config(task={"name": "segmentation"}))
    settings, data = Inference(tta=(name,), scales=(64, 96)), Config(data={"image_size": 32}).data
    maps = predict_maps(model, task, store_of(pixels), np.arange(1), [(32, 32)], settings, data, CPU)
    assert model.calls == [(64, 64), (96, 96)]
    np.testing.assert_allclose(maps[0][0], pixels[0, :, :, 0], atol=3)


# --- what cannot be -----------------------------------------------------------------------------------------


def test_an_unknown_view_is_answered_with_all_that_there_are():
    with pytest.raises(UserError) as caught:
        check_views(Inference(tta=("identity", "flip")), "binary")
    known = ", ".join([*VIEWS, *CROPS])
    assert str(caught.value) == f"inference.tta: there is no view 'flip'; known are {known}"


def test_a_view_that_stands_twice_is_refused_for_it_would_count_twice():
    with pytest.raises(UserError, match="'hflip' stands twice; a view counts once"):
        check_views(Inference(tta=("hflip", "identity", "hflip")), "binary")
    check_views(Inference(tta=(*VIEWS, *CROPS)), "binary")


def test_a_share_without_a_crop_is_refused():
    with pytest.raises(UserError, match=r"inference\.crop=0\.9: no view of inference\.tta is a crop"):
        check_views(Inference(crop=0.9), "binary")
    check_views(Inference(tta=("centre",), crop=0.9), "binary")


@pytest.mark.parametrize(
    ("views", "good"),
    [
        (("centre",), False),
        (("top_left", "top_right", "bottom_left", "centre"), False),
        (("top_left", "top_right", "bottom_left", "bottom_right"), True),
        (("hflip", "centre"), True),
    ],
)
def test_masks_need_views_that_see_every_pixel(views, good):
    settings = Inference(tta=views)
    check_views(settings, "multiclass")
    if good:
        check_views(settings, "segmentation")
        return
    with pytest.raises(UserError, match=r"leaves pixels that no view sees; add identity"):
        check_views(settings, "segmentation")


@pytest.mark.parametrize(
    ("inference", "reason"),
    [
        ({"scales": []}, "must name one size or more"),
        ({"scales": [64, 64]}, "each once"),
        ({"scales": [100]}, "multiple of 32"),
        ({"scales": [8192]}, "less than or equal to 4096"),
        ({"crop": 0.3}, "greater than or equal to 0.5"),
        ({"crop": 1.0}, "less than 1"),
    ],
)
def test_sizes_and_shares_out_of_bounds_are_refused(inference, reason):
    with pytest.raises(ValueError, match=reason):
        Config(inference=inference)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        ("regression", "a rank is not in the target's units"),
        ("segmentation", "says nothing of its own image"),
        ("retrieval", "embeddings are averaged"),
    ],
)
def test_ranks_are_refused_where_they_mean_nothing(task, reason):
    with pytest.raises(ValueError, match=rf"average=rank does not suit {task}: .*{reason}"):
        Config(task={"name": task}, inference={"average": "rank"})


@pytest.mark.parametrize(
    ("task", "metric", "good"),
    [
        ("binary", "roc_auc", True),
        ("binary", "f1", True),
        ("binary", "log_loss", False),
        ("multilabel", "average_precision", True),
        ("multilabel", "f1_samples", True),
        ("multilabel", "lrap", False),
        ("multiclass", "roc_auc", True),
        ("multiclass", "accuracy", False),
        ("multiclass", "log_loss", False),
    ],
)
def test_ranks_go_with_metrics_that_ask_for_the_order_of_a_column(task, metric, good):
    config = Config(task={"name": task, "metric": metric}, inference={"average": "rank"})
    if good:
        check_known_names(config)
        return
    with pytest.raises(UserError, match=rf"{metric} asks for more; .* \(ranks are good for roc_auc"):
        check_known_names(config)


def test_pseudo_labels_of_ranks_are_refused_for_a_tenth_would_always_be_sure():
    ranks = {"task": {"name": "binary"}, "inference": {"average": "rank"}}
    with pytest.raises(UserError, match="however unsure the model is"):
        check_allowed(Config(**ranks))
    check_allowed(Config(**ranks, pseudo={"rounds": 0}))


def test_a_network_that_is_tied_to_its_size_refuses_others_with_the_reason():
    vit = create_model(Architecture("test_vit3", 3, 32, (0.5,) * 3, (0.05,) * 3))
    with pytest.raises(UserError) as caught:
        check_sizes(vit.train(), (32, 64), "inference.scales")
    message = str(caught.value)
    assert message.startswith(
        "inference.scales: model.backbone=test_vit3 was built for 32 px and cannot look at 64 ("
    )
    assert message.endswith("leave inference.scales=null, or take a convolutional backbone")
    assert vit.training
    check_sizes(vit, (32,), "inference.scales")


def test_a_look_at_other_sizes_leaves_no_trace_in_the_network():
    model = small_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_sizes(model, (32, 64, 96), "inference.scales")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_such_a_network_is_refused_before_the_night_and_not_after_it(prepared, stage_here):
    done = stage_here(
        prepared, "02_train.py", "model.backbone=test_vit3", "data.image_size=16", "inference.scales=[64]"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (
        "inference.scales: model.backbone=test_vit3 was built for 16 px and cannot look at 64" in done.stderr
    )
    assert not list((prepared / "runs").rglob("model.safetensors"))


# --- fingerprints -------------------------------------------------------------------------------------------


def test_a_new_view_makes_predictions_stale_and_no_model_and_what_is_off_makes_nothing_stale(
    prepared, stage_here
):
    from src.steps import predict_step, run_of, train_step

    assert stage_here(prepared, "02_train.py", "fold=0").returncode == 0

    def steps(*overrides: str) -> tuple[Step, Step]:
        config = load_config(prepared / "configs" / "baseline.yaml", list(overrides))
        return train_step(run_of(config), 0), predict_step(run_of(config), 0)

    train, plain = steps()
    earlier = {**plain.recipe, "inference": {"tta": ["identity"]}}  # of one view there is no average
    assert Step("", plain.folder, plain.outputs, earlier).fingerprint == plain.fingerprint
    two = "inference.tta=[identity,centre]"
    assert steps(two, "inference.average=logit")[1].fingerprint != steps(two)[1].fingerprint
    for override in ("inference.scales=[32]", two):
        assert steps(override)[0].fingerprint == train.fingerprint
        assert steps(override)[1].fingerprint != plain.fingerprint


def test_an_optional_section_is_set_by_its_keys_and_switched_off_by_null(tmp_path):
    write_config(tmp_path, "reranked", "task: {name: retrieval}\ninference: {rerank: {k1: 9}}\n")
    path = write_config(tmp_path, "experiment", "base: reranked\n")
    assert load_config(path).inference.rerank.model_dump() == {"k1": 9, "k2": 6, "weight": 0.3}
    assert load_config(path, ["inference.rerank.weight=0.5"]).inference.rerank.weight == 0.5
    assert load_config(path, ["inference.rerank=null"]).inference.rerank is None
    assert load_config(path, ["inference.expansion.k=3"]).inference.expansion.alpha == 3.0
    with pytest.raises(UserError, match=r"unknown key `inference\.rerank\.k3`; did you mean"):
        load_config(path, ["inference.rerank.k3=1"])
