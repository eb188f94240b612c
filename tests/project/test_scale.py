"""Targets in units a network learns well in, and the way back to their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from src.config import UserError
from src.models.scale import TargetScale


def targets(n: int = 200, seed: int = 0) -> np.ndarray:
    """(n, 3) float32: prices, small shares, and years."""
    random = np.random.default_rng(seed)
    columns = [random.lognormal(8, 2, n), random.random(n) / 1000, random.integers(1990, 2025, n)]
    return np.column_stack(columns).astype(np.float32)


@pytest.mark.parametrize("log", [False, True])
def test_every_target_is_standardised_on_its_own(log):
    values = targets()
    scale = TargetScale.of(values, log)
    wide = np.log1p(values.astype(np.float64)) if log else values.astype(np.float64)
    np.testing.assert_allclose(scale.mean, wide.mean(0))
    np.testing.assert_allclose(scale.std, wide.std(0))
    found = scale.encode(values)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(found[:, 0].std(), 1, rtol=1e-4)
    np.testing.assert_allclose(found, ((wide - wide.mean(0)) / wide.std(0)), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("log", [False, True])
def test_decoding_gives_the_targets_back(log):
    values = targets()
    scale = TargetScale.of(values, log)
    found = scale.decode(torch.from_numpy(scale.encode(values)))
    assert found.dtype == torch.float32
    errors = np.abs(found.numpy() - values).max(0)
    assert (errors <= 1e-5 * values.max(0) + 1e-7).all()


@pytest.mark.parametrize("log", [False, True])
def test_numbers_are_encoded_alike_as_arrays_and_as_tensors(log):
    values = targets()
    scale = TargetScale.of(values, log)
    others = targets(seed=1)
    found = scale.encode_tensor(torch.from_numpy(others))
    np.testing.assert_allclose(found.numpy(), scale.encode(others), rtol=1e-3, atol=1e-3)


def test_other_rows_are_measured_by_the_scale_they_had_no_part_in():
    scale = TargetScale.of(np.array([[0.0], [10.0]], np.float32), log=False)
    assert (scale.mean, scale.std) == ((5.0,), (5.0,))
    assert scale.encode(np.array([[20.0], [-5.0]], np.float32)).tolist() == [[3.0], [-2.0]]


def test_without_a_scale_everything_stays_what_it_is():
    scale, values = TargetScale(), targets()
    tensor = torch.from_numpy(values)
    assert scale.encode(values) is values
    assert scale.decode(tensor) is tensor
    assert scale.encode_tensor(tensor) is tensor


@pytest.mark.parametrize("log", [False, True])
def test_a_target_that_is_the_same_in_every_row_is_encoded_as_zero_and_not_as_infinity(log):
    values = np.column_stack([np.full(9, 0.1), np.arange(9)]).astype(np.float32)
    scale = TargetScale.of(values, log)
    found = scale.encode(values)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-3)
    back = scale.decode(torch.tensor([[2.0, 0.0]]))  # whatever the network says of it
    assert back[0, 0].item() == pytest.approx(0.1, abs=1e-4)


def test_half_precision_outputs_are_decoded_in_float32():
    scale = TargetScale((2000.0,), (10.0,))
    found = scale.decode(torch.tensor([[0.25]], dtype=torch.float16))
    assert found.dtype == torch.float32
    assert found.item() == 2002.5


def test_a_logarithm_of_numbers_below_zero_is_refused_with_the_number():
    with pytest.raises(UserError, match=r"^train.target_log needs targets of 0 and more, here one is -3$"):
        TargetScale.of(np.array([[4.0], [-3.0]], np.float32), log=True)
    assert TargetScale.of(np.array([[4.0], [-3.0]], np.float32), log=False).mean == (0.5,)


def test_a_teachers_number_below_zero_counts_as_zero_on_a_logarithm():
    scale = TargetScale.of(np.array([[0.0], [5.0], [9.0]], np.float32), log=True)
    zero = scale.encode(np.zeros((1, 1), np.float32))
    below = np.full((1, 1), -4.0, np.float32)
    np.testing.assert_array_equal(scale.encode(below), zero)
    np.testing.assert_allclose(scale.encode_tensor(torch.from_numpy(below)).numpy(), zero, rtol=1e-6)
