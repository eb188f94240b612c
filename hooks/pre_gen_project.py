"""Pre-generation hook: validate every answer before a file is written, report all invalid ones at once."""

import json
import re
import sys

# The answers are inserted only here, as JSON: a quote in an answer is escaped, so it cannot end the raw
# string, and a backslash is kept. The line breaks separate the string's own quotes from those of the JSON.
ANSWERS = json.loads(
    r"""
<< cookiecutter | tojson >>
"""
)
# A slash in the name would have created several folders before this hook runs, and a refusal removes only
# one. So cookiecutter.json replaces it by a character that looks the same.
ANSWERS["comp_name"] = ANSWERS["comp_name"].replace("\u2215", "/")

# The metrics of the project's src/metrics/ by task, the default metric of the task first.
METRICS = {
    "multiclass": (
        "accuracy",
        "balanced_accuracy",
        "log_loss",
        "f1_macro",
        "f1_micro",
        "f1_weighted",
        "f2_macro",
        "f05_macro",
        "qwk",
        "mcc",
        "roc_auc",
        "average_precision",
        "brier",
        "top3_accuracy",
        "top5_accuracy",
        "map3",
        "map5",
    ),
    "binary": (
        "roc_auc",
        "log_loss",
        "average_precision",
        "accuracy",
        "balanced_accuracy",
        "f1",
        "f2",
        "f05",
        "mcc",
        "brier",
    ),
    "multilabel": (
        "roc_auc",
        "average_precision",
        "log_loss",
        "f1_macro",
        "f1_micro",
        "f1_samples",
        "f2_samples",
        "accuracy",
        "subset_accuracy",
        "brier",
        "lrap",
    ),
    "regression": (
        "rmse",
        "rmsle",
        "mae",
        "mse",
        "r2",
        "spearman",
        "pearson",
        "qwk",
        "medae",
        "mape",
    ),
    "segmentation": (
        "dice",
        "iou",
        "map_iou",
        "dice_global",
        "iou_global",
    ),
    "retrieval": (
        "map5",
        "map1",
        "map3",
        "map10",
        "map_full",
        "recall1",
        "recall5",
        "gap",
    ),
}


def is_slug(text):
    """Whether a text is a Kaggle slug of 3 to 80 characters."""
    return 3 <= len(text) <= 80 and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text) is not None


def is_title(text):
    """Whether a text is one line that YAML, TOML and JSON all parse from the same quoted form.

    That excludes characters that JSON escapes as surrogate pairs (emoji: TOML rejects them) and the
    template's own opening tags, which an update by cruft would render again.
    """
    plain = text.isprintable() and all(ord(character) <= 0xFFFF for character in text)
    return plain and 1 <= len(text.strip()) <= len(text) <= 100 and not re.search("<[#%<]", text)


def is_backbone(text):
    """Whether a text has the form of a timm model name, with or without a tag of its weights."""
    return len(text) <= 100 and re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)?", text) is not None


def is_whole_number(text, low, high):
    """Whether a text is an integer from `low` to `high`."""
    return re.fullmatch(r"[1-9][0-9]{0,4}", text) is not None and low <= int(text) <= high


def is_threshold(text):
    """Whether a text is a decimal fraction between 0.5 and 1, both excluded."""
    return re.fullmatch(r"0\.[0-9]{1,6}", text) is not None and 0.5 < float(text) < 1


def is_username(text):
    """Whether a text is empty or a Kaggle user name."""
    return re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_-]{0,49})?", text) is not None


# answer: (validator, description of a valid value with an example)
CHECKS = {
    "comp_name": (
        is_slug,
        "3 to 80 lowercase letters, digits and single hyphens, as in its address on Kaggle: digit-recognizer",
    ),
    "title": (
        is_title,
        "one line of 1 to 100 printable characters, without emoji or tags of the template: Digit Recognizer",
    ),
    "task": (
        lambda text: text in METRICS,
        f"{', '.join(list(METRICS)[:-1])} or {list(METRICS)[-1]}",
    ),
    "backbone": (
        is_backbone,
        "a timm model's name, with or without the tag of its weights: resnet18 or resnet18.a1_in1k",
    ),
    "image_size": (lambda text: is_whole_number(text, 16, 2048), "a whole number from 16 to 2048: 224"),
    "n_folds": (lambda text: is_whole_number(text, 2, 20), "a whole number from 2 to 20: 5"),
    "pseudo_threshold": (is_threshold, "a number between 0.5 and 1, both left out, written in digits: 0.9"),
    "kaggle_username": (
        is_username,
        "blank, or 50 letters, digits, hyphens and underscores at most: quickfox",
    ),
}


def problems(answers):
    """One sentence for each invalid answer: its name, its value, and what a valid value looks like."""
    found = []
    for name, (is_good, example) in CHECKS.items():
        answer = str(answers[name])
        if not is_good(answer):
            found.append(f"{name} is {answer!r}; it should be {example}")
    known, metric = METRICS.get(answers["task"]), answers["metric"]
    if known and metric and metric not in known:
        choices = f"blank (then it is {known[0]}) or one of {', '.join(known)}"
        found.append(f"metric is {metric!r}; it should be {choices}")
    return found


if __name__ == "__main__":
    found = problems(ANSWERS)
    if found:
        sys.exit("\n  ".join(["Nothing was created, because of these answers:", *found]))
