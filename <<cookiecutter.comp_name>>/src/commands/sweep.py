"""Hyperparameter sweep: a grid over a few keys, or successive halving over it, paired with the experiment.

    make sweep EXP=baseline KEYS="train.margin.scale=10,20,30 train.margin.size=0.2,0.3,0.5" MINUTES=60

Reads   what 02 and 03 read
Writes  sweeps/<name>/ (table.csv, pairs.csv, sweep.png, report.txt, plan.json), and in runs/ one run per
        point and seed; stacks leave these out unless stack.members names them

MINUTES decides how many points, folds, seeds and epochs are used. The best of many points looks better than
it is; the report estimates this selection bias by choosing the point again without each fold.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from src.artifacts import Step, read_json, write_json, write_text
from src.cli import check_known_names
from src.commands.compare import (
    Row,
    Scores,
    check_base,
    compare_change,
    how_scored,
    lines,
    selection_bias,
    write_tables,
)
from src.commands.request import command, plan_step
from src.commands.trials import BASE, NEXT_KEY, Change, Pair, Trials, pairs_in_batches
from src.config import NoEffect, UserError
from src.entry import plain_errors
from src.locks import alone
from src.machine import limit_threads


@dataclass(frozen=True)
class Key:
    """A config key and the values to try, as text for the command line."""

    name: str
    values: tuple[str, ...]


@plain_errors()
def main() -> None:
    parser = command("sweep", __doc__)
    parser.add_argument("--keys", required=True, help="key=value,value,... several keys with spaces between")
    arguments = parser.parse_intermixed_args()
    trials = Trials(arguments.config, arguments.overrides, "sweep")
    keys = read_keys(arguments.keys)
    check_known_names(trials.config)
    points = points_of(trials, keys)
    limit_threads(trials.config)
    name = arguments.name or trials.config.name
    with alone(trials.root / "sweeps" / name):
        sweep(trials, keys, points, arguments.minutes, name)


def read_keys(text: str) -> list[Key]:
    """Parse `a=1,2 b=[x],[x,y]`: two keys of two values each; a comma inside brackets belongs to the value.

    Raises `UserError` for a key with fewer than two values, or one that is given twice.
    """
    keys = []
    for word in re.split(rf"\s+{NEXT_KEY}", text.strip()):
        name, _, values = word.partition("=")
        several = tuple(dict.fromkeys(part.strip() for part in re.split(r",(?![^\[{]*[\]}])", values)))
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name) or len(several) < 2 or not all(several):
            raise UserError(
                f"KEYS: {word!r} is no key with two values or more, such as train.lr=1e-4,3e-4,1e-3"
            )
        if name in [key.name for key in keys]:
            raise UserError(f"KEYS: {name} stands twice; give all its values at once")
        keys.append(Key(name, several))
    return keys


def points_of(trials: Trials, keys: list[Key]) -> list[Change]:
    """The grid's points: all combinations of values, without the base and without equal trainings.

    Raises `UserError` for the first invalid config.
    """
    combined = itertools.product(*([f"{key.name}={value}" for value in key.values] for key in keys))
    points = [Change.read(",".join(words)) for words in combined]
    base = trials.mark(trials.configured(BASE, trials.seed))
    return trials.check((p for p in points if not same(trials, p, base)), leave_out=True)


def same(trials: Trials, point: Change, mark: str) -> bool:
    """Whether a point is the training with this mark."""
    with suppress(NoEffect):
        return trials.mark(trials.configured(point, trials.seed)) == mark
    return False


def sweep(trials: Trials, keys: list[Key], points: list[Change], minutes: float, name: str) -> None:
    """Plan, train rung by rung, compare with the base and report."""
    folder = trials.root / "sweeps" / name
    request = plan_step(folder, trials, points, minutes)
    if request.begin():
        plan_sweep(trials, points, minutes, request)
    stored = read_json(folder / "plan.json", epochs=int, of_epochs=int, rungs=list, points=list, cost=dict)
    trials.share = stored["epochs"] / stored["of_epochs"]
    found = tried_step(folder, trials)
    if found is not None and found.fresh():
        print(f"{found.up_to_date_line()}\n{(folder / 'report.txt').read_text(encoding='utf-8')}", end="")
        return
    print(say_plan(trials, keys, points, stored, minutes))
    scores, whole = run_halving(trials, points, stored, minutes)
    _report(folder, trials, keys, points, scores, stored, whole)


def plan_sweep(trials: Trials, points: list[Change], minutes: float, step: Step) -> None:
    """Measure the time per epoch and choose the rungs that fit the minutes.

    If points must be left out, those to try are drawn with the experiment's seed.
    """
    from dataclasses import asdict

    from src.commands.budget import all_pairs, measure_cost
    from src.commands.halving import plan_rungs

    cost = measure_cost(trials, step.folder)
    pairs = all_pairs(trials.folds, trials.seed)
    parts = list(pairs_in_batches(pairs, cost.width))
    epochs = trials.config.train.epochs
    chosen, rungs = plan_rungs(cost, len(points), epochs, len(parts), minutes)
    drawn = sorted(random.Random(trials.seed).sample(range(len(points)), min(rungs[0].points, len(points))))
    plan = {"epochs": chosen, "of_epochs": epochs, "rungs": rungs, "points": drawn, "cost": asdict(cost)}
    write_json(step.folder / "plan.json", plan)
    step.done()


def say_plan(trials: Trials, keys: list[Key], points: list[Change], stored: dict, minutes: float) -> str:
    """The plan as one sentence."""
    from src.commands.budget import Cost, all_pairs

    cost, rungs = Cost(**stored["cost"]), stored["rungs"]
    about = sum((1 + n) * rounds for n, rounds in rungs) * cost.of(stored["epochs"]) / 60
    sizes = [len(part) for part in pairs_in_batches(all_pairs(trials.folds, trials.seed), cost.width)]
    total = [sum(sizes[:end]) for end in itertools.accumulate(rounds for _, rounds in rungs)]
    steps = ", then ".join(f"{n} on {pairs} pairs" for (n, _), pairs in zip(rungs, total, strict=True))
    some = "" if len(stored["points"]) == len(points) else f" (drawn from {len(points)})"
    return (
        f"sweep {trials.config.name} over {' x '.join(key.name for key in keys)}: {steps}{some}, the base "
        f"beside them, {stored['epochs']} of {stored['of_epochs']} epochs, about {about:.3g} of {minutes:g} "
        f"minutes"
    )


def run_halving(trials: Trials, points: list[Change], stored: dict, minutes: float) -> tuple[Scores, bool]:
    """Train rung by rung; returns each point's scores on its pairs, and whether all rungs were completed."""
    from src.commands.budget import TimeBudget, all_pairs
    from src.tasks import create_task

    sign, clock = create_task(trials.config).metric.sign, TimeBudget(minutes)
    parts = pairs_in_batches(all_pairs(trials.folds, trials.seed), stored["cost"]["width"])
    alive, tried = [points[i] for i in stored["points"]], dict.fromkeys([BASE], ())
    for size, rounds in stored["rungs"]:
        alive = [change for change in alive if change not in trials.failed]
        if len(alive) > size:
            alive = ranked_points(scores_of(trials, tried), alive, sign)[:size]
        for part in itertools.islice(parts, rounds):
            everyone = [BASE, *alive]
            if not clock.round(trials, everyone, part):
                print(f"the minutes are spent after {len(tried[BASE])} pairs; the same command goes on")
                return scores_of(trials, tried), False
            tried |= {one: (*tried.get(one, ()), *part) for one in everyone if one not in trials.failed}
    trials.finish([BASE, *alive], list(tried[BASE]))
    return scores_of(trials, tried), True


def scores_of(trials: Trials, tried: dict[Change, Iterable[Pair]]) -> Scores:
    """The scores of all changes that could be trained."""
    return {
        change: trials.scores(change, list(pairs))
        for change, pairs in tried.items()
        if change not in trials.failed
    }


def ranked_points(scores: Scores, alive: list[Change], sign: int) -> list[Change]:
    """The points by mean difference to the base, best first; ties keep their order."""

    def lead(change: Change) -> float:
        found = compare_change(change, scores[change], scores[BASE], sign).difference
        return found if isfinite(found) else float("-inf")

    return sorted(alive, key=lead, reverse=True)


def tried_step(folder: Path, trials: Trials) -> Step | None:
    """The step of the tables and the figure, depending on their predictions; None before the first report."""
    if not (folder / "tried.json").is_file():
        return None
    try:
        tried = read_json(folder / "tried.json")
        found = [(Change(tuple(words)), [Pair(*pair) for pair in pairs]) for words, pairs in tried]
        tables = {change.name: trials.tables(change, pairs) for change, pairs in found}
    except (UserError, ValueError, TypeError):
        return None
    return Step(
        title=f"sweep {trials.config.name}",
        folder=folder,
        outputs=("table.csv", "pairs.csv", "sweep.png", "report.txt"),
        recipe={
            "tables": tables,
            "task": trials.config.task.model_dump(mode="json"),
            "plan": read_json(folder / "plan.json"),
        },
        stamp_name="report",
    )


def _report(
    folder: Path,
    trials: Trials,
    keys: list[Key],
    points: list[Change],
    scores: Scores,
    stored: dict,
    whole: bool,
) -> None:
    """Compare the points with the base, write the tables, draw the figure, print the report."""
    from src.tasks import create_task

    metric = create_task(trials.config).metric
    check_base(scores[BASE], metric)
    rows = [
        compare_change(p, scores.get(p, {}), scores[BASE], metric.sign, trials.failed.get(p, ""))
        for p in points
        if p in scores or p in trials.failed
    ]
    rows.sort(key=lambda row: (-row.pairs, -row.difference if isfinite(row.difference) else float("inf")))
    base = compare_change(BASE, scores[BASE], scores[BASE], metric.sign)
    title = f"sweep of {trials.config.name}: {metric.name}, base {base.score:.4f}; positive is better"
    said = [
        title,
        *lines(rows),
        f"{how_scored(metric)}, paired with the base.",
        selection_bias(scores, metric.sign),
    ]
    write_tables(folder, rows, scores, metric.sign)
    draw_sweep(
        folder / "sweep.png", keys, [*points, *trials.left_out], [row for row in rows if not row.note], title
    )
    write_text(folder / "report.txt", "\n".join(said) + "\n")
    if whole and not trials.failed:
        write_json(folder / "tried.json", [[list(c.overrides), list(own)] for c, own in scores.items()])
        tried_step(folder, trials).done()
    print("\n".join(said))


def draw_sweep(path: Path, keys: list[Key], points: list[Change], rows: list[Row], title: str) -> None:
    """A line plot for one key, a heat map for two, a dot plot for more.

    The experiment's own values, which are not a point, are drawn as zero; untried points are left out.
    """
    import numpy as np

    from src.report.trials import draw_differences, draw_line, draw_map

    zero, found = Row(BASE, 0, 0.0, 0.0, 0.0, 0.0), {row.change: row for row in rows}

    def at(*values: str) -> Row | None:
        change = Change(tuple(f"{key.name}={value}" for key, value in zip(keys, values, strict=True)))
        return found.get(change) if change in points else zero

    if len(keys) == 1:
        known = [(value, at(value)) for value in keys[0].values if at(value) is not None]
        draw_line(path, keys[0].name, [value for value, _ in known], [row for _, row in known], title)
    elif len(keys) == 2:
        cells = [[at(a, b) for b in keys[1].values] for a in keys[0].values]
        shown = np.array([[np.nan if row is None else row.difference for row in line] for line in cells])
        draw_map(path, [key.name for key in keys], [list(key.values) for key in keys], shown, title)
    else:
        draw_differences(path, rows, title)


if __name__ == "__main__":
    main()
