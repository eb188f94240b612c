"""Prediction tables of one fold's model for its own rows and for the test rows, as stage 03 writes them; one
function per kind of prediction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from src.config import Config, Inference
from src.data.loaders import FoldData, read_folds
from src.data.masks import true_masks
from src.inference.expansion import expand
from src.inference.nearest import top_identities
from src.inference.predict import embed, predict, predict_maps
from src.inference.rerank import Reranked
from src.models.build import Network
from src.steps import images_step
from src.tasks.base import Task, as_target_columns, targets_in


@dataclass(frozen=True)
class FoldPredictor:
    """One fold's model with everything needed to predict with it."""

    config: Config
    task: Task
    data: FoldData
    model: Network
    device: torch.device
    report: Callable[[int], None]

    def table(self, index: np.ndarray) -> pd.DataFrame:
        """The rows `index` of folds.csv: id, fold and targets."""
        return read_folds(self.config).iloc[index].drop(columns=["stop", "group"]).reset_index(drop=True)

    def test_ids(self) -> pd.DataFrame:
        """The ids of the test rows."""
        return pd.DataFrame({"id": pd.Series(self.data.store.test_ids, dtype=str)})


def number_tables(asked: FoldPredictor) -> dict[str, pd.DataFrame]:
    """Tables of predictions (N, C). For numbers without a probability they include the spread of the TTA
    views, from which the confidence of pseudo-labels is derived."""
    data, task, settings = asked.data, asked.task, asked.config.inference

    def ask(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return predict(asked.model, task, data.store, positions, settings, asked.device, asked.report)

    valid, _ = ask(data.store.train[data.valid_index])
    test, spread = ask(data.store.test)
    oof = asked.table(data.valid_index).join(task.write(valid, data.outputs))
    said = asked.test_ids().join(task.write(test, data.outputs))
    if task.scaled and spread is not None:
        said["spread"] = spread
    return {"oof": oof, "test": said}


def map_tables(asked: FoldPredictor) -> dict[str, pd.DataFrame]:
    """Tables of probability maps; the target of an OOF row is its true mask."""
    config, data, task = asked.config, asked.data, asked.task

    def ask(positions: np.ndarray, sizes: list[tuple[int, int]]) -> pd.DataFrame:
        said = predict_maps(
            asked.model,
            task,
            data.store,
            positions,
            sizes,
            config.inference,
            config.data,
            asked.device,
            asked.report,
        )
        return task.write(said, data.outputs)

    index = data.valid_index
    valid = ask(data.store.train[index], [data.store.train_sizes[i] for i in index])
    truth = true_masks(images_step(config).folder, data.outputs).iloc[index].reset_index(drop=True)
    oof = asked.table(index)[["id", "fold"]].join(as_target_columns(truth)).join(valid)
    return {"oof": oof, "test": asked.test_ids().join(ask(data.store.test, data.store.test_sizes))}


def ranking_tables(asked: FoldPredictor) -> dict[str, pd.DataFrame]:
    """Tables of identities ranked by the cosine to their nearest training image, with `inference.expansion`
    and `inference.rerank` applied. A fold's own rows are searched among the other folds' rows, its
    early-stopping rows among those it was trained on, and the test rows among all. No query is searched among
    other queries.

    `blind` holds the test rows searched among the rows that the fold was trained on: pseudo-labels from a
    search among all rows would leak the fold's own labels into the model that is scored on them. A row whose
    identity does not occur in its gallery has the label for new identities as its target, if there is one.
    """
    data, task, model, settings = asked.data, asked.task, asked.model, asked.config.inference

    def ask(positions: np.ndarray) -> np.ndarray:
        return embed(model, data.store, positions, settings, asked.device, asked.report)

    train, test = ask(data.store.train), ask(data.store.test)
    everyone = targets_in(read_folds(asked.config))
    owners = task.encode(everyone, data.outputs)[:, 0].astype(np.int64)

    def ranked(queries: np.ndarray, gallery: np.ndarray) -> pd.DataFrame:
        numbers, similarity = identities(queries, train[gallery], owners[gallery], settings)
        return task.write(task.ranking(numbers, similarity, data.outputs), data.outputs)

    def told(index: np.ndarray, gallery: np.ndarray) -> pd.DataFrame:
        table = asked.table(index)
        if task.new_label is not None:
            table.loc[~np.isin(owners[index], owners[gallery]), "target"] = task.new_label
        return table.join(ranked(train[index], gallery))

    others = np.setdiff1d(np.arange(len(owners)), data.valid_index)
    return {
        "oof": told(data.valid_index, others),
        "test": asked.test_ids().join(ranked(test, np.arange(len(owners)))),
        "stop": told(data.stop_index, data.train_index),
        "blind": asked.test_ids().join(ranked(test, data.train_index)),
    }


def identities(
    queries: np.ndarray, gallery: np.ndarray, owners: np.ndarray, settings: Inference
) -> tuple[np.ndarray, np.ndarray]:
    """Identities of queries (Q, D) and their similarities, both (Q, candidates) as from `top_identities`, in
    a gallery (G, D) with identities `owners` (G,). The result for a query never depends on other queries."""
    if not len(queries):
        queries = gallery[:0]  # without images the embedding size is unknown
    if settings.expansion is not None:
        queries, gallery = expand(queries, gallery, settings.expansion)
    by = None if settings.rerank is None else partial(Reranked, settings=settings.rerank)
    return top_identities(queries, gallery, owners, settings.candidates, by=by)


TABLES_BY_KIND = {"numbers": number_tables, "maps": map_tables, "rankings": ranking_tables}
