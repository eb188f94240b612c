"""Folds: every row in exactly one, classes balanced, and whatever belongs together never on both sides."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import cv2
import imagehash
import numpy as np
import pandas as pd
import pytest
from conftest import forget_the_listings
from PIL import Image

from src.config import Config, CrossValidation, Data, UserError
from src.configfile import load_config
from src.data.folds import (
    assign,
    check_rare,
    duplicate_groups,
    large_group,
    merge_groups,
    share_out_groups,
)
from src.data.hamming import _each_with_each, near_pairs
from src.data.images import decode
from src.data.tables import read_table
from src.steps import dataset_inputs
from src.tasks import create_task

KINDS = ["stratified", "group", "stratified_group", "plain"]


def labels(n: int, seed: int = 0) -> np.ndarray:
    """(n,) classes of very different sizes: half, a quarter, an eighth, and two sixteenths of the rows."""
    return np.random.default_rng(seed).choice(5, n, p=[0.5, 0.25, 0.125, 0.0625, 0.0625])


def by_class(strata: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(classes, parts) rows of each class in each part."""
    return np.array(
        [[((strata == c) & (parts == p)).sum() for p in np.unique(parts)] for c in np.unique(strata)]
    )


def groups_of_sizes(n: int, largest: int, seed: int = 0) -> np.ndarray:
    """(n,) shuffled groups of 1 to `largest` rows."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), rng.integers(1, largest + 1, n))[:n]
    return rng.permutation(pd.factorize(groups)[0])


def crossing(groups: np.ndarray, parts: np.ndarray) -> int:
    """How many groups have rows in more than one part."""
    return int((pd.Series(parts).groupby(groups).nunique() > 1).sum())


# --- sharing out --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_every_row_lies_in_exactly_one_fold_and_no_fold_is_empty(kind, n):
    parts = assign(kind, labels(300), groups_of_sizes(300, 4), n, seed=1)
    assert parts.shape == (300,)
    assert np.array_equal(np.unique(parts), np.arange(n))


@pytest.mark.parametrize("n", [2, 5, 10])
def test_stratified_folds_hold_as_many_rows_of_a_class_give_or_take_one(n):
    strata = labels(403)
    parts = assign("stratified", strata, np.arange(403), n, seed=1)
    spread = np.ptp(by_class(strata, parts), axis=1)
    assert spread.max() <= 1
    assert np.ptp(np.bincount(parts)) <= len(spread)


@pytest.mark.parametrize("kind", ["stratified", "stratified_group"])
def test_a_few_duplicates_hardly_cost_stratification_anything(kind):
    strata = labels(400)
    groups = np.arange(400)
    groups[:40] = np.repeat(np.arange(20), 2)  # twenty pairs
    parts = assign(kind, strata, groups, 5, seed=1)
    assert np.ptp(by_class(strata, parts), axis=1).max() <= 3
    assert crossing(groups, parts) == 0


def test_plain_folds_are_of_one_size_give_or_take_one():
    assert np.ptp(np.bincount(assign("plain", labels(403), np.arange(403), 5, seed=1))) <= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("largest", [2, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_never_lies_on_both_sides_whatever_the_kind(kind, largest, seed):
    groups = groups_of_sizes(300, largest, seed)
    assert crossing(groups, assign(kind, labels(300, seed), groups, 5, seed)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_folds_and_another_seed_others(kind):
    strata = labels(300)
    for groups in (np.arange(300), groups_of_sizes(300, 3)):
        first, again, other = (assign(kind, strata, groups, 5, seed) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", ["cv.n_folds", "cv.stop_parts"])
def test_too_few_groups_for_the_folds_are_refused_by_the_key_that_asks_too_much(kind, key):
    with pytest.raises(UserError, match=f"^{key}=5: there are only 3 groups"):
        assign(kind, labels(30), np.arange(30) % 3, 5, seed=1, key=key)


@pytest.mark.parametrize("grouped", [False, True])
def test_classes_all_smaller_than_the_number_of_parts_are_shared_out_all_the_same(grouped):
    strata = np.repeat(np.arange(8), 6)  # six rows a class, ten parts: scikit-learn alone gives up
    groups = np.repeat(np.arange(24), 2) if grouped else np.arange(48)
    parts = assign("stratified", strata, groups, 10, seed=1)
    assert np.array_equal(np.unique(parts), np.arange(10))
    assert crossing(groups, parts) == 0


def test_a_rare_class_is_named_with_its_rows_and_the_ways_out():
    counts = {"a": 9, "b": 9, "c": 2, "d": 1}
    with pytest.raises(UserError) as caught:
        check_rare(counts, CrossValidation(), Path("raw/train.csv"))
    assert str(caught.value) == (
        "raw/train.csv: class 'd' has 1 row(s), fewer than cv.n_folds=5 (2 such class(es)); "
        "lower cv.n_folds, merge the class, or set cv.allow_rare=true"
    )
    check_rare(counts, CrossValidation(allow_rare=True), Path("raw/train.csv"))
    check_rare(counts, CrossValidation(kind="plain"), Path("raw/train.csv"))
    check_rare({"a": 9, "b": 9}, CrossValidation(n_folds=9), Path("raw/train.csv"))
    with pytest.raises(
        UserError, match=r"^raw/train.csv: class 'a' has 9 row\(s\), fewer than cv.n_folds=10"
    ):
        check_rare({"a": 9, "b": 10}, CrossValidation(n_folds=10), Path("raw/train.csv"))


# --- several labels a row, and numbers ----------------------------------------------------------------------


def many_labels(n: int, seed: int = 0) -> np.ndarray:
    """(n, 6) zeros and ones of which some go together, from every second row to one in fifty."""
    rng = np.random.default_rng(seed)
    found = (rng.random((n, 6)) < [0.5, 0.3, 0.15, 0.08, 0.04, 0.02]).astype(np.int64)
    found[:, 2] |= found[:, 1] & (rng.random(n) < 0.3)
    found[:6] = np.eye(6, dtype=np.int64)  # each has a row at least
    return found


def unevenness(labels: np.ndarray, parts: np.ndarray) -> float:
    """How far the labels' and the rows' shares of the parts are from equal: the mean over both, in parts."""
    n = parts.max() + 1
    whole = np.column_stack([labels, np.ones(len(labels))])
    held = np.stack([whole[parts == p].sum(0) for p in range(n)]) / whole.sum(0)  # (parts, labels + 1)
    return float(np.abs(held * n - 1).mean())


def at_random(labels: np.ndarray, groups: np.ndarray, n: int, tries: int = 20) -> list[float]:
    """The unevenness of parts drawn group by group, without a look at the labels."""
    rng, keys = np.random.default_rng(5), np.unique(groups, return_inverse=True)[1]
    return [unevenness(labels, rng.permutation(np.arange(keys.max() + 1) % n)[keys]) for _ in range(tries)]


@pytest.mark.parametrize("n", [2, 5, 10])
def test_every_label_is_shared_out_evenly_also_a_rare_one(n):
    strata = many_labels(603)
    parts = assign("stratified", strata, np.arange(603), n, seed=1)
    assert np.array_equal(np.unique(parts), np.arange(n))
    for label in strata.T:
        assert np.ptp(np.bincount(parts[label == 1], minlength=n)) <= max(2, 0.1 * label.sum() / n)
    assert np.ptp(np.bincount(parts)) <= 6
    assert unevenness(strata, parts) < 0.5 * min(at_random(strata, np.arange(603), n))


@pytest.mark.parametrize("kind", ["stratified", "stratified_group"])
@pytest.mark.parametrize("largest", [2, 6])
def test_labels_are_shared_out_evenly_with_their_groups_intact(kind, largest):
    strata, groups = many_labels(600), groups_of_sizes(600, largest)
    parts = assign(kind, strata, groups, 5, seed=1)
    assert crossing(groups, parts) == 0
    assert np.array_equal(np.unique(parts), np.arange(5))
    assert np.ptp(np.bincount(parts)) <= 0.05 * 600
    for label in strata.T:
        assert np.ptp(np.bincount(parts[label == 1], minlength=5)) <= max(3, 0.25 * label.sum() / 5)
    drawn = at_random(strata, groups, 5)
    assert unevenness(strata, parts) < 0.6 * min(drawn)
    assert unevenness(strata, parts) < 0.4 * np.mean(drawn)


def test_one_group_far_larger_than_the_others_has_a_fold_of_its_own_size():
    groups = np.r_[np.zeros(100, dtype=int), np.repeat(np.arange(1, 51), 2)]
    parts = share_out_groups(many_labels(200), groups, 3, seed=0)
    assert crossing(groups, parts) == 0
    sizes = sorted(np.bincount(parts))
    assert sizes[-1] == 100
    assert sizes[1] - sizes[0] <= 4


def test_classes_are_shared_out_in_groups_without_a_table_of_groups_by_classes(monkeypatch):
    """A class a row is the same as one label a row out of several; scikit-learn keeps a dense table."""
    strata, groups = labels(400), groups_of_sizes(400, 4)
    dense = np.eye(5, dtype=np.int64)[strata]
    assert (
        share_out_groups(strata, groups, 4, seed=1).tolist() == share_out_groups(dense, groups, 4, 1).tolist()
    )
    monkeypatch.setattr("src.data.folds.DENSE", 100)
    parts = assign("stratified", strata, groups, 4, seed=1)
    assert crossing(groups, parts) == 0
    assert np.ptp(np.bincount(parts)) <= 4
    assert np.ptp(by_class(strata, parts), axis=1).max() <= 4


@pytest.mark.parametrize("named", [True, False])
def test_a_group_larger_than_a_fold_is_said_with_its_name(named):
    groups = np.r_[np.zeros(61, dtype=int), np.arange(1, 40)]
    column = pd.Series(np.where(groups == 0, "NA", [f"patient {g}" for g in groups]), name="patient")
    said = large_group(groups, column if named else None, CrossValidation(n_folds=2))
    assert len(said) == 1
    assert "61 of 100 rows" in said[0]
    assert ("`patient` 'NA'" in said[0]) == named
    groups[50:61] = 41  # two halves are two folds
    assert large_group(groups, column, CrossValidation(n_folds=2)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_folds_of_labels_and_another_seed_others(kind):
    strata = many_labels(300)
    for groups in (np.arange(300), groups_of_sizes(300, 3)):
        first, again, other = (assign(kind, strata, groups, 5, seed) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert crossing(groups, first) == 0


@pytest.mark.parametrize("grouped", [False, True])
def test_labels_with_fewer_rows_than_parts_are_shared_out_all_the_same(grouped):
    strata = np.zeros((60, 3), dtype=np.int64)
    strata[:30, 0], strata[30:33, 1], strata[33, 2] = 1, 1, 1
    groups = np.repeat(np.arange(30), 2) if grouped else np.arange(60)
    parts = assign("stratified", strata, groups, 10, seed=1)
    assert np.array_equal(np.unique(parts), np.arange(10))
    assert crossing(groups, parts) == 0
    assert np.ptp(np.bincount(parts[:30])) <= (2 if grouped else 1)


def tenths(targets: pd.DataFrame) -> np.ndarray:
    """What stratified folds of numbers balance."""
    return create_task(Config(task={"name": "regression"})).strata(targets.astype(str))


def heavy_tailed(n: int, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"price": np.random.default_rng(seed).lognormal(3, 1, n).round(4)})


def test_folds_of_numbers_hold_as_many_rows_of_each_tenth_give_or_take_one():
    prices = heavy_tailed(503)
    decile = pd.qcut(prices["price"], 10, labels=False).to_numpy()  # pandas' own tenths
    parts = assign("stratified", tenths(prices), np.arange(503), 5, seed=1)
    assert np.ptp(by_class(decile, parts), axis=1).max() <= 2
    means = prices.groupby(parts)["price"].mean()
    rng = np.random.default_rng(3)
    drawn = [np.ptp(prices.groupby(rng.permutation(parts))["price"].mean()) for _ in range(20)]
    assert np.ptp(means) < np.median(drawn)


def test_folds_of_numbers_keep_groups_intact_and_balance_the_tenths_far_better_than_chance():
    prices, groups = heavy_tailed(600), groups_of_sizes(600, 4)
    strata = tenths(prices)
    parts = assign("stratified_group", strata, groups, 5, seed=1)
    assert crossing(groups, parts) == 0
    one_hot = np.eye(10, dtype=np.int64)[strata]
    assert unevenness(one_hot, parts) < 0.6 * min(at_random(one_hot, groups, 5))


def test_grades_are_balanced_as_classes_are():
    grades = pd.DataFrame({"grade": np.random.default_rng(0).choice(5, 400, p=[0.5, 0.1, 0.25, 0.05, 0.1])})
    assert np.array_equal(tenths(grades), grades["grade"])
    parts = assign("stratified", tenths(grades), np.arange(400), 5, seed=1)
    assert np.ptp(by_class(grades["grade"].to_numpy(), parts), axis=1).max() <= 1


def test_a_number_that_most_rows_share_is_one_stratum():
    targets = pd.DataFrame({"count": [0] * 350 + list(range(1, 51))})
    strata = tenths(targets)
    assert len(np.unique(strata[:350])) == 1
    assert strata[0] not in strata[350:]
    parts = assign("stratified", strata, np.arange(400), 5, seed=1)
    assert np.bincount(parts[:350]).tolist() == [70] * 5


def test_folds_of_several_numbers_balance_their_mean_rank():
    rng = np.random.default_rng(0)
    first = rng.normal(size=400)
    targets = pd.DataFrame({"x": first, "y": 1000 + 300 * (first + 0.3 * rng.normal(size=400))})
    parts = assign("stratified", tenths(targets), np.arange(400), 5, seed=1)
    rank = targets.rank(pct=True).mean(axis=1)
    drawn = [np.ptp(rank.groupby(rng.permutation(parts)).mean()) for _ in range(50)]
    assert np.ptp(rank.groupby(parts).mean()) < np.quantile(drawn, 0.05)


# --- what belongs together ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 4, 16])
@pytest.mark.parametrize("block", [1, 7, 64, 1024])
def test_near_pairs_are_those_that_a_loop_over_all_pairs_finds(bits, block):
    rng = np.random.default_rng(bits)
    hashes = [int(h) for h in rng.integers(0, 2**64, 40, dtype=np.uint64)]
    for _ in range(60):  # relatives of those before, by some flipped bits
        flips = sum(1 << int(b) for b in rng.choice(64, rng.integers(0, 20), replace=False))
        hashes.append(hashes[rng.integers(len(hashes))] ^ flips)
    expected = {
        (i, j)
        for i, j in itertools.combinations(range(len(hashes)), 2)
        if (hashes[i] ^ hashes[j]).bit_count() <= bits
    }
    left, right = _each_with_each(np.array(hashes, dtype=np.uint64), bits, block=block)
    assert len(left) == len(expected) > 0
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected


def test_near_pairs_of_one_hash_or_none_are_none():
    for n in (0, 1):
        left, right = near_pairs(np.zeros(n, dtype=np.uint64), 4)
        assert (len(left), len(right)) == (0, 0)


def union_find(n: int, keys: list[list]) -> list[int]:
    """The plain way: rows with an equal value under any key are joined; a set goes by its first row."""
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for key in keys:
        for i, j in itertools.combinations(range(n), 2):
            if key[i] == key[j]:
                parent[max(root(i), root(j))] = min(root(i), root(j))
    return [root(i) for i in range(n)]


@pytest.mark.parametrize("seed", range(5))
def test_merged_groups_are_those_of_a_plain_union_find(seed):
    rng = np.random.default_rng(seed)
    alike = rng.integers(0, 50, 60)
    column = pd.Series([f"patient {i}" for i in rng.integers(0, 50, 60)])
    for keys in ([alike.tolist()], [alike.tolist(), column.tolist()]):
        merged = merge_groups(alike, column if len(keys) == 2 else None)
        assert merged.tolist() == pd.factorize(np.array(union_find(60, keys)))[0].tolist()


def test_groups_are_merged_along_chains():
    # rows 0-1 look alike, 1-2 are one patient, 2-3 look alike; 4 stands alone
    merged = merge_groups(np.array([7, 7, 5, 5, 9]), pd.Series(["x", "p", "p", "y", "z"]))
    assert merged.tolist() == [0, 0, 0, 0, 1]


def photographs() -> list[Image.Image]:
    """Different tiles of scikit-learn's two photographs, those of plain sky left out."""
    from sklearn.datasets import load_sample_images

    tiles = [
        image[y : y + 142, x : x + 160]
        for image in load_sample_images().images
        for y in range(0, 427 - 142, 142)
        for x in range(0, 640, 160)
    ]
    return [Image.fromarray(tile) for tile in tiles if tile.std() > 45]


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def index_of(tmp_path: Path, contents: list[bytes]) -> pd.DataFrame:
    rows = []
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.img").write_bytes(content)
        image = decode(tmp_path / f"{i}.img", Data(image_size=16))
        rows.append({"content": image.content, "phash": image.phash, "thumbnail": image.thumbnail})
    return pd.DataFrame(rows).astype({"phash": "uint64"})


def test_the_hash_of_an_images_looks_is_imagehashs(tmp_path):
    """To the bit, on noise, on soft pictures and on one without any detail."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (12, 64, 64), dtype=np.uint8)
    soft = [cv2.GaussianBlur(image, (0, 0), 6) for image in noise]
    for number, grey in enumerate([*noise, *soft, np.full((64, 64), 90, np.uint8)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(grey).save(path)
        wanted = imagehash.phash(Image.fromarray(grey)).hash.ravel()
        assert decode(path, Data(image_size=16)).phash == int("".join("01"[int(bit)] for bit in wanted), 2)


COPIES = {
    "byte for byte": lambda image: saved(image, "PNG"),
    "as a JPEG of quality 70": lambda image: saved(image, "JPEG", quality=70),
    "slightly resized": lambda image: saved(image.resize((150, 133), Image.Resampling.BICUBIC), "PNG"),
    "with its EXIF gone and its format changed": lambda image: saved(image, "WEBP", quality=80),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_shares_its_group_with_the_original_and_other_photographs_do_not(tmp_path, copy):
    originals = photographs()
    assert len(originals) >= 12
    contents = [saved(image, "PNG") for image in originals] + [COPIES[copy](image) for image in originals]
    groups = duplicate_groups(index_of(tmp_path, contents), Data().near_duplicates)
    first, second = groups[: len(originals)], groups[len(originals) :]
    assert np.array_equal(first, second)
    assert len(np.unique(first)) == len(originals)


def test_flat_images_of_different_brightness_are_not_duplicates_though_their_hashes_agree(tmp_path):
    contents = [saved(Image.new("RGB", (32, 32), (level,) * 3), "PNG") for level in (10, 60, 120, 250)]
    index = index_of(tmp_path, contents)
    assert index["phash"].nunique() == 1
    assert len(np.unique(duplicate_groups(index, 4))) == 4


def test_minus_one_looks_for_no_duplicates_at_all(tmp_path):
    contents = [saved(photographs()[0], "PNG")] * 3
    assert duplicate_groups(index_of(tmp_path, contents), -1).tolist() == [0, 1, 2]
    assert len(np.unique(duplicate_groups(index_of(tmp_path, contents), 0))) == 1


def test_blank_images_tie_nothing_together_not_even_copies(tmp_path):
    """One black tile in the scan of every patient would make all patients one group."""
    black = saved(Image.new("RGB", (32, 32), (1, 1, 1)), "PNG")
    index = index_of(tmp_path, [black, black, saved(Image.new("RGB", (32, 32), (2, 2, 2)), "PNG")])
    assert duplicate_groups(index, 4).tolist() == [0, 1, 2]


def test_a_thousand_frames_that_look_alike_are_one_group_and_need_little_memory(tmp_path):
    index = index_of(tmp_path, [saved(photographs()[0], "PNG")])
    frames = pd.concat([index] * 1000, ignore_index=True)
    frames["content"] = [f"{i:016x}" for i in range(1000)]
    assert len(np.unique(duplicate_groups(frames, 4))) == 1


# --- the stage ----------------------------------------------------------------------------------------------


def train_table(project: Path) -> Path:
    return project / "data" / "raw" / "train.csv"


def folds_of(project: Path) -> pd.DataFrame:
    return read_table(project / "data" / "folds.csv").astype({"fold": int, "stop": int, "group": int})


def test_folds_csv_has_a_line_a_training_row_in_the_order_of_train_csv(prepared):
    folds, train = folds_of(prepared), read_table(train_table(prepared))
    assert folds.columns.tolist() == ["id", "fold", "stop", "group", "target"]
    assert folds["id"].tolist() == train["id"].tolist()
    assert folds["target"].tolist() == train["label"].tolist()
    assert sorted(folds["fold"].unique()) == [0, 1]
    assert np.ptp(folds.groupby(["target", "fold"]).size().unstack(), axis=1).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_groups_cross_neither_folds_nor_stop_parts_also_when_duplicates_chain_them(project, stage_here, kind):
    path = train_table(project)
    train = read_table(path)
    train["patient"] = [f"p{i // 3}" for i in range(len(train))]  # rows 0-2, 3-5, ...
    train.to_csv(path, index=False)
    images = path.with_name("train_images")
    for twin, original in (
        (3, 2),
        (6, 5),
    ):  # row 3 is a copy of row 2, row 6 of row 5: rows 0 to 8 hang together
        content = (images / f"{train['id'][original]}.png").read_bytes()
        (images / f"{train['id'][twin]}.png").write_bytes(content)
    done = stage_here(project, "01_folds.py", f"cv.kind={kind}", "data.group=patient")
    assert (done.returncode, done.stderr) == (0, "")
    folds = folds_of(project)
    assert folds["group"][:9].nunique() == 1
    assert folds["group"].nunique() == 27 - 2
    for part in ("fold", "stop"):
        assert crossing(folds["group"].to_numpy(), folds[part].to_numpy()) == 0
        assert crossing(train["patient"].to_numpy(), folds[part].to_numpy()) == 0
    assert "2 training rows repeat another" in done.stdout


def test_duplicates_between_train_and_test_are_counted(project, stage_here):
    raw = project / "data" / "raw"
    test, train = read_table(raw / "test.csv")["id"][0], read_table(raw / "train.csv")["id"][0]
    content = (raw / "train_images" / f"{train}.png").read_bytes()
    (raw / "test_images" / f"{test}.png").write_bytes(content)
    done = stage_here(project, "01_folds.py")
    assert (
        "0 training rows repeat another (kept in one fold); 1 test rows look like a training row"
        in done.stdout
    )


def test_each_stop_part_holds_a_share_of_the_rows_that_train_every_fold(prepared):
    folds = folds_of(prepared)
    for fold in range(2):
        rows = folds[folds["fold"] != fold]
        share = (rows["stop"] == fold % 10).mean()
        assert 0 < share < 0.3
    assert sorted(folds["stop"].unique()) == list(range(10))


def test_rows_used_to_stop_are_drawn_apart_from_the_folds(prepared, stage_here):
    before = folds_of(prepared)
    stage_here(prepared, "01_folds.py", "cv.stop_parts=5")
    after = folds_of(prepared)
    assert before["fold"].tolist() == after["fold"].tolist()
    assert sorted(after["stop"].unique()) == list(range(5))


# --- what is made again, and what is not --------------------------------------------------------------------


def state(project: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of every file that stage 01 made."""
    files = [path for path in (project / "data").rglob("*") if path.is_file() and "raw" not in path.parts]
    return {p.relative_to(project / "data").as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def rewritten(before: dict, after: dict) -> set[str]:
    return {name for name in after if before.get(name) != after[name]}


FOLDS = {"folds.csv", "dataset.json", "summary.md", "folds.stamp.json"}


def cache_files(size: int) -> set[str]:
    return {
        f"cache/{size}px-stretch/{n}"
        for n in ("images.npy", "index.parquet", "statistics.json", "samples.png", "step.stamp.json")
    }


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], set()),
        (
            ["train.lr=1e-2", "train.epochs=9", "model.backbone=resnet18", "inference.tta=[hflip]", "seed=3"],
            set(),
        ),
        (["runtime.jobs=2", "pseudo.rounds=1", "stack.num_leaves=9", "fold=1", "name=other"], set()),
        (["data.image_size=24"], cache_files(24)),
        (["cv.n_folds=3"], FOLDS),
        (["cv.seed=7"], FOLDS),
        (["cv.kind=plain"], FOLDS),
        (["data.near_duplicates=2"], FOLDS),
        (["--force"], FOLDS | cache_files(16)),
    ],
    ids=lambda names: " ".join(sorted(names)) or "nothing",
)
def test_a_changed_knob_makes_again_what_depends_on_it_and_nothing_else(
    prepared, stage_here, arguments, expected
):
    before = state(prepared)
    done = stage_here(prepared, "01_folds.py", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert rewritten(before, state(prepared)) == expected
    second = stage_here(prepared, "01_folds.py", *[a for a in arguments if a != "--force"])
    assert second.stdout.count("up to date") == 2
    assert rewritten(before, state(prepared)) == expected


def test_changed_folds_say_what_changed_and_what_it_costs(prepared, stage_here):
    done = stage_here(prepared, "01_folds.py", "cv.n_folds=3")
    assert (
        "01 folds (3, stratified): cv.n_folds 2 -> 3; every run trained on the old folds will train again"
        in done.stdout
    )


def test_a_new_image_size_keeps_the_old_cache_and_the_inputs_differ_by_the_size_alone(prepared, stage_here):
    def inputs(*overrides: str) -> dict:
        return dataset_inputs(load_config(prepared / "configs" / "baseline.yaml", list(overrides)))

    stage_here(prepared, "01_folds.py", "data.image_size=24")
    old, new = inputs(), inputs("data.image_size=24")
    assert old["folds"] == new["folds"]
    assert old["images"] | {"image_size": 24} == new["images"]
    assert old["statistics"] != new["statistics"]


def test_later_stages_are_told_what_to_run_when_stage_01_is_missing_or_stale(project, prepared):
    config = load_config(project / "configs" / "baseline.yaml")
    with pytest.raises(
        UserError, match="01 images at 16 px: not made for this config yet; run `make folds EXP=baseline`"
    ):
        dataset_inputs(config)
    config = load_config(prepared / "configs" / "baseline.yaml", ["cv.n_folds=4"])
    with pytest.raises(UserError, match=r"not made for this config yet \(cv\.n_folds 2 -> 4\)"):
        dataset_inputs(config)


def test_folds_changed_by_hand_are_noticed_and_made_again(prepared, stage_here):
    path = prepared / "data" / "folds.csv"
    before = path.read_bytes()
    path.write_bytes(before.replace(b",0,", b",1,", 1))
    with pytest.raises(UserError, match="an output is missing or was changed by hand"):
        dataset_inputs(load_config(prepared / "configs" / "baseline.yaml"))
    assert "an output is missing or was changed by hand" in stage_here(prepared, "01_folds.py").stdout
    assert path.read_bytes() == before


def test_another_label_changes_the_folds_and_not_the_images_of_the_rest(prepared, stage_here):
    path = train_table(prepared)
    train = read_table(path)
    train.loc[0, "label"] = "1" if train["label"][0] != "1" else "2"
    train.to_csv(path, index=False)
    forget_the_listings()
    pixels = (prepared / "data" / "cache" / "16px-stretch" / "images.npy").read_bytes()
    done = stage_here(prepared, "01_folds.py")
    assert done.returncode == 0
    assert folds_of(prepared)["target"][0] == train["label"][0]
    assert (prepared / "data" / "cache" / "16px-stretch" / "images.npy").read_bytes() == pixels


def test_a_stage_killed_between_the_images_and_the_folds_goes_on_to_the_same_folds(prepared, stage_here):
    expected = (prepared / "data" / "folds.csv").read_bytes()
    (prepared / "data" / "folds.stamp.json").unlink()
    (prepared / "data" / "folds.csv").write_bytes(b"id,fo")
    done = stage_here(prepared, "01_folds.py")
    assert "120 files" not in done.stdout  # the images were done
    assert (prepared / "data" / "folds.csv").read_bytes() == expected
