"""Preview of the augmentation: what the pipeline does to real images, before a long training.

Reads   data/cache/, data/folds.csv
Writes  data/preview-<name>.png: one row per image; first as cached, then augmented as in training, several
        times, then in mixed batches (mixup, CutMix) with the share left of each label; masks are outlined
"""

import time
from collections import Counter

from src.cli import main

ROWS, DRAWS, MIXED = 6, 4, 3  # fits on a screen


def run(config, force):
    from src.steps import dataset_inputs

    dataset_inputs(config)  # raises if stage 01 has not been run
    preview(config)


def preview(config) -> None:
    """Draw the preview; print its path and the augmentation time per image."""
    from dataclasses import replace

    from src.data.loaders import TrainingBatches, load_fold, target_tensor, to_tensor
    from src.data.mask_targets import to_loss_targets
    from src.data.mixing import Mixer
    from src.models.scale import TargetScale
    from src.report.preview import draw_preview
    from src.tasks import create_task

    task = create_task(config)
    fold = load_fold(config, task, config.selected_folds[0])
    rows = fold.train
    scale = TargetScale.of(rows.targets, config.train.target_log) if task.scaled else TargetScale()
    rows = replace(rows, targets=scale.encode(rows.targets))  # regression targets are mixed in scaled form
    chosen = different_rows(rows, config.seed)
    batches = TrainingBatches(rows, fold.store, config)
    batches[config.seed, chosen[:1]]  # the first call pays for imports and open files
    images = to_tensor(fold.store.pixels[rows.positions[chosen]])
    columns, seconds = [("cached", images, target_tensor(rows.targets[chosen]))], []
    for draw in range(DRAWS):
        began = time.perf_counter()
        images, targets, _ = batches[config.seed + draw, chosen]
        seconds.append((time.perf_counter() - began) / len(chosen))
        columns.append(("augmented", images, targets))
    mixer = Mixer(config.mixing.model_copy(update={"share": 1.0, "off_epochs": 0}), 1)
    for draw in range(MIXED if config.mixing.on else 0):
        images, targets, weights = batches[config.seed + DRAWS + draw, chosen]
        columns.append(("mixed", *mixer(images, to_loss_targets(targets), weights, 0, draw)[:2]))
    table = [pictures(images, targets, scale, task.name, fold.outputs) for _, images, targets in columns]
    path = config.root / "data" / f"preview-{config.name}.png"
    draw_preview(path, [head for head, *_ in columns], [list(row) for row in zip(*table, strict=True)])
    took = f"{1000 * min(seconds):.2f} ms to augment at {config.data.image_size} px"
    print(f"{path.relative_to(config.root)}: an image takes {took}, in one process")


def different_rows(rows, seed: int):
    """Row numbers of up to ROWS rows with as many different targets as possible; empty masks come last."""
    import numpy as np

    met = Counter()

    def again(row: int) -> int:
        values = rows.targets[[row]]
        if values.ndim == 4:
            return int(not values.any())
        met[values.tobytes()] += 1
        return met[values.tobytes()]

    order = np.random.default_rng(seed).permutation(len(rows))[: 50 * ROWS]
    return np.array(sorted(order, key=again)[:ROWS])


def pictures(images, targets, scale, task: str, outputs: list[str]) -> list:
    """A batch (B, C, H, W) with its targets as images with captions or masks to draw."""
    from src.data.mask_targets import to_loss_targets
    from src.report.preview import PreviewImage, caption_of_targets

    pixels = images.round().byte().permute(0, 2, 3, 1).numpy()
    if targets.ndim == 4:
        inside = (to_loss_targets(targets) > 0).byte().permute(0, 2, 3, 1).numpy()  # no ignored pixels
        return [PreviewImage(image, "", masks) for image, masks in zip(pixels, inside, strict=True)]
    said = scale.decode(targets).numpy()
    return [
        PreviewImage(image, caption_of_targets(task, one, outputs))
        for image, one in zip(pixels, said, strict=True)
    ]


if __name__ == "__main__":
    main(run, __doc__)
