"""`make sweep`: a grid, or successive halving over it, and how much its best flatters itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from competitions import prepare_competition

from src.commands import budget, sweep
from src.commands.budget import Cost, TimeBudget, all_pairs
from src.commands.compare import Row, check_base, nested_choice, selection_bias
from src.commands.halving import Rung, halving, plan_rungs
from src.commands.sweep import Key, points_of, ranked_points, read_keys
from src.commands.trials import BASE, Change, Pair, Trials
from src.config import UserError
from src.metrics import create_metric

COST = Cost(epoch=4.0, rest=1.0, width=1)  # a training of 15 epochs takes 61 s


def run(project: Path, keys: str, minutes: float, *arguments: str, name: str = "small") -> Path:
    """The sweep, with 2 s a training of one epoch given instead of measured, and a clock that has no end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "measure_cost", lambda trials, folder: Cost(1.0, 1.0, 1))
        patch.setattr("src.commands.halving.WANTED", 2)  # pairs for a grid
        patch.setattr(
            TimeBudget, "__init__", lambda clock, minutes: vars(clock).update(end=math.inf, last=0.0)
        )
        trials = Trials(str(project / "configs/baseline.yaml"), list(arguments), "sweep")
        wanted = read_keys(keys)
        sweep.sweep(trials, wanted, points_of(trials, wanted), minutes, name)
    return project / "sweeps" / name


# --- keys and points ----------------------------------------------------------------------------------------


def test_a_comma_parts_values_unless_it_is_within_brackets():
    found = read_keys(
        " train.lr=1e-4,3e-4 inference.tta=[identity],[identity,hflip]  model.drop_rate=0,0.2,0"
    )
    assert found == [
        Key("train.lr", ("1e-4", "3e-4")),
        Key("inference.tta", ("[identity]", "[identity,hflip]")),
        Key("model.drop_rate", ("0", "0.2")),
    ]


@pytest.mark.parametrize(
    "text", ["", "train.lr", "train.lr=1e-3", "train.lr=1,1", "train.lr=1,,2", "=1,2", "a.b=1,2 a.b=3,4"]
)
def test_what_is_no_key_with_values_is_refused(text):
    with pytest.raises(UserError, match=r"^KEYS: .*(such as train\.lr=.*|all its values at once)$"):
        read_keys(text)


def test_the_points_are_every_combination_but_the_experiments_own(prepared):
    trials = Trials(str(prepared / "configs/baseline.yaml"), [], "sweep")
    points = points_of(trials, read_keys("train.lr=1e-3,4e-3 train.ema.decay=0.9,0.999"))
    assert [point.overrides for point in points] == [
        ("train.lr=1e-3", "train.ema.decay=0.9"),
        ("train.lr=1e-3", "train.ema.decay=0.999"),
        ("train.lr=4e-3", "train.ema.decay=0.9"),  # 4e-3 and 0.999 are the baseline's
    ]
    with pytest.raises(UserError, match=r"train\.lr=0\.0: .*greater than 0"):
        points_of(trials, read_keys("train.lr=0.0,1"))
    with pytest.raises(UserError, match=r"cv\.n_folds is no trick"):
        points_of(trials, read_keys("cv.n_folds=2,3"))


# --- the plan -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("points", "minutes", "epochs", "rungs"),
    [
        (9, 1000, 15, [(9, 15)]),  # every point on all pairs: ten trainings of 61 s a round
        (9, 41, 15, [(9, 4)]),
        (9, 40, 15, [(9, 1), (5, 1), (3, 2), (2, 5)]),  # 39 rounds of one: 10, 6, 8 and 15
        (4, 10, 15, [(4, 1), (2, 1)]),  # 9 rounds: 5 and 3
        (4, 8, 14, [(4, 1), (2, 1)]),  # one epoch less, for 8 rounds of 57 s
    ],
)
def test_a_grid_where_it_fits_else_halves(points, minutes, epochs, rungs):
    found = plan_rungs(COST, points, epochs=15, rounds=15, minutes=minutes)
    assert found == (epochs, [Rung(*rung) for rung in rungs])


@pytest.mark.parametrize("points", [2, 3, 5, 8, 9, 16, 27])
@pytest.mark.parametrize("budget_", [20, 60, 200])
def test_every_rung_of_a_halving_costs_no_more_than_its_share_and_halves_the_points(points, budget_):
    rungs = halving(points, budget_, rounds=100)
    sizes = [math.ceil(points / 2**k) for k in range(math.ceil(math.log2(points)))]
    assert sizes[-1] == 2
    if sum(size + 1 for size in sizes) > budget_:  # even one round a rung is too much
        assert rungs == []
        return
    assert [rung.points for rung in rungs] == sizes
    costs = [(size + 1) * rounds for size, rounds in rungs]
    assert budget_ - 3 < sum(costs) <= budget_  # nothing is left for another round of the last two
    assert [rung.rounds for rung in rungs] == sorted(rung.rounds for rung in rungs)
    assert all(
        cost <= max(budget_ / len(sizes), size + 1) for cost, size in zip(costs[:1], sizes, strict=False)
    )
    assert sum(rung.rounds for rung in halving(points, 10**6, rounds=7)) == 7


@pytest.mark.parametrize("minutes", [2, 3, 5, 8, 13, 20, 40, 80, 200])
@pytest.mark.parametrize("points", [2, 4, 9, 20])
def test_no_plan_takes_longer_than_the_minutes(points, minutes):
    for width in (1, 2, 5):
        cost = Cost(4.0, 1.0, width)
        rounds = len(list(budget.pairs_in_batches(all_pairs((0, 1, 2, 3, 4), 0), width)))
        if minutes < 3 * math.ceil(2 / width) * cost.of(4) / 60:
            with pytest.raises(UserError, match="is too short: two points and the base"):
                plan_rungs(cost, points, 15, rounds, minutes)
            continue
        epochs, rungs = plan_rungs(cost, points, 15, rounds, minutes)
        assert 4 <= epochs <= 15
        assert 2 <= rungs[0].points <= points
        assert sum((n + 1) * more for n, more in rungs) * cost.of(epochs) <= 60 * minutes
        assert sum(more for _, more in rungs) <= rounds


# --- the comparison -----------------------------------------------------------------------------------------


def noise(points: int, folds: int, seeds: int, seed: int) -> dict[Change, dict[Pair, float]]:
    """Scores of points that are all as good as the base."""
    rng = np.random.default_rng(seed)
    pairs = [Pair(fold, s) for s in range(seeds) for fold in range(folds)]
    changes = [BASE, *(Change((f"a={i}",)) for i in range(points))]
    return {change: {pair: float(rng.normal()) for pair in pairs} for change in changes}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("folds", "seeds"), [(5, 1), (5, 2), (1, 3)])
def test_the_nested_choice_is_made_without_the_fold_it_is_scored_on(sign, folds, seeds):
    scores = noise(6, folds, seeds, seed=1)
    names, pairs = list(scores), list(scores[BASE])
    table = sign * np.array([[scores[n][p] - scores[BASE][p] for p in pairs] for n in names])  # (7, pairs)
    group = np.array([pair.fold if folds > 1 else pair.seed for pair in pairs])
    picked = np.empty(len(pairs))
    for g in np.unique(group):
        picked[group == g] = table[table[:, group != g].mean(1).argmax(), group == g]
    best, honest, among = nested_choice(scores, sign)
    assert (best, honest, among) == (pytest.approx(table.mean(1).max()), pytest.approx(picked.mean()), 7)


def test_of_points_that_are_all_the_same_the_best_flatters_itself_and_the_nested_choice_does_not():
    found = np.array([nested_choice(noise(12, 5, 1, seed), 1)[:2] for seed in range(400)])
    assert found[:, 0].mean() > 0.6  # the best of twelve, in standard deviations of a score
    assert abs(found[:, 1].mean()) < 4 * found[:, 1].std() / 20


def test_a_best_that_is_truly_better_keeps_its_lead():
    scores = noise(5, 5, 1, seed=3)
    star = Change(("a=star",))
    scores[star] = {pair: value + 10 for pair, value in scores[BASE].items()}
    best, honest, _ = nested_choice(scores, 1)
    assert best == honest == pytest.approx(10)
    assert "+10.0000 over the base as it stands, +10.0000 when it is chosen" in selection_bias(scores, 1)
    assert "so 0.0000 is the luck of the pick." in selection_bias(scores, 1)


def test_points_that_were_dropped_take_no_part_in_the_choice_and_are_told_of():
    scores = noise(3, 4, 1, seed=0)
    dropped = Change(("a=0",))
    scores[dropped] = {pair: 99.0 for pair in list(scores[dropped])[:2]}
    assert nested_choice(scores, 1)[2] == 3
    assert "the 1 dropped on the way flatter it a little more" in selection_bias(scores, 1)
    assert "one pair cannot tell" in selection_bias(noise(3, 1, 1, seed=0), 1)


def test_the_better_points_go_on_and_those_without_a_score_last():
    scores = {BASE: {Pair(0, 0): 0.5, Pair(1, 0): 0.5}}
    changes = [Change((f"a={i}",)) for i in range(4)]
    for change, lead in zip(changes, (0.1, 0.3, float("nan"), 0.3), strict=True):
        scores[change] = {pair: 0.5 + lead for pair in scores[BASE]}
    assert ranked_points(scores, changes, 1) == [changes[1], changes[3], changes[0], changes[2]]
    assert ranked_points(scores, changes, -1) == [changes[0], changes[1], changes[3], changes[2]]


def test_a_base_without_a_score_ends_in_a_sentence_with_the_metric():
    auc = create_metric("binary", "roc_auc")
    check_base({Pair(0, 0): float("nan"), Pair(1, 0): 0.5}, auc)
    with pytest.raises(UserError, match="auc is undefined"):
        check_base({Pair(0, 0): float("nan")}, auc)


# --- a whole sweep ------------------------------------------------------------------------------------------


def test_a_grid_is_paired_with_the_base_drawn_and_up_to_date_the_second_time(prepared, capsys, snapshot):
    keys = "train.lr=4e-3,1e-5 train.ema.decay=0.5,0.999"
    folder = run(prepared, keys, 0.28)  # four trials of 2 s a pair: two pairs
    said = capsys.readouterr().out
    assert (
        "sweep baseline over train.lr x train.ema.decay: 3 on 2 pairs, the base beside them, 1 of 1" in said
    )
    table = pd.read_csv(folder / "table.csv").set_index("change")
    assert len(table) == 3
    trials = Trials(str(prepared / "configs/baseline.yaml"), [], "sweep")
    change = Change(("train.lr=1e-5", "train.ema.decay=0.5"))
    truth = pd.read_csv(prepared / "data/raw/train.csv", dtype=str).set_index("id")["label"]
    accuracy = []
    for one in (BASE, change):
        for fold in (0, 1):
            oof = pd.read_parquet(trials.run(one, 42).fold_folder(fold) / "oof.parquet").set_index("id")
            best = oof[[str(c) for c in range(10)]].idxmax(axis=1)
            accuracy.append(float((best == truth.loc[oof.index]).mean()))
    expected = np.mean(accuracy[2:]) - np.mean(accuracy[:2])
    assert table.loc[change.name, "difference"] == pytest.approx(expected)
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "The best of 4 flatters itself: " in (folder / "report.txt").read_text()
    before = snapshot(prepared)
    run(prepared, keys, 0.28)
    again = capsys.readouterr().out
    assert again == "sweep baseline: up to date\n" + (folder / "report.txt").read_text()
    assert snapshot(prepared) == before


def test_a_halving_drops_the_worst_and_tries_the_others_on_more_pairs(prepared, capsys):
    """Rates so small that they learn nothing fall out; which are tried is drawn by the seed."""
    folder = run(prepared, "train.lr=1e-2,2e-3,1e-6,2e-6", 0.3, "train.min_lr=0")  # nine rounds
    stored = json.loads((folder / "plan.json").read_text())
    assert stored["rungs"] == [[4, 1], [2, 1]]
    table = pd.read_csv(folder / "table.csv").set_index("change")
    assert sorted(table["pairs"]) == [1, 1, 2, 2]
    first = pd.read_csv(folder / "pairs.csv").query("fold == 0").set_index("change")["difference"]
    kept = set(table.index[table["pairs"] == 2])
    assert min(first[name] for name in kept) >= max(first[name] for name in table.index if name not in kept)
    assert "dropped on the way" in (folder / "report.txt").read_text()
    assert "4 on 1 pairs, then 2 on 2 pairs" in capsys.readouterr().out


def test_the_margin_of_a_retrieval_is_swept_in_a_map(tmp_path):
    project = prepare_competition(tmp_path, "retrieval").parents[1]
    folder = run(project, "train.margin.scale=8,16 train.margin.size=0.1,0.3", 0.36)
    table = pd.read_csv(folder / "table.csv")
    assert table["pairs"].tolist() == [2] * 4
    assert "map5" in (folder / "report.txt").read_text()


@pytest.mark.parametrize("keys", [1, 2, 3])
def test_a_picture_shows_the_points_that_were_tried_and_the_base_as_the_zero(tmp_path, monkeypatch, keys):
    wanted = [Key(name, ("1", "2", "3")) for name in ("a", "b", "c")[:keys]]
    own = Change(tuple(f"{key.name}=2" for key in wanted))
    combined = [[f"{key.name}={value}" for value in key.values] for key in wanted]
    points = [Change(words) for words in sweep.itertools.product(*combined) if Change(words) != own]
    rows = [Row(point, 2, 0.0, 0.0, float(i), 0.1) for i, point in enumerate(points)][1:]  # the first was not
    drawn = {}
    for name in ("draw_line", "draw_map", "draw_differences"):
        monkeypatch.setattr(
            f"src.report.trials.{name}", lambda path, *what, name=name: drawn.update({name: what})
        )
    sweep.draw_sweep(tmp_path / "x.png", wanted, points, rows, "title")
    if keys == 1:
        _, values, shown, _ = drawn["draw_line"]
        assert (values, [row.difference for row in shown]) == (["2", "3"], [0.0, 1.0])
    elif keys == 2:
        cells = drawn["draw_map"][2]
        np.testing.assert_array_equal(cells, [[np.nan, 1, 2], [3, 0, 4], [5, 6, 7]])
    else:
        assert drawn["draw_differences"][0] == rows
