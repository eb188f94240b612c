"""Ablation study: which tricks help, each compared with the experiment on the same folds and seeds.

    make ablate EXP=baseline TRY="train.ema.enabled=false train.optimizer=adamw,train.lr=1e-3" MINUTES=30

Reads   what 02 and 03 read; without --try the list `try:` of configs/ablate.yaml
Writes  ablations/<name>/ (table.csv, pairs.csv, ablation.png, report.txt, plan.json), and in runs/ one run
        per trick and seed; stacks leave these out unless stack.members names them

A space separates tricks, a comma the keys of one trick. Tricks of the list that have no effect on this
experiment are left out, with the reason. MINUTES decides how many folds, seeds and epochs are used. A killed
ablation continues when it is called again; one that is up to date prints its report.
"""

from __future__ import annotations

import re
from math import inf, isfinite
from pathlib import Path

from src.artifacts import Step, read_json, write_json, write_text
from src.cli import check_known_names
from src.commands.request import command, plan_step
from src.commands.trials import BASE, NEXT_KEY, Change, Pair, Trials, pairs_in_batches
from src.config import UserError
from src.entry import plain_errors
from src.locks import alone
from src.machine import limit_threads
from src.reading import decoding

LIST = "configs/ablate.yaml"


@plain_errors()
def main() -> None:
    parser = command("ablate", __doc__)
    parser.add_argument("--try", dest="tricks", default="", help="the tricks; default: those of " + LIST)
    arguments = parser.parse_intermixed_args()
    trials = Trials(arguments.config, arguments.overrides, "ablate")
    changes = read_changes(arguments.tricks, trials.root / LIST)
    check_known_names(trials.config)
    changes = trials.check(changes, leave_out=not arguments.tricks.strip())  # the list is for all tasks
    limit_threads(trials.config)
    name = arguments.name or trials.config.name
    with alone(trials.root / "ablations" / name):
        ablate(trials, changes, arguments.minutes, name)


def read_changes(tricks: str, path: Path) -> list[Change]:
    """The tricks of the command line, or else those of the list file, without duplicates.

    Raises `UserError` if the list is missing or malformed, or an entry is not `key=value`.
    """
    words = [word for word in re.split(rf"\s+{NEXT_KEY}", tricks.strip()) if word]
    if not words:
        import yaml

        try:
            words = (yaml.safe_load(path.read_text(encoding="utf-8")) or {})["try"]
        except FileNotFoundError:
            raise UserError(f'{path}: no such list; name the tricks, TRY="train.ema.enabled=false"') from None
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            words = None
        if not words or not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(
                f"{path}: it should hold `try:` and a list below it, such as `- train.ema.enabled=false`"
            )
    for word in words:
        if not re.match(r"[A-Za-z_][\w.]*=", word.strip()):
            raise UserError(f"{word!r} is no trick; one looks like train.ema.enabled=false")
    return list(dict.fromkeys(Change.read(word) for word in words))


def ablate(trials: Trials, changes: list[Change], minutes: float, name: str) -> None:
    """Plan, train what is missing, compare with the base and report."""
    folder = trials.root / "ablations" / name
    request = plan_step(folder, trials, changes, minutes)
    if request.begin():
        plan_ablation(trials, changes, minutes, request)
    from src.commands.budget import ExperimentPlan, TimeBudget

    with decoding(folder / "plan.json"):
        plan = ExperimentPlan.from_json(read_json(folder / "plan.json"))
    trials.share, pairs = plan.share, list(plan.pairs)
    everyone = [BASE, *changes]
    if all(trials.done(change, pairs) for change in everyone):
        found = report_step(folder, trials, everyone, pairs)
        if found.fresh():
            print(f"{found.up_to_date_line()}\n{(folder / 'report.txt').read_text(encoding='utf-8')}", end="")
            return
    print(f"{request.title}: {plan.say(len(changes), minutes)}")
    clock, done = TimeBudget(minutes), []
    for part in pairs_in_batches(pairs, plan.cost.width):
        if not clock.round(trials, everyone, part):
            print(f"the minutes are spent after {len(done)} of {len(pairs)} pairs; the same command goes on")
            break
        done += part
    trials.finish([change for change in everyone if change not in trials.failed], done)
    _report(folder, trials, changes, done, whole=len(done) == len(pairs))


def plan_ablation(trials: Trials, changes: list[Change], minutes: float, step: Step) -> None:
    """Measure the time per epoch and write a plan that fits the minutes."""
    from src.commands.budget import all_pairs, measure_cost, plan_pairs

    cost = measure_cost(trials, step.folder)
    pairs = all_pairs(trials.folds, trials.seed)
    plan = plan_pairs(cost, len(changes), trials.config.train.epochs, pairs, minutes)
    write_json(step.folder / "plan.json", plan.as_json())
    step.done()


def report_step(folder: Path, trials: Trials, changes: list[Change], pairs: list[Pair]) -> Step:
    """The step of the tables and the figure; it depends on the predictions they are computed from."""
    tables = {change.name: trials.tables(change, pairs) for change in changes}
    return Step(
        title=f"ablate {trials.config.name}",
        folder=folder,
        outputs=("table.csv", "pairs.csv", "ablation.png", "report.txt"),
        recipe={"tables": tables, "task": trials.config.task.model_dump(mode="json")},
        stamp_name="report",
    )


def _report(folder: Path, trials: Trials, changes: list[Change], pairs: list[Pair], whole: bool) -> None:
    """Compare the tricks with the base, write the tables, draw the figure, print the report."""
    from src.commands.budget import said_pairs
    from src.commands.compare import CHANCE, check_base, compare_change, how_scored, lines, write_tables
    from src.report.trials import draw_differences
    from src.tasks import create_task

    metric = create_task(trials.config).metric
    made = [change for change in changes if change not in trials.failed]
    scores = {change: trials.scores(change, pairs) for change in [BASE, *made]}
    check_base(scores[BASE], metric)
    rows = [
        compare_change(
            change, scores.get(change, {}), scores[BASE], metric.sign, trials.failed.get(change, "")
        )
        for change in changes
    ]
    rows.sort(key=lambda row: (bool(row.note), -row.difference if isfinite(row.difference) else inf))
    base = compare_change(BASE, scores[BASE], scores[BASE], metric.sign)
    said = [
        f"ablation of {trials.config.name}: {metric.name}, {said_pairs(pairs)}, base {base.score:.4f}; "
        f"positive is better",
        *lines(rows),
        f"{how_scored(metric)}; ± is a standard error; helps and hurts are beyond a paired t-test's 95 %.",
        f"Of {len(made)} tricks that do nothing, {CHANCE * len(made):.1f} would seem to do something.",
    ]
    write_tables(folder, rows, scores, metric.sign)
    draw_differences(folder / "ablation.png", [row for row in rows if not row.note], said[0])
    write_text(folder / "report.txt", "\n".join(said) + "\n")
    if whole and not trials.failed:
        report_step(folder, trials, [BASE, *changes], pairs).done()
    print("\n".join(said))


if __name__ == "__main__":
    main()
