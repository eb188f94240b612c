"""Stage 01: build the image cache, the external images, the masks and the folds; each only if its inputs have
changed."""

from __future__ import annotations

from src.artifacts import Step
from src.config import Config
from src.locks import alone
from src.rawfiles import raw_tables
from src.steps import extra_step, folds_step, images_step, masks_step


def prepare_dataset(config: Config, force: bool = False) -> None:
    """Bring the image cache, the external images, the masks and folds.csv up to date; `force` rebuilds all of
    them."""
    images, masks = images_step(config), masks_step(config)
    if force:
        for step in (images, extra_step(config), masks, folds_step(config)):
            if step is not None:
                step.drop()
    steps = [step for step in (images, extra_step(config), masks, folds_step(config)) if step is not None]
    if all(step.fresh() for step in steps):
        for step in steps:
            print(step.up_to_date_line())
        return
    with alone(config.root / "data" / "folds.csv"):
        _prepare(config, images, masks)


def _prepare(config: Config, images: Step, masks: Step | None) -> None:
    from src.data.domain import check_domain
    from src.data.folds import build_folds, check_rare
    from src.data.identities import check_identities
    from src.data.images import build_cache, open_images
    from src.data.masks import build_masks, coverage, open_masks
    from src.data.orientation import orientations
    from src.data.tables import load_tables
    from src.report.pictures import draw_masks, draw_samples
    from src.tasks import create_task

    tables, table = load_tables(config), raw_tables(config)["train"]
    task, targets = create_task(config), tables.targets
    check_domain(config, task, targets, table)
    if task.kind == "rankings":  # checked before any earlier file is replaced
        check_identities(task.describe(targets)["counts"], config.cv, config.data.new_label, table)
    elif task.kind == "numbers" and "counts" in (description := task.describe(targets)):
        check_rare(description.get("rare", description["counts"]), config.cv, table)
    if images.begin():
        build_cache(images, tables, config)
        if masks is None:
            store = open_images(config)
            draw_samples(
                images.folder / "samples.png", store.pixels, store.train, targets.iloc[:, 0], config.seed
            )
    # created only now, as the masks: it depends on the contents of the image cache
    extra = extra_step(config)
    if extra is not None and extra.begin():
        from src.data.extra import build_extra

        build_extra(extra, config)
    # created only now: it depends on the contents that the cache has just recorded
    masks = masks_step(config)
    if masks is not None:
        if masks.begin():
            store = open_images(config)
            turns = orientations(images.folder, tables, config.data, masks.title)
            build_masks(masks.folder, tables, store.train_sizes, config.data, masks.title, turns)
            draw_masks(images.folder / "samples.png", store, open_masks(masks.folder), config.seed)
            masks.done()
        targets = coverage(masks.folder)
    folds = folds_step(config)
    if folds.begin():
        if folds.why():
            print(
                f"{folds.title}: {'; '.join(folds.why())}; "
                f"every run trained on the old folds will train again"
            )
        build_folds(folds, config, tables, targets, task, images.folder)
    else:
        print(folds.up_to_date_line())
