"""Model soups: one network whose weights are the mean of several sets of weights from one training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

State = dict[str, torch.Tensor]


def greedy_soup(
    ingredients: Sequence[State], look: Callable[[State], tuple[Any, State]]
) -> tuple[State, list[int]]:
    """Greedy model soup: add the ingredients from best to worst, and keep each that does not lower the score.

    `look` returns a rank (higher is better) and the evaluated weights with batch-norm statistics recomputed.
    Returns the soup's weights and the indices of its ingredients. Wortsman et al. 2022, Model Soups:
    Averaging Weights of Multiple Fine-Tuned Models.
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
    """The mean of each floating-point tensor; integer tensors (counters) come from the first state."""
    first = states[0]
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }
