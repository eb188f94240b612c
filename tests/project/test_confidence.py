"""How likely the first answer of a ranking is right: isotonic regression on its cosine, called by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.isotonic import isotonic_regression

from src.config import UserError
from src.metrics.retrieval import Ranking
from src.pseudo.confidence import first_is_right


def known(n: int = 60, seed: int = 0) -> tuple[Ranking, np.ndarray]:
    """Lists whose first answer is the righter the higher its cosine, and the right answers."""
    random = np.random.default_rng(seed)
    first = random.permutation(n) / n
    truth = np.where(random.random(n) < first, "a", "new_id").astype(object)
    return Ranking([["a", "b"]] * n, [[cosine, -0.5] for cosine in first], "new_id"), truth


def test_it_is_the_rising_curve_nearest_to_what_was_right_of_the_rows_whose_answers_are_known():
    seen, truth = known()
    order = np.argsort([scores[0] for scores in seen.scores])
    curve = isotonic_regression((truth[order] == "a").astype(float))
    found = first_is_right(seen, truth, seen)
    np.testing.assert_allclose(found[order], curve)
    assert 3 < len(set(curve)) < 30


def test_between_and_beyond_the_known_cosines_it_goes_straight_and_stays():
    seen = Ranking([["a"]] * 40, [[0.2]] * 20 + [[0.6]] * 20)
    truth = np.array(["a"] * 5 + ["b"] * 15 + ["a"] * 15 + ["b"] * 5, dtype=object)
    asked = Ranking([["a"]] * 5, [[-1.0], [0.2], [0.3], [0.6], [0.9]])
    np.testing.assert_allclose(first_is_right(seen, truth, asked), [0.25, 0.25, 0.375, 0.75, 0.75])


def test_a_row_without_any_answer_is_wrong_and_as_far_as_can_be():
    seen = Ranking([[]] * 10 + [["a"]] * 10, [[]] * 10 + [[0.5]] * 10)
    found = first_is_right(seen, np.array(["a"] * 20, dtype=object), Ranking([[], ["b"]], [[], [0.5]]))
    np.testing.assert_allclose(found, [0.0, 1.0])


def test_nothing_asked_is_nothing_said():
    assert first_is_right(*known(), Ranking([], [])).shape == (0,)


def test_too_few_known_rows_are_counted_and_said_what_to_do():
    seen, truth = known(20)
    assert len(first_is_right(seen, truth, seen)) == 20
    with pytest.raises(UserError) as caught:
        first_is_right(seen.take(range(19)), truth[:19], seen)
    assert str(caught.value) == (
        "04: a cosine becomes a probability on the rows that decide when to stop, and there are 19 of them; "
        "20 are needed: lower cv.stop_parts, and leave train.early_stopping.enabled=true"
    )
