"""`make send`: one submission, never two, never by accident, and its score beside its CV."""

from __future__ import annotations

import csv
import json

import pytest

from src.artifacts import sha256
from src.submission.log import LogRow, log_submission

pytest_plugins = ["kaggle_server.desk"]


@pytest.fixture
def ready(desk, monkeypatch):
    """A desk whose stage 06 wrote a plain submission: right but for its last row. SUBMIT=1."""
    desk.competition.solution = desk.public_solution
    rows = dict(desk.public_solution)
    last = list(rows)[-1]
    rows[last] = str(1 - int(rows[last]))
    for name, text in {"test.parquet": "", "metrics.json": "{}"}.items():
        desk.write(f"stacks/stack/{name}", text)
    submission(desk, rows)
    monkeypatch.setenv("SUBMIT", "1")
    return desk


def submission(desk, rows: dict[str, str]) -> None:
    path = desk.write("submissions/stack.csv", "id,label\n" + "".join(f"{k},{v}\n" for k, v in rows.items()))
    desk.write("submissions/stack.json", json.dumps({"cv": 0.7654321, "sha256": sha256(path)}))


def log(desk) -> list[dict[str, str]]:
    with open(desk.root / "submissions/log.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_csv_is_sent_scored_and_written_down_and_never_sent_twice(ready):
    said = ready.run("send")
    assert said.code == 0, said.err
    assert "public score 0.80000, CV 0.76543" in said.out
    (sent,) = ready.competition.submissions
    (row,) = log(ready)
    assert (row["name"], row["kind"], row["cv"], row["public"]) == ("stack", "csv", "0.7654321", "0.8")
    assert (row["ref"], row["message"]) == (str(sent["ref"]), sent["description"])
    assert sent["description"].startswith("stack cv 0.76543 [")
    assert ready.receipt("submission")["state"] == "scored"
    ready.calls()
    assert "the same was sent before and scored 0.80000" in ready.run("send").sentence
    assert ready.calls() == []
    next((ready.root / "kaggle/receipts").glob("submission-*.json")).unlink()
    assert "the same was sent before and scored 0.80000" in ready.run("send").sentence
    assert len(ready.competition.submissions) == 1


def test_without_submit_it_only_says_what_would_be_sent(ready, monkeypatch):
    monkeypatch.delenv("SUBMIT")
    said = ready.run("send")
    assert (said.code, said.err) == (0, "")
    assert "make send SUBMIT=1" in said.out
    assert "csv: stack cv 0.76543" in said.out
    assert "5 submission(s) left today" in said.out
    assert ready.competition.submissions == []


def test_with_none_left_today_nothing_is_sent(ready):
    ready.competition.left_today = 0
    assert "takes no submission now" in ready.run("send").sentence
    assert ready.calls() == ["GetSubmissionLimits"]


def test_a_file_that_is_not_what_stage_06_checked_is_not_sent(ready):
    path = ready.root / "submissions/stack.csv"
    path.write_text(path.read_text().replace(",1", ",0"))
    assert "changed since stage 06 checked it" in ready.run("send").sentence
    submission(ready, dict(list(ready.public_solution.items())[:-1]))
    assert "ends before row 6" in ready.run("send").sentence
    path.unlink()
    assert "run `make submit` first" in ready.run("send").sentence
    assert ready.calls() == []


def test_stopped_while_it_was_sending_or_waiting_it_goes_on_and_sends_nothing_twice(ready):
    content = sha256(ready.root / "submissions/stack.csv")
    message = f"stack cv 0.76543 [{content[:10]}]"
    row = {"ref": 77, "description": message, "status": "COMPLETE", "publicScore": "0.80000"}
    ready.competition.submissions.append(row)
    what = {"competition": "even-numbers", "content": content, "kind": "csv", "name": "stack", "cv": 0.765}
    for state in ({"state": "sending", "known": [], "counted": 0}, {"state": "sent", "ref": 77}):
        receipt = {**what, "message": message, **state}
        ready.write(f"kaggle/receipts/submission-{content[:10]}.json", json.dumps(receipt))
        said = ready.run("send")
        assert said.code == 0, said.err
        assert "submission 77: public score 0.80000" in said.out
    assert set(ready.calls()) == {"ListSubmissions"}
    assert [row["ref"] for row in log(ready)] == ["77"]  # the second row took the place of the first


def test_an_upload_that_fails_with_exit_status_0_is_no_submission(ready):
    ready.store.faults["put_refused"] = 1
    assert "nothing was submitted" in ready.run("send").sentence
    assert ready.competition.submissions == []
    assert not (ready.root / "submissions/log.csv").exists()


def test_a_submission_that_kaggle_cannot_score_is_a_failure_and_stands_in_the_log(ready):
    ready.competition.solution = {"other": "1"}
    assert "Kaggle could not score it" in ready.run("send").sentence
    (row,) = log(ready)
    assert (row["public"], row["message"]) == ("", "failed on Kaggle")
    assert ready.receipt("submission")["state"] == "failed"


def test_rules_not_accepted_are_said_before_anything_is_sent(ready):
    ready.competition.rules_accepted = False
    assert "accept its rules" in ready.run("send").sentence


# --- a code competition ---

COUNTS_ON_FIVE = """\
rows = list(csv.DictReader(open(next(inputs.rglob("test.csv")))))
assert len(rows) == 5, f"{len(rows)} rows"
"""


def test_a_kernel_that_only_knows_the_public_test_set_fails_in_the_hidden_run(ready):
    """What the rehearsal is for; here it is made to pass."""
    kernel = (ready.root / "kernel/infer.py").read_text()
    ready.write("kernel/infer.py", kernel + COUNTS_ON_FIVE)
    ready.pushed()
    receipt = ready.receipt("kernel")
    ready.write("kaggle/receipts/kernel.json", json.dumps({**receipt, "state": "checked"}))
    assert "Kaggle could not score it" in ready.run("send", "kaggle.code_competition=true").sentence
    assert ready.competition.submissions[0]["errorDescription"] == "Notebook Threw Exception"
    assert log(ready)[0]["public"] == ""
    ready.bundle(yes=2)
    assert "changed since the push" in ready.run("send", "kaggle.code_competition=true").sentence


# --- the log ---


def test_the_log_keeps_every_other_row_and_a_column_it_does_not_know_is_no_reason_to_lose_it(tmp_path):
    for ref in (1, 2, 1):
        log_submission(tmp_path, LogRow("2026", "a, b", "csv", 0.5, None, None, ref, f'said "{ref}"'))
    rows = list(csv.DictReader((tmp_path / "submissions/log.csv").read_text().splitlines()))
    assert [row["ref"] for row in rows] == ["2", "1"]
    assert rows[0]["message"] == 'said "2"'
    assert rows[0]["name"] == "a, b"
