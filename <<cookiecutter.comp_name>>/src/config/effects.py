"""Which key needs what to have an effect: one table, by which a key that would do nothing is refused, and
left out of every fingerprint.

A key is refused where it is set to another value than its default, and nothing that was set later (on the
command line, in a file that builds on this one) took its effect away: `train.loss=focal` may be tried on an
experiment that smooths labels. A key that has no effect enters no fingerprint, whatever its value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from src.config.losses import KNOBS, LOSSES, MARGINS

_Config = Any  # that of tree.py, which imports this module


@dataclass(frozen=True)
class Need:
    """What `keys` need: `met(config)`, which reads the keys `of`; `why` says it in words. `refused` is false
    where the key is set for other tasks or other days, and is ignored."""

    keys: tuple[str, ...]
    of: tuple[str, ...]
    met: Callable[[_Config], bool]
    why: str
    refused: bool = True


def _need(keys: str, of: str, met: Callable[[_Config], bool], why: str, refused: bool = True) -> Need:
    return Need(tuple(keys.split()), tuple(of.split()), met, why, refused)


def _loss(config: _Config) -> str:
    return config.train.name(config.task.name)


def _of_losses(keys: str, losses: tuple[str, ...]) -> Need:
    names = " or ".join(losses)
    return _need(keys, "task.name train.loss", lambda c: _loss(c) in losses, f"it is for train.loss={names}")


def _of_tasks(keys: str, *tasks: str, but: bool = False, refused: bool = True) -> Need:
    names = f"every task but {' and '.join(tasks)}" if but else f"task.name={' or '.join(tasks)}"
    return _need(keys, "task.name", lambda c: (c.task.name in tasks) != but, f"it is for {names}", refused)


def _resized(config: _Config) -> bool:
    return config.augment.crop == "resized" or (config.augment.crop, config.data.cache_size) == (None, None)


def _views(config: _Config) -> int:
    return len(config.inference.tta) * len(config.inference.scales or (0,))


def _has_floor(config: _Config) -> bool:
    train = config.train
    return train.schedule not in ("constant", "piecewise") and train.step_lrs is None


TREES = "stack.learning_rate stack.num_leaves stack.min_data_in_leaf stack.max_rounds "
TREES += "stack.patience stack.monotone"
NEEDS = (
    # the tables
    _of_tasks("data.target", "segmentation", but=True, refused=False),  # `label` stands in every new config
    _of_tasks("data.new_label", "retrieval"),
    _of_tasks("data.mask_classes data.mask_exif data.rle data.train_masks", "segmentation"),
    _need(
        "data.mask",
        "task.name data.train_masks",
        lambda c: c.task.name == "segmentation" and c.data.train_masks is not None,
        "it names the files of data.train_masks, for segmentation",
    ),
    _need(
        "cv.new_share",
        "task.name data.new_label",
        lambda c: c.task.name == "retrieval" and c.data.new_label is not None,
        "it is for retrieval with data.new_label",
    ),
    _of_tasks("cv.kind", "retrieval", but=True),
    # the network
    _of_tasks("model.decoder", "segmentation"),
    _of_tasks("model.embedding", "retrieval"),
    _of_losses("model.subcenters", MARGINS),
    _need(
        "model.pretrained",
        "model.weights",
        lambda c: c.model.weights is None,
        "model.weights stands in place of the weights that it would fetch",
        refused=False,
    ),
    # pixels
    _need(
        "augment.crop_scale augment.crop_ratio",
        "augment.crop data.cache_size",
        _resized,
        "it is for augment.crop=resized",
    ),
    _need(
        "augment.crop_ratio",
        "augment.crop_scale data.cache_size",
        lambda c: c.data.cache_size is not None or c.augment.crop_scale != (1.0, 1.0),
        "with augment.crop_scale=[1, 1] nothing is cut away",
    ),
    _need(
        "mixing.share mixing.off_epochs",
        "mixing.mixup mixing.cutmix",
        lambda c: c.mixing.on,
        "it is for mixing.mixup or mixing.cutmix",
    ),
    # losses
    _of_losses("train.label_smoothing", ("cross_entropy", "bce")),
    _of_losses("train.huber_delta", ("huber",)),
    _of_losses("train.dice_weight", ("bce_dice", "ce_dice", "focal_dice")),
    *(_of_losses(keys, losses) for keys, losses in KNOBS.items()),
    _of_losses("train.margin.scale train.margin.size train.margin.rarest", MARGINS),
    _of_tasks("train.margin.triplet_weight train.center_weight", "multiclass", "retrieval"),
    _of_tasks("train.lovasz_weight", "multilabel", "segmentation"),
    _need(
        "train.margin.triplet",
        "task.name train.margin.triplet_weight",
        lambda c: c.train.triplet_weight(c.task.name) > 0,
        "it is for train.margin.triplet_weight above 0",
    ),
    _need(
        "train.images_per_class",
        "task.name train.margin.triplet_weight",
        lambda c: c.identities,
        "it is for retrieval, or train.margin.triplet_weight above 0",
    ),
    _need(
        "train.effective_beta",
        "train.class_weights",
        lambda c: c.train.class_weights == "effective",
        "it is for train.class_weights=effective",
    ),
    # optimisation
    _need(
        "train.min_lr",
        "train.schedule train.step_lrs",
        _has_floor,
        "no rate falls there with this train.schedule",
    ),
    _need(
        "train.hold_epochs",
        "train.schedule",
        lambda c: c.train.schedule not in ("constant", "step", "plateau"),
        "this train.schedule begins with a hold",
    ),
    _need(
        "train.early_stopping.patience",
        "train.early_stopping.enabled",
        lambda c: c.train.early_stopping.enabled,
        "it is for train.early_stopping.enabled=true",
    ),
    _need(
        "train.ema.decay",
        "train.ema.enabled",
        lambda c: c.train.ema.enabled,
        "it is for train.ema.enabled=true",
    ),
    # teachers
    _need(
        "distill.weight distill.temperature distill.hard distill.features",
        "distill.teacher",
        lambda c: bool(c.distill.teachers),
        "there is no distill.teacher",
    ),
    _need(
        "distill.hard distill.temperature",
        "distill.weight",
        lambda c: c.distill.weight > 0,
        "with distill.weight=0 the teacher's answers count for nothing",
    ),
    _need(
        "distill.temperature",
        "distill.hard task.name",
        lambda c: not c.distill.hard and c.task.name not in ("regression", "retrieval"),
        "it is for probabilities, soft ones: not for distill.hard, regression or retrieval",
    ),
    _of_tasks("consistency.threshold", "regression", but=True),
    # pseudo-labels; the template's question about the threshold is asked for every task
    _of_tasks("pseudo.threshold", "regression", but=True, refused=False),
    _of_tasks("pseudo.quantile", "regression"),
    _of_tasks("pseudo.pixels", "segmentation"),
    _of_tasks("pseudo.labels", "regression", "retrieval", but=True),
    _of_tasks("pseudo.calibrate", "retrieval", "regression", but=True),
    _need(
        "pseudo.threshold pseudo.source pseudo.external pseudo.labels pseudo.calibrate pseudo.cap "
        "pseudo.prior pseudo.pixels pseudo.quantile pseudo.weight pseudo.epochs pseudo.start",
        "pseudo.rounds",
        lambda c: c.pseudo.rounds > 0,
        "pseudo.rounds is 0",
        refused=False,
    ),
    # predictions
    _of_tasks("inference.average", "retrieval", "regression", but=True),
    _need(
        "inference.average",
        "inference.tta inference.scales",
        lambda c: c.inference.average == "rank" or _views(c) > 1,
        "inference.tta and inference.scales make one view, which there is nothing to average with",
    ),
    _of_tasks("inference.candidates", "retrieval"),
    # the stack
    _of_tasks("stack.blenders stack.calibrate", "retrieval", "segmentation", but=True),
    _need(
        TREES,
        "stack.blenders task.name",
        lambda c: (
            c.task.name in ("retrieval", "segmentation")
            or bool({"lightgbm", "xgboost"} & {*c.stack.blenders})
        ),
        "it is for trees: add lightgbm to stack.blenders",
    ),
)
HOW = ("model.checkpointing", "inference.batch_size")  # memory and time; no bit of a result

_OFF = (
    "augment.d4 augment.hue augment.saturation augment.gamma augment.blur augment.noise augment.compression "
)
_OFF += "augment.erasing train.center_weight train.lovasz_weight train.hold_epochs"
NULL_IS: dict[str, Callable[[_Config], Any]] = {  # what a null stands for: that value is no other experiment
    **dict.fromkeys(_OFF.split(), lambda c: 0),
    "train.loss": lambda c: LOSSES[c.task.name][0],
    "train.momentum": lambda c: 0.9,
    "train.cycles": lambda c: 1,
    "train.cycle_decay": lambda c: 1,
    "train.lr_decay": lambda c: {"step": 0.1, "plateau": 0.1, "inverse_time": 0.5}.get(c.train.schedule),
    "train.plateau_patience": lambda c: 4,
    "train.backbone_lr": lambda c: 1,
    "train.margin.triplet_weight": lambda c: float(c.task.name == "retrieval"),
    "augment.operations": lambda c: 2,
    "augment.magnitude": lambda c: 9,
    "augment.crop": lambda c: "resized" if c.data.cache_size is None else "random",
    "model.subcenters": lambda c: 1,
    "model.stripes": lambda c: 6,
    "inference.crop": lambda c: 7 / 8,
}


def without_effect(config: _Config) -> dict[str, Need]:
    """The keys that have no effect in this config, each with what it lacks; keys below a section that is null
    are not there."""
    found: dict[str, Need] = {}
    for need in NEEDS:
        for key in need.keys:
            if key not in found and is_there(config, key) and not need.met(config):
                found[key] = need
    return found


def ignored(config: _Config) -> dict[str, str]:
    """The keys that differ from their default and have no effect, each with the reason; not those that are
    set for other tasks or days."""
    return {
        key: need.why
        for key, need in without_effect(config).items()
        if need.refused and value_of(config, key) not in (None, default_of(config, key))
    }


def default_of(config: _Config, key: str) -> Any:
    """The default of a key whose sections are all there."""
    above, _, name = key.rpartition(".")
    section = value_of(config, above) if above else config
    return type(section).model_fields[name].default


def effective_settings(config: _Config) -> dict[str, Any]:
    """The whole tree as plain values; what is ignored has its default, so that they are a config again."""
    plain = {key: default_of(config, key) for key in ignored(config)}
    for key, value in plain.items():
        config = _with(config, key.split("."), value)
    return config.model_dump(mode="json", exclude={"fold", "folds"})


def _with(section: Any, path: list[str], value: Any) -> Any:
    """A section with another value below it."""
    name, *rest = path
    return section.model_copy(update={name: _with(getattr(section, name), rest, value) if rest else value})


def is_there(config: _Config, key: str) -> bool:
    """Whether all sections above a key are."""
    above = key.rpartition(".")[0]
    return not above or value_of(config, above) is not None


def value_of(config: _Config, key: str) -> Any:
    """The value at a dotted key; None below a section that is null."""
    value: Any = config
    for part in key.split("."):
        value = None if value is None else getattr(value, part)
    return value


def effective(config: _Config, section: str) -> dict[str, Any] | None:
    """A section as plain values for a fingerprint: keys that have no effect, or none on a result, are not
    there, and a value that null stands for is null."""
    values = config.model_dump(mode="json", include={section})[section]
    if not isinstance(values, dict):
        return values
    for key in (*without_effect(config), *HOW):
        _set(values, section, key, gone=True)
    for key, meant in NULL_IS.items():
        if is_there(config, key) and value_of(config, key) == meant(config):
            _set(values, section, key)
    return values


def _set(values: dict[str, Any], section: str, key: str, gone: bool = False) -> None:
    """Make the value at a dotted key of this section null, or take it out with the sections that it leaves
    empty."""
    first, *inside = key.split(".")
    if first != section:
        return
    *above, last = inside
    path = [values]
    for part in above:
        if not isinstance(path[-1].get(part), dict):
            return
        path.append(path[-1][part])
    if last in path[-1] and gone:
        del path[-1][last]
        for outer, name in zip(reversed(path[:-1]), reversed(above), strict=True):
            if not outer[name]:
                del outer[name]
    elif last in path[-1]:
        path[-1][last] = None
