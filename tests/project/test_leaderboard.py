"""CV against the leaderboard: what is noted, what the two say together, and what is sent next."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from src.artifacts import read_json, write_json
from src.commands import leaderboard
from src.config import UserError
from src.submission.log import COLUMNS, LogRow, log_path, log_submission, read_log


def row(name: str, cv=None, public=None, ref=None, private=None) -> LogRow:
    return LogRow("2026-01-01T00:00:00+00:00", name, "csv", cv, public, private, ref, "")


def made(root: Path, name: str, cv: float, source: str = "stacks/stack") -> None:
    write_json(root / f"submissions/{name}.json", {"cv": cv, "source": source})


def run(root: Path, name: str, cv, kind: str = "runs", **more) -> None:
    write_json(
        root / kind / name / "metrics.json", {"metric": "accuracy", "cv": cv, "standard_error": 0.01} | more
    )


def call(root: Path, monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    (root / "configs").mkdir(exist_ok=True)
    (root / "configs/baseline.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["leaderboard", *arguments])
    code = 0
    try:
        leaderboard.main()
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


# --- the log ------------------------------------------------------------------------------------------------


def test_a_row_of_the_same_submission_is_replaced_and_others_stay(tmp_path):
    for one in (row("a", ref=1), row("b", 0.5, ref=2), row("a"), row("a", 0.9, 0.8, ref=1), row("a", 0.7)):
        log_submission(tmp_path, one)
    found = [(r["name"], r["cv"], r["public"], r["ref"]) for r in read_log(tmp_path)]
    assert found == [("b", "0.5", "", "2"), ("a", "0.9", "0.8", "1"), ("a", "0.7", "", "")]
    assert log_path(tmp_path).read_text().splitlines()[0] == ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", "its columns should be when,name"),
        (",".join(COLUMNS) + "\nx,y,csv,high,,,,\n", "line 2"),
    ],
)
def test_a_table_that_is_no_log_is_refused_with_what_to_mend(tmp_path, text, says):
    log_path(tmp_path).parent.mkdir()
    log_path(tmp_path).write_text(text)
    with pytest.raises(UserError, match=says):
        log_submission(tmp_path, row("a"))
    assert log_path(tmp_path).read_text() == text


# --- by hand ------------------------------------------------------------------------------------------------


def test_a_submission_sent_by_hand_is_noted_with_the_cv_of_its_file(tmp_path, monkeypatch, capsys):
    made(tmp_path, "stack", 0.93)
    code, out, _ = call(tmp_path, monkeypatch, capsys, "--name", "stack", "--public", "0.91")
    assert code == 0
    assert "0.93      0.91" in out
    code, out, _ = call(tmp_path, monkeypatch, capsys, "--name", "stack", "--private", "0.9")
    (noted,) = read_log(tmp_path)
    assert (noted["cv"], noted["public"], noted["private"]) == ("0.93", "0.91", "0.9")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--name", "stakc", "--public", "1"], "made were stack"),
        (["--name", "stack"], "give its score too"),
        (["--public", "0.9"], "say which with NAME"),
    ],
)
def test_a_mistake_is_one_sentence_and_notes_nothing(tmp_path, monkeypatch, capsys, arguments, says):
    made(tmp_path, "stack", 0.93)
    code, _, error = call(tmp_path, monkeypatch, capsys, *arguments)
    assert code == 2
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not log_path(tmp_path).exists()


# --- what they say together ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("spread", "says"), [(0.0, ": they move together"), (9.0, "do NOT move together")])
def test_the_correlation_is_spearmans(spread, says):
    random = np.random.default_rng(3)
    cv = random.random(12)
    public = cv + spread * random.random(12)
    rows = [{"cv": str(a), "public": str(b)} for a, b in zip(cv, public, strict=True)]
    (line,) = leaderboard.moves_together([*rows, {"cv": "0.5", "public": ""}])
    assert f"{spearmanr(cv, public).statistic:+.2f} over 12 submissions" in line
    assert says in line


def test_few_submissions_or_equal_ones_say_nothing():
    rows = [{"cv": "0.5", "public": "0.4"}] * 4
    assert "4 submission(s) with both; 5 say" in leaderboard.moves_together(rows)[0]
    assert "nothing can be said" in leaderboard.moves_together(rows * 2)[0]


# --- the next one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "best"), [(1, "high"), (-1, "low")])
def test_the_next_candidate_has_the_best_honest_cv_that_was_not_sent(tmp_path, sign, best):
    run(tmp_path, "high", 0.9)
    run(tmp_path, "low", 0.1)
    run(tmp_path, "higher-but-flattered", 0.99, optimistic=True)
    run(tmp_path, "lower-but-flattered", 0.01, optimistic=True)
    run(tmp_path, "undefined", None)
    run(tmp_path, "trial", 0.95 * sign)
    write_json(tmp_path / "runs/trial/trial.json", {})
    (line,) = leaderboard.next_candidate(tmp_path, [], sign)
    assert f"next by CV: {best}, accuracy" in line
    assert f'make submit ARGS="submit.source=run:{best}"' in line


def test_what_was_sent_under_another_name_is_not_sent_again(tmp_path):
    run(tmp_path, "stack", 0.9, "stacks")
    run(tmp_path, "wide", 0.8, "stacks")
    made(tmp_path, "my-best", 0.9, "stacks/stack")
    (line,) = leaderboard.next_candidate(tmp_path, [{"name": "my-best"}], 1)
    assert 'wide, accuracy 0.8000 ± 0.0100; `make submit ARGS="stack.name=wide"`' in line
    made(tmp_path, "second", 0.8, "stacks/wide")
    sent = [{"name": "my-best"}, {"name": "second"}]
    assert leaderboard.next_candidate(tmp_path, sent, 1) == ["next: every finished run and stack was sent"]


def test_the_source_of_a_submission_is_where_stage_06_says_it_comes_from(prepared, stage_here):
    for script in ("02_train.py", "03_oof_predict.py"):
        assert stage_here(prepared, script).returncode == 0
    assert stage_here(prepared, "06_submit.py", "submit.source=run:baseline", "submit.name=x").returncode == 0
    assert leaderboard.source_of(prepared, "x") == "runs/baseline"
    assert read_json(prepared / "submissions/x.json")["cv"] is not None
