"""The complete inspection: from a folder of Kaggle's files to findings with their reasons."""

from __future__ import annotations

from typing import Any

import pandas as pd

from src.config import Config, UserError
from src.data.masks import mask_classes
from src.data.sniff.columns import find_group, find_id, find_image, note_the_rest, sample_ids
from src.data.sniff.files import RawImages, find_folders, find_masks, find_raw, find_sizes, find_tables
from src.data.sniff.findings import Findings, first_few
from src.data.sniff.task import Answer, find_answer
from src.data.submission_form import describe_sample
from src.data.targets import read_targets
from src.metrics import names

# Usual metrics per task and submission form; the first is not always the task's default.
_METRICS = {
    "binary": {"columns": ("roc_auc", "log_loss", "average_precision"), "label": ("accuracy", "f1", "mcc")},
    "multiclass": {
        "columns": ("log_loss", "roc_auc"),
        "label": ("accuracy", "f1_macro", "balanced_accuracy", "qwk", "mcc"),
        "separated": ("map3", "map5", "top3_accuracy", "top5_accuracy"),
    },
    "multilabel": {
        "columns": ("roc_auc", "log_loss", "average_precision"),
        "separated": ("f1_samples", "f1_macro", "f1_micro", "f2_samples"),
        "long": ("roc_auc", "log_loss", "average_precision"),
    },
    "regression": {"columns": ("rmse", "mae", "rmsle", "r2", "spearman"), "ordinal": ("qwk", "mae", "rmse")},
    "segmentation": {"rle": ("dice", "iou", "map_iou")},
    "retrieval": {"separated": ("map5", "recall1", "recall5", "gap")},
}


def find_settings(config: Config, chosen: dict[str, Any]) -> Findings:
    """Infer the data and task sections; `chosen` are the competitor's own values, kept if they work."""
    findings = Findings(chosen)
    raw = find_raw(findings, config.root, config.data.raw)
    files = RawImages.below(raw)
    tables = find_tables(findings, raw, config.kaggle.code_competition)
    train = tables["train"]
    key = find_id(findings, tables, files)
    image = find_image(findings, train, files, key)
    for role in ("train", "test"):
        table = tables.get(role, tables["sample"])
        column = image if image in table else key if key in table else sample_ids(tables, key)
        find_folders(findings, files, role, _images_of(table[column], files))
    masks = find_masks(findings, files, train, train[image or key].tolist(), key)
    answer = find_answer(tables, key, image, masks, chosen.get("data.target"))
    _settle_answer(findings, answer, train)
    task = findings["task.name"]
    targets = [] if task == "segmentation" else _as_list(findings["data.target"])
    mask = findings.get("data.mask")
    taken = [key, image, mask, answer.rle, answer.long, *targets]
    group = find_group(findings, tables, taken)
    note_the_rest(findings, tables, [*taken, group])
    find_sizes(findings, files, findings["data.train_images"])
    _note_labels_and_form(findings, config, tables, key, answer)
    return findings


def _images_of(ids: pd.Series, files: RawImages) -> list[str]:
    """The image names from ids that may be pairs, such as <image>_<class>."""
    values = list(dict.fromkeys(ids))
    if files.share(values[:200]) > 0:
        return values
    return list(dict.fromkeys(value.rpartition("_")[0] or value for value in values))


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _settle_answer(findings: Findings, answer: Answer, train: pd.DataFrame) -> None:
    task = findings.settle(
        "task.name", answer.task, answer.why, answer.unsure, lambda own: own in answer.others
    )
    if task == "segmentation":
        if answer.rle is not None:
            findings.settle(
                "data.rle", answer.rle, "its values are run lengths", works=lambda own: own in train
            )
    elif answer.targets:
        guess = answer.targets[0] if len(answer.targets) == 1 else tuple(answer.targets)
        findings.settle(
            "data.target",
            guess,
            answer.why_targets,
            answer.unsure_targets,
            lambda own: bool(own) and set(_as_list(own)) <= set(train.columns),
        )
    separator = answer.separator if task == "multilabel" else None
    findings.settle(
        "data.label_separator", separator, "what stands between labels", works=lambda own: own == separator
    )
    if task == "retrieval" and answer.new_label is not None:
        findings.settle(
            "data.new_label", answer.new_label, "the answer for an identity that train lacks", works=bool
        )
    findings.settle(
        "data.long", answer.long, "which class a row is about", works=lambda own: own in train.columns
    )


def _note_labels_and_form(findings: Findings, config: Config, tables: dict, key: str, answer: Answer) -> None:
    """Note the balance of the labels, the form of the submission, and the usual metrics."""
    task = findings["task.name"]
    try:
        trial = _with(config, findings)
        _, targets = read_targets(tables["train"], trial, trial.root / trial.data.raw / trial.data.train_csv)
        outputs = _note_balance(findings, task, targets)
        outputs = mask_classes(trial, targets) if task == "segmentation" else outputs
        known = tables["test"][key].tolist() if "test" in tables and key in tables["test"] else None
        form = describe_sample(tables["sample"], trial, outputs, trial.root / trial.data.raw, known)
    except (UserError, ValueError) as error:  # a doubt about the labels must not hide the other findings
        findings.note("submission", "?", "the sample could not be read with these keys", str(error))
        return
    kind = form.kind
    text = {
        "label": "one value an image",
        "columns": "one column an output",
        "separated": f"answers with {form.separator!r} between them, {form.most} at most in the sample",
        "rle": "run-length masks",
        "long": "one row an image-and-class pair",
    }[kind]
    if form.classes is not None:
        text += (
            f", the class in `{form.class_column}`" if form.class_column else ", the class at the id's end"
        )
    findings.note("submission", kind, f"{form.id_column}, {first_few(form.value_columns, 6)}: {text}")
    if task == "binary":
        decisions = set(tables["sample"][form.value_columns[0]]) <= {"0", "1"}
        kind = "label" if decisions else "columns"
    if task == "regression":
        kind = "ordinal" if answer.ordinal else "columns"
    usual = _METRICS[task].get(kind) or next(iter(_METRICS[task].values()))
    words = task == "multiclass" and not _numbers(outputs)
    usual = [name for name in usual if name in names(task) and not (words and name == "qwk")]
    own = findings.chosen.get("task.metric")
    metric = own if own in names(task) else None
    said = (
        f"kept; often seen with such a sample: {', '.join(usual)}"
        if metric
        else f"often one of {', '.join(usual)}"
    )
    if own is not None and metric is None:
        said = f"{own} is no metric of {task}; {said}"
    doubt = None if metric else f"the files cannot say; the Evaluation page can. null means {names(task)[0]}"
    findings.note("task.metric", metric, said, doubt)


def _numbers(labels: list[str]) -> bool:
    return all(label.removeprefix("-").isdigit() for label in labels)


def _note_balance(findings: Findings, task: str, targets: pd.DataFrame) -> list[str]:
    """Note the balance of the labels; returns the names of the outputs."""
    if task in ("multiclass", "binary", "retrieval"):
        counts = targets.iloc[:, 0].value_counts()
        each = counts.map(lambda n: f"{n / len(targets):.1%}")
        why = f"largest / smallest {counts.max() / counts.min():.1f}"
        shown = (
            f"{len(counts)} identities"
            if task == "retrieval"
            else first_few([f"{k} {v}" for k, v in each.items()], 8)
        )
        why = f"{counts.min()} to {counts.max()} images each" if task == "retrieval" else why
        rare = int((counts < 5).sum())
        doubt = f"{rare} class(es) have fewer than 5 rows" if rare and task == "multiclass" else None
        findings.note("balance", shown, why, doubt)
        return sorted(counts.index)
    if task == "multilabel":
        shares = targets.apply(pd.to_numeric).mean()
        findings.note(
            "balance", first_few([f"{k} {v:.1%}" for k, v in shares.items()], 8), "rows that have each label"
        )
    if task == "regression":
        values = targets.apply(pd.to_numeric)
        for name in values.columns[:4]:
            q = values[name].quantile([0, 0.25, 0.5, 0.75, 1]).tolist()
            tail = (
                ", a heavy tail: look at train.target_log" if q[0] >= 0 and q[4] > 5 * max(q[2], 1e-9) else ""
            )
            findings.note(
                "balance", f"{name} {q[0]:g} to {q[4]:g}", f"quartiles {q[1]:g}, {q[2]:g}, {q[3]:g}{tail}"
            )
    if task == "segmentation" and targets.shape[1]:
        empty = (targets == "").mean()
        findings.note(
            "balance", first_few([f"{k} {1 - v:.1%}" for k, v in empty.items()], 8), "rows that have a mask"
        )
    return list(targets.columns)


def _with(config: Config, findings: Findings) -> Config:
    """A config with only the findings, to read the labels and the sample with."""
    settings: dict[str, Any] = {"task": {}, "data": {}, "root": config.root}
    for key, value in findings.settings().items():
        section, _, name = key.partition(".")
        settings[section][name] = value
    return Config.model_validate(settings)
