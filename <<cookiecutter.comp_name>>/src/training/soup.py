"""A soup: one network whose weights are the mean of several that were trained from one start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

State = dict[str, torch.Tensor]


def greedy_soup(
    ingredients: Sequence[State], look: Callable[[State], tuple[Any, State]]
) -> tuple[State, list[int]]:
    """Mix the best ingredient with each next best that does not make it worse; gives the weights and which
    went in.

    `look` gives a rank, higher for better, and the weights as they were looked at, with batch-norm statistics
    of their own. Wortsman et al. 2022, Model Soups: Averaging Weights of Multiple Fine-Tuned Models.
    """
    looks = [look(state) for state in ingredients]
    order = sorted(range(len(looks)), key=lambda i: looks[i][0], reverse=True)
    best, chosen = looks[order[0]], [order[0]]
    for number in order[1:]:
        trial = look(mean_state([ingredients[i] for i in [*chosen, number]]))
        if trial[0] >= best[0]:
            best, chosen = trial, [*chosen, number]
    return best[1], chosen


def mean_state(states: Sequence[State]) -> State:
    """The mean of every tensor; whole numbers, which only count, are those of the first."""
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }
