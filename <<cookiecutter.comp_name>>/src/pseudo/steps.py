"""Dependency graph of stage 04: what each step writes, and what it depends on. No work is done here.

| step | writes | depends on |
|---|---|---|
| calibrate, per fold | `runs/<before>/fold<k>/stop.parquet` | that fold's model, `inference` |
| external, per fold | `runs/<before>/fold<k>/extra.parquet` | that fold's model, `inference`, the images |
| select, per fold | `runs/<name>-round<r>/fold<k>.pseudo.parquet` | predictions of the run before, `pseudo` |
| all rounds | `runs/<name>/pseudo.json` | the run from which they start, `pseudo` |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from src.artifacts import Step, digest
from src.config import Config, UserError
from src.steps import Run, digest_of, extra_step, predict_step, run_of, train_step


def early_stopping_step(run: Run, fold: int) -> Step:
    """Step that predicts one fold's early-stopping rows, on which pseudo-labels are calibrated. For rankings
    stage 03 already predicts them."""
    return Step(
        title=f"04 calibrate {run.name} fold {fold}",
        folder=run.fold_folder(fold),
        outputs=("stop.parquet",),
        recipe=predict_step(run, fold).recipe | {"folds": digest(run.config.root / "data" / "folds.csv")},
        stamp_name="stop",
    )


def external_step(run: Run, fold: int) -> Step:
    """Step that predicts the external images with one fold's model."""
    return Step(
        title=f"04 external images, {run.name} fold {fold}",
        folder=run.fold_folder(fold),
        outputs=("extra.parquet",),
        recipe=predict_step(run, fold).recipe | {"extra": external_images(run.config)},
        stamp_name="extra",
    )


def external_images(config: Config) -> str | None:
    """Digest of the packed external images, None if there are none. Raises `UserError` if stage 01 has not
    packed them yet."""
    extra = extra_step(config)
    if extra is not None and not extra.fresh():
        raise UserError(
            f"pseudo.external: the images are not packed yet; run `make folds EXP={config.name}` first"
        )
    return None if extra is None else digest(extra.folder / extra.outputs[1])


def labellers(run: Run, fold: int) -> list[Path]:
    """Folders of the models that label for fold `fold`: only its own model of the round before, or the models
    of all folds with `pseudo.source=ensemble`."""
    before = run.config.root / "runs" / str(run.labels_from)
    everybody = range(run.config.cv.n_folds) if run.config.pseudo.source == "ensemble" else (fold,)
    return [before / f"fold{k}" for k in everybody]


def unlabelled(run: Run, fold: int) -> dict[str, list[Path]]:
    """Prediction tables of these models: one per model for the `test` rows, and for the `extra` images if
    there are any. A ranking reveals the labels of its gallery rows, so with `pseudo.source=fold` rankings use
    the `blind` table, whose gallery excludes the fold's own rows."""
    blind = run.config.task.name == "retrieval" and run.config.pseudo.source == "fold"
    folders = labellers(run, fold)
    tables = {"test": [folder / f"{'blind' if blind else 'test'}.parquet" for folder in folders]}
    if run.config.pseudo.external is not None:
        tables["extra"] = [folder / "extra.parquet" for folder in folders]
    return tables


def calibrated_on(run: Run, fold: int) -> Path | None:
    """The prediction table with labels on which confidence is calibrated; None without calibration. Its rows
    were neither used to train the labelling model nor scored for fold `fold`. For an ensemble, whose CV is
    optimistic anyway, it is the OOF table."""
    if run.config.task.name != "retrieval" and not run.config.pseudo.calibrate:
        return None
    if run.config.pseudo.source == "ensemble":
        return run.config.root / "runs" / str(run.labels_from) / "oof.parquet"
    return labellers(run, fold)[0] / "stop.parquet"


def select_step(run: Run, fold: int) -> Step:
    """Step that selects the pseudo-labels of fold `fold`, from the models of the run before that may label
    for it."""
    pseudo, known = run.config.pseudo, calibrated_on(run, fold)
    keys = ("threshold", "labels", "pixels", "quantile", "calibrate", "cap", "prior")
    said = [digest(path) for paths in unlabelled(run, fold).values() for path in paths]
    return Step(
        title=f"04 select {run.name} fold {fold}",
        folder=run.folder,
        outputs=(f"fold{fold}.pseudo.parquet",),
        recipe={
            "pseudo": {key: value for key, value in run.config.effective("pseudo").items() if key in keys},
            "predictions": said[0] if len(said) == 1 else said,
            "calibrated_on": None if known is None else digest(known),
            "prior_of": None if pseudo.prior is None else digest(run.config.root / "data" / "folds.csv"),
        },
        stamp_name=f"select{fold}",
    )


def pseudo_step(config: Config) -> Step:
    """Step for all rounds of one run's pseudo-labelling, and which of them were kept."""
    base = run_of(config)
    for name in ("oof.parquet", "test.parquet"):
        digest_of(base.folder / name, "04", hint=f"make oof EXP={config.name}")
    folds = range(config.cv.n_folds)
    recipe = {
        "pseudo": pseudo_settings(config),
        "extra": external_images(config),
        "task": config.task.model_dump(mode="json"),
        "train": [train_step(base, k).fingerprint for k in folds],
        "predict": [predict_step(base, k).fingerprint for k in folds],
        "oof": digest(base.folder / "oof.parquet"),
    }
    return Step(f"04 pseudo-label {config.name}", base.folder, ("pseudo.json",), recipe, stamp_name="pseudo")


def pseudo_settings(config: Config) -> dict[str, Any]:
    """Settings of `pseudo` for the recipe. Options added later are null at their original value, so that
    existing stamps stay valid."""
    values = config.effective("pseudo")
    before = (("source", "fold"), ("start", "scratch"))
    return values | {key: None for key, usual in before if values.get(key) == usual}
