"""Stage 01: the image cache, then the folds; each only when what it depends on has changed."""

from __future__ import annotations

from src.config import Config
from src.steps import folds_step, images_step, raw_tables


def prepare(config: Config, force: bool = False) -> None:
    """Bring the image cache and folds.csv up to date."""
    images = images_step(config)
    if force:
        images.drop()
        folds_step(config).drop()
    if images.fresh() and folds_step(config).fresh():
        print(images.up_to_date_line())
        print(folds_step(config).up_to_date_line())
        return
    from src.data.folds import build_folds, check_rare
    from src.data.images import build_cache, open_images
    from src.data.tables import load_tables
    from src.report.pictures import draw_samples
    from src.tasks import create_task

    tables = load_tables(config)
    task = create_task(config)
    description = task.describe(tables.targets)
    if "counts" in description:  # before any earlier file is replaced
        check_rare(description.get("rare", description["counts"]), config.cv, raw_tables(config)["train"])
    if images.begin():
        build_cache(images, tables, config.data)
        store, targets = open_images(images), tables.targets.iloc[:, 0]
        draw_samples(images.folder / "samples.png", store.pixels, store.train, targets, config.seed)
    folds = folds_step(config)  # only now: it depends on the contents that the cache has just recorded
    if folds.begin():
        if folds.why():
            print(
                f"{folds.title}: {'; '.join(folds.why())}; "
                f"every run trained on the old folds will train again"
            )
        build_folds(folds, config, tables, task, images.folder)
    else:
        print(folds.up_to_date_line())
