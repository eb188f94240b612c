"""CV against the leaderboard: the submissions so far, their rank correlation, and what to submit next.

Reads   submissions/log.csv, submissions/*.json, runs/*/metrics.json, stacks/*/metrics.json
Writes  submissions/log.csv: scores that Kaggle has published since `make send`; with NAME and PUBLIC, a row
        for a submission sent by hand
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.config import UserError
from src.configfile import load_config
from src.entry import plain_errors
from src.kaggle.submissions import scores_under_way
from src.locks import alone
from src.reading import MAYBE, read_json, read_metrics
from src.submission.log import LogRow, log_path, log_submission, read_log, remarks

_ENOUGH = 5  # submissions with both scores; fewer give no meaningful correlation


@plain_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/baseline.yaml", help="the experiment (%(default)s)")
    parser.add_argument("--name", help="a submission that was sent by hand: its file's name without .csv")
    parser.add_argument("--public", type=float, help="what the public leaderboard said of it")
    parser.add_argument("--private", type=float, help="the private one, after the end")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, arguments.overrides)
    if arguments.name is not None:
        with alone(log_path(config.root)):
            log_by_hand(config.root, arguments.name, arguments.public, arguments.private)
    elif arguments.public is not None or arguments.private is not None:
        raise UserError("PUBLIC and PRIVATE are scores of a submission: say which with NAME, such as stack")
    for line in [*scores_under_way(config), *show_leaderboard(config.root, sign_of(config))]:
        print(line)


def sign_of(config: Any) -> int:
    """1 if a higher metric is better, -1 if a lower one is."""
    from src.metrics import create_metric

    return create_metric(config.task.name, config.task.metric).sign


def log_by_hand(root: Path, name: str, public: float | None, private: float | None) -> None:
    """Log a submission that was sent on the website, with the CV recorded when its file was made.

    Raises `UserError` if the submission file is unknown or no score is given.
    """
    origin = root / "submissions" / f"{name}.json"
    if not origin.exists():
        made = sorted(path.stem for path in origin.parent.glob("*.json") if "stamp" not in path.name)
        raise UserError(f"NAME={name}: there is no {origin}; made were {', '.join(made) or 'none'}")
    if public is None and private is None:
        raise UserError(f"NAME={name}: give its score too, such as PUBLIC=0.9234")
    when = datetime.now(UTC).isoformat(timespec="seconds")
    known = {row["name"]: row for row in read_log(root) if row["ref"] == ""}.get(name)
    if known is not None:  # the private score is published later
        public = float(known["public"]) if public is None and known["public"] else public
        when = known["when"]
    log_submission(
        root, LogRow(when, name, "csv", read_json(origin, cv=MAYBE)["cv"], public, private, None, "by hand")
    )


def show_leaderboard(root: Path, sign: int) -> list[str]:
    """The report lines: every submission, the correlation of CV and leaderboard, and the next candidate."""
    rows = read_log(root)
    lines = [f"{'submission':<28} {'CV':>9} {'public':>9} {'private':>9}  when"]
    lines += [
        f"{row['name'][:28]:<28} {row['cv'][:9] or '-':>9} {row['public'][:9] or '-':>9} "
        f"{row['private'][:9] or '-':>9}  {row['when'][:16]}"
        for row in rows
    ]
    for row in rows:
        cv, public = (float(row[column]) if row[column] else None for column in ("cv", "public"))
        lines += [f"WARNING: {row['name']}: {remark}" for remark in remarks(cv, public, row["message"])]
    if not rows:
        lines = [
            f"{log_path(root)}: nothing was sent yet; `make leaderboard NAME=stack PUBLIC=0.9` notes one"
        ]
    return [*lines, *moves_together(rows), *next_candidate(root, rows, sign)]


def moves_together(rows: list[dict[str, str]]) -> list[str]:
    """The rank correlation of CV and public score (Spearman 1904), if enough submissions have both."""
    both = [(float(row["cv"]), float(row["public"])) for row in rows if row["cv"] and row["public"]]
    if len(both) < _ENOUGH:
        return [
            f"CV and leaderboard: {len(both)} submission(s) with both; {_ENOUGH} say how they move together"
        ]
    from scipy.stats import spearmanr

    found = float(spearmanr(*zip(*both, strict=True)).statistic)
    if found != found:
        return ["CV and leaderboard: one of the two never changed, so nothing can be said"]
    says = "they move together" if found > 0.7 else "loosely" if found > 0.3 else "they do NOT move together"
    return [f"CV and leaderboard: rank correlation {found:+.2f} over {len(both)} submissions: {says}"]


def source_of(root: Path, name: str) -> str:
    """The folder that a submission's predictions come from, such as `stacks/stack`; empty if unknown."""
    origin = root / "submissions" / f"{name}.json"
    return read_json(origin, source=str)["source"] if origin.exists() else ""


def next_candidate(root: Path, rows: list[dict[str, str]], sign: int) -> list[str]:
    """The unsubmitted run or stack with the best CV; trials and optimistic CVs are left out."""
    sent = {source_of(root, row["name"]) for row in rows}
    found: list[tuple[float, str, str, dict[str, Any]]] = []
    broken: list[str] = []
    for path in [*(root / "runs").glob("*/metrics.json"), *(root / "stacks").glob("*/metrics.json")]:
        name = path.parent.name
        try:
            metrics = read_metrics(path.parent, standard_error=MAYBE)
        except UserError as error:
            broken.append(f"{name} is left out: {error}")
            continue
        trial = (path.parent / "trial.json").exists()
        kind = path.parent.parent.name
        honest = metrics["cv"] is not None and not metrics.get("optimistic")
        if honest and f"{kind}/{name}" not in sent and not trial:
            found.append((sign * metrics["cv"], name, kind, metrics))
    if not found:
        return [*broken, "next: every finished run and stack was sent"]
    _, name, kind, metrics = max(found, key=lambda one: one[:2])
    of_stack = "" if name == "stack" else f' ARGS="stack.name={name}"'
    source = f' ARGS="submit.source=run:{name}"' if kind == "runs" else of_stack
    error = metrics["standard_error"]
    shown = f"{metrics['cv']:.4f}" + ("" if error is None else f" ± {error:.4f}")
    return [*broken, f"next by CV: {name}, {metrics['metric']} {shown}; `make submit{source}`"]


if __name__ == "__main__":
    main()
