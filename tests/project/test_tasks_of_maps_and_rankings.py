"""Of segmentation and retrieval alone: maps with pixels that nobody is sure of; ranked lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from src.config import Config, Pseudo, UserError
from src.maps import UNSURE, Maps, encode_map
from src.metrics.retrieval import Ranking
from src.tasks import create_task
from src.tasks.base import OUR_COLUMNS, as_target_columns, targets_in

PATH, SAMPLE = Path("raw/train.csv"), Path("raw/sample_submission.csv")
SEGMENTATION = create_task(Config(task={"name": "segmentation"}))
EXCLUSIVE = create_task(Config(task={"name": "segmentation"}, train={"loss": "ce_dice"}))
RETRIEVAL = create_task(
    Config(task={"name": "retrieval"}, data={"new_label": "new_id"}, inference={"candidates": 3})
)


def shares(**columns: list[float]) -> pd.DataFrame:
    """(N, C) the share of each image that a class covers."""
    return pd.DataFrame(columns)


# --- segmentation: targets ----------------------------------------------------------------------------------


def test_coverage_is_described_by_the_images_that_show_a_class_and_its_mean_share():
    found = SEGMENTATION.describe(shares(cell=[0.0, 0.5, 0.1], wall=[0.0, 0.0, 1e-7]))
    assert found == {
        "outputs": ["cell", "wall"],
        "counts": {"cell": 2, "wall": 1},
        "coverage": {"cell": 0.2, "wall": 0.0},
    }


def test_strata_of_one_class_are_the_deciles_of_what_it_covers_and_images_without_it_apart():
    covered = np.r_[np.random.default_rng(0).beta(1, 5, 200), np.zeros(30)]
    strata = SEGMENTATION.strata(shares(cell=covered))
    assert set(strata[200:]) == {0}
    np.testing.assert_array_equal(strata[:200], 1 + pd.qcut(covered[:200], 10, labels=False))


def test_strata_of_several_classes_are_which_are_there_and_which_cover_more_than_in_half_of_their_images():
    table = shares(cell=[0.0, 0.1, 0.2, 0.3, 0.4], wall=[0.5, 0.0, 0.0, 0.0, 0.7], none=[0.0] * 5)
    there, more = np.hsplit(SEGMENTATION.strata(table), 2)
    assert there.T.tolist() == [[0, 1, 1, 1, 1], [1, 0, 0, 0, 1], [0] * 5]
    assert more.T.tolist() == [[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0] * 5]


def test_no_mask_at_all_is_one_stratum():
    assert SEGMENTATION.strata(shares(cell=[0.0, 0.0])).tolist() == [0, 0]


@pytest.mark.parametrize("classes", [["mask"], ["cell", "wall"]])
def test_the_truth_of_an_oof_table_are_the_masks_in_its_cells_each_of_its_own_size(classes):
    random = np.random.default_rng(0)
    masks = [random.integers(0, 2, (len(classes), 4 + row, 9)).astype(np.uint8) * 255 for row in range(3)]
    cells = pd.DataFrame([[encode_map(one) for one in mask] for mask in masks], columns=classes)
    table = pd.DataFrame({"id": list("abc"), "fold": 0}).join(as_target_columns(cells))
    found = SEGMENTATION.truth(targets_in(table), classes)
    assert len(found) == 3
    for seen, mask in zip(found, masks, strict=True):
        np.testing.assert_array_equal(seen, mask)


# --- segmentation: predictions ------------------------------------------------------------------------------


def test_classes_that_exclude_each_other_share_out_1_with_the_ground_whose_logit_is_0():
    assert (SEGMENTATION.exclusive, EXCLUSIVE.exclusive) == (False, True)
    assert (SEGMENTATION.distillation, EXCLUSIVE.distillation) == ("bce", "exclusive")
    raw = 4 * torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    whole = np.concatenate([np.zeros((5, 1, 3, 4)), raw.double().numpy()], axis=1)
    for dtype, close in ((torch.float32, 1e-6), (torch.float16, 1e-2)):
        found = EXCLUSIVE.activate(raw.to(dtype))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), softmax(whole, axis=1)[:, 1:], atol=close)


def test_batches_of_probabilities_become_maps_of_the_nearest_level_in_their_order():
    said = torch.rand(5, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    said[0, 0, 0, :4] = torch.tensor([0.0, 1.0, 0.5 / 255 + 1e-6, 254.4 / 255])
    found = SEGMENTATION.gathered([SEGMENTATION.compact(batch) for batch in said.split(2)], ["a", "b"])
    np.testing.assert_array_equal(np.stack(list(found)), np.rint(said.double().numpy() * 255))
    assert found[0][0, 0, :4].tolist() == [0, 255, 1, 254]


def drawn(n: int = 12) -> Maps:
    """Images of two classes, from very sure to unsure, looked at in other sizes than they are stored in."""
    random = np.random.default_rng(0)
    rows = [random.beta(sure, sure, (2, 8, 6)) for sure in np.linspace(0.05, 1.5, n)]
    maps = Maps.of(np.rint(row * 255).astype(np.uint8) for row in rows)
    return maps.resized([(20 + row, 15) for row in range(n)])


@pytest.mark.parametrize("labels", ["soft", "hard"])
@pytest.mark.parametrize(("threshold", "pixels"), [(0.9, 0.6), (0.6, 0.8), (0.9, 1.0), (0.8, 0.0)])
def test_an_image_is_told_where_enough_of_its_pixels_are_sure_and_the_others_are_unsure(
    threshold, pixels, labels
):
    maps, expected = drawn(), []
    for row, levels in enumerate(maps.resized(None)):
        told = np.full(levels.shape, UNSURE)
        for place, level in np.ndenumerate(levels):
            if level >= 255 * threshold - 1e-6 or level <= 255 * (1 - threshold) + 1e-6:
                told[place] = 255 * (level >= 128) if labels == "hard" else level
        sure = (told != UNSURE).mean()
        if sure >= pixels:
            expected.append((row, sure, told))
    found = SEGMENTATION.select(maps, None, Pseudo(threshold=threshold, pixels=pixels, labels=labels))
    assert np.flatnonzero(found.chosen).tolist() == [row for row, _, _ in expected]
    assert len(expected) == {0.6: 2, 0.8: 8, 1.0: 0, 0.0: 12}[pixels]
    np.testing.assert_allclose(found.confidence, [sure for _, sure, _ in expected])
    assert found.targets.sizes == [(20 + row, 15) for row, _, _ in expected]
    for levels, (_, _, told) in zip(found.targets.resized(None), expected, strict=True):
        np.testing.assert_array_equal(levels, told)


def test_a_level_at_the_threshold_is_sure_and_one_below_is_not():
    """0.8 of 255 is 204, and 0.2 is 51."""
    maps = Maps.of([np.array([[[204, 203, 51, 52, 128]]], np.uint8)])
    found = SEGMENTATION.select(maps, None, Pseudo(threshold=0.8, pixels=0.4))
    assert found.targets[0].tolist() == [[[204, UNSURE, 51, UNSURE, UNSURE]]]
    assert not SEGMENTATION.select(maps, None, Pseudo(threshold=0.8, pixels=0.41)).chosen.any()


def test_what_an_image_was_told_is_the_share_of_its_sure_pixels_that_a_class_covers():
    levels = np.array([[[255, 0, UNSURE, 0]], [[UNSURE] * 4], [[200, 129, 127, UNSURE]]], np.uint8)
    maps = Maps.of([levels, levels[::-1]]).resized([(9, 9), (9, 9)])
    table = SEGMENTATION.write(maps, ["a", "b", "c"])
    found = SEGMENTATION.hard_targets(table, ["a", "b", "c"])
    np.testing.assert_allclose(found, [[1 / 3, 0, 2 / 3], [2 / 3, 0, 1 / 3]])
    assert SEGMENTATION.hard_targets(table[:0], ["a", "b", "c"]).shape == (0, 3)


@pytest.mark.parametrize(
    ("columns", "outputs", "says"),
    [
        (("id", "rle", "class"), ["mask"], "beside `id`, this one has rle, class"),
        (("id", "a", "b"), ["a", "b"], "beside `id` and the class, this one has a, b"),
        (("id",), ["mask"], "beside `id`, this one has none"),
    ],
)
def test_a_sample_without_one_column_of_run_lengths_is_refused(columns, outputs, says):
    sample = pd.DataFrame({name: ["1"] for name in columns})
    with pytest.raises(UserError) as caught:
        SEGMENTATION.check_sample(sample, "id", outputs, SAMPLE)
    assert str(caught.value) == f"{SAMPLE}: a submission of masks has one column of run lengths {says}"
    SEGMENTATION.check_sample(sample[["id"]].assign(rle=""), "id", outputs, SAMPLE)


# --- retrieval: targets -------------------------------------------------------------------------------------


def identities(*labels: str, name: str = "Id") -> pd.DataFrame:
    return pd.DataFrame({name: labels})


def refusal(*labels: str) -> str:
    with pytest.raises(UserError) as caught:
        RETRIEVAL.check_targets(identities(*labels), PATH)
    return str(caught.value)


def test_identities_are_described_in_their_order_with_their_images_and_the_label_of_new_ones():
    found = RETRIEVAL.describe(identities("10", "9", "10", "-1"))
    assert found["outputs"] == ["-1", "9", "10"]
    assert found["counts"] == {"-1": 1, "9": 1, "10": 2}
    assert found["new_label"] == "new_id"
    plain = create_task(Config(task={"name": "retrieval"}))
    assert plain.describe(identities("a", "b", "c"))["new_label"] is None


def test_a_row_of_the_new_label_is_no_identity():
    assert refusal("w_1", "w_2", "new_id", "w_3", "new_id") == (
        "raw/train.csv, row 4: `Id` is 'new_id', which data.new_label says is no identity; "
        "take such rows out of a copy of the file, and name it in data.train_csv"
    )


def test_two_identities_alone_are_refused():
    says = "raw/train.csv: `Id` holds 2 identities; is data.target right?"
    assert refusal("w_1", "w_2", "w_1") == says
    RETRIEVAL.check_targets(identities("w_1", "w_2", "w_3"), PATH)


def test_without_any_identity_a_good_one_is_made_up():
    said = refusal("", " ")
    assert said.startswith("raw/train.csv, row 2: `Id` is empty in 2 row(s)")
    assert "'w_1287fbc'" in said


@pytest.mark.parametrize("name", [*OUR_COLUMNS, "target.cat"])
def test_an_identity_may_be_called_as_a_column_of_ours_for_it_is_none(name):
    RETRIEVAL.check_targets(identities("w_1", "w_2", name), PATH)
    assert name in RETRIEVAL.describe(identities("w_1", "w_2", name))["outputs"]


def test_an_identity_is_its_number_among_the_outputs_and_a_new_one_is_none():
    labels, outputs = identities("b", "new_id", "a", "c"), ["a", "b", "c"]
    np.testing.assert_array_equal(RETRIEVAL.encode(labels, outputs), np.float32([[1], [np.nan], [0], [2]]))
    assert RETRIEVAL.truth(labels, outputs).tolist() == ["b", "new_id", "a", "c"]
    strata = RETRIEVAL.strata(identities("b", "a", "b", "c"))
    assert (strata[:, None] == strata).tolist() == [
        [a == b for a in ("b", "a", "b", "c")] for b in ("b", "a", "b", "c")
    ]


# --- retrieval: predictions ---------------------------------------------------------------------------------


def test_a_quick_look_ranks_identities_by_their_centres_cut_to_the_candidates():
    cosines = (
        np.random.default_rng(0).uniform(-1, 1, (20, 5)).round(1)
    )  # many are equal: the first goes first
    found = RETRIEVAL.gathered([cosines[:8], cosines[8:]], list("abcde"))
    for row, names, scores in zip(cosines, found.labels, found.scores, strict=True):
        best = sorted(range(5), key=lambda i: (-row[i], i))[:3]
        assert names == ["abcde"[i] for i in best]
        assert scores == [row[i] for i in best]
    assert found.new == "new_id"


def test_numbers_of_identities_become_their_names_and_none_is_left_out():
    numbers = np.array([[2, 0, -1], [-1, -1, -1], [1, 2, 0]])
    found = RETRIEVAL.ranking(numbers, np.array([[0.9, 0.5, -np.inf]] * 3, np.float32), ["a", "b", "c"])
    assert found.labels == [["c", "a"], [], ["b", "c", "a"]]
    assert [len(row) for row in found.scores] == [2, 0, 3]
    assert found.scores[0] == pytest.approx([0.9, 0.5])


def random_ranking(seed: int) -> Ranking:
    """Lists of one to three of five identities, falling; the last one empty."""
    random = np.random.default_rng(seed)
    labels = [list(random.permutation(list("abcde"))[: random.integers(1, 4)]) for _ in range(30)]
    scores = [sorted(random.uniform(0, 1, len(row)).round(2), reverse=True) for row in labels]
    return Ranking([*labels, []], [*scores, []], "new_id")


def test_the_mean_of_rankings_is_that_of_each_identity_as_far_as_the_last_where_it_is_missing():
    several = [random_ranking(seed) for seed in range(3)]
    found = RETRIEVAL.mean(several)
    for row in range(30):
        lists = [dict(zip(one.labels[row], one.scores[row], strict=True)) for one in several]
        mean = {
            name: np.mean([one.get(name, min(one.values())) for one in lists])
            for one in lists
            for name in one
        }
        best = sorted(mean, key=lambda name, mean=mean: (-mean[name].round(12), name))[:3]
        assert found.labels[row] == best
        np.testing.assert_allclose(found.scores[row], [mean[name] for name in best])
    assert (found.labels[30], found.scores[30], found.new) == ([], [], "new_id")


def test_a_list_that_is_empty_beside_others_has_everybody_at_the_opposite_end():
    found = RETRIEVAL.mean([Ranking([["a"]], [[0.5]]), Ranking([[]], [[]])])
    assert (found.labels, found.scores) == ([["a"]], [[-0.25]])


@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_a_query_is_told_its_first_answer_where_that_is_right_with_the_probability_asked_for(threshold):
    ranking = random_ranking(0).take(range(30))
    chance = np.r_[np.random.default_rng(1).random(28), 0.3, 0.9]
    found = RETRIEVAL.select(ranking, chance, Pseudo(threshold=threshold))
    rows = [row for row in range(30) if chance[row] >= threshold]
    assert np.flatnonzero(found.chosen).tolist() == rows
    assert found.targets.labels == [[ranking.labels[row][0]] for row in rows]
    assert found.targets.scores == [[ranking.scores[row][0]] for row in rows]
    np.testing.assert_array_equal(found.confidence, chance[rows])
    told = RETRIEVAL.hard_targets(RETRIEVAL.write(found.targets, list("abcde")), list("abcde"))
    assert told.tolist() == [["abcde".index(ranking.labels[row][0])] for row in rows]


def test_a_cosine_alone_is_no_probability():
    with pytest.raises(ValueError, match="calibrated before rows are selected"):
        RETRIEVAL.select(random_ranking(0), None, Pseudo())


@pytest.mark.parametrize(("columns", "says"), [(("id", "Id", "second"), "Id, second"), (("id",), "none")])
def test_a_sample_without_one_column_of_answers_is_refused(columns, says):
    sample = pd.DataFrame({name: ["1"] for name in columns})
    with pytest.raises(UserError) as caught:
        RETRIEVAL.check_sample(sample, "id", ["a"], SAMPLE)
    assert str(caught.value) == (
        f"{SAMPLE}: a retrieval submission has one column of answers beside `id`, this one has {says}"
    )
    RETRIEVAL.check_sample(sample[["id"]].assign(Id=""), "id", ["a"], SAMPLE)
