"""Kaggle slugs derived from the config, and the local folders of what is uploaded under them."""

from __future__ import annotations

import re
from pathlib import Path

from src.config import Config, UserError


def competition(config: Config) -> str:
    """The competition's slug. Raises `UserError` if the config has none."""
    if not config.competition.slug:
        raise UserError(
            "competition.slug is empty: set it in configs/default.yaml to the last part of the competition's "
            "address, such as cassava-leaf-disease-classification"
        )
    return config.competition.slug


def dataset_ref(config: Config) -> str:
    """`owner/slug` of the private dataset that holds the bundle."""
    return f"{_username(config)}/{config.kaggle.dataset or _slug(competition(config), 'bundle')}"


def code_ref(config: Config) -> str:
    """`owner/slug` of the private dataset that holds the training code."""
    return f"{_username(config)}/{_slug(competition(config), 'code')}"


def kernel_ref(config: Config) -> str:
    """`owner/slug` of the inference kernel."""
    return f"{_username(config)}/{config.kaggle.kernel or _slug(competition(config), 'infer')}"


def train_ref(config: Config, session: int) -> str:
    """`owner/slug` of the training kernel of this experiment. Each session (1, 2, ...) is a separate
    kernel."""
    slug = config.kaggle.train_kernel or _slug(competition(config), f"train-{config.name}")
    tail = "" if session == 1 else f"-{session}"
    return f"{_username(config)}/{slug[: 50 - len(tail)].rstrip('-')}{tail}"


def title_of(ref: str) -> str:
    """A title that Kaggle converts back into the slug of `owner/slug`. With any other title Kaggle creates a
    second kernel."""
    return ref.partition("/")[2].replace("-", " ").title()


def bundle_folder(config: Config) -> Path:
    """The folder that `make bundle` writes and that is uploaded as the dataset."""
    return config.root / "kaggle" / "bundle"


def _username(config: Config) -> str:
    name = config.competition.kaggle_username
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(
            f"competition.kaggle_username is {name!r}: set it in configs/default.yaml to the name in your "
            f"profile's address, kaggle.com/<username>"
        )
    return name.lower()


def _slug(competition_slug: str, what: str) -> str:
    """A slug of at most 50 lower-case letters, digits and single hyphens; `what` is never truncated."""
    clean, tail = (re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") for text in (competition_slug, what))
    return f"{clean[: max(0, 49 - len(tail))].rstrip('-')}-{tail}".strip("-")[:50].rstrip("-")
