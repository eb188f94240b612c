"""What `make send` knows of what was sent: nothing twice, every score noted. Kaggle is a list and a count."""

from __future__ import annotations

import json
import multiprocessing
import time

import pytest
from kaggle_server.numbers import CONFIG

from src.commands.leaderboard import show_leaderboard
from src.config import UserError
from src.configfile import load_config
from src.kaggle import send as sending
from src.kaggle import submissions, waiting
from src.kaggle.client import Busy, Refused
from src.kaggle.output import rows_on_prior, said_of_prior
from src.kaggle.parcels import Parcel
from src.kaggle.submissions import receipts_of, scores_under_way
from src.submission.log import LogRow, log_submission, read_log, remarks

FORK = multiprocessing.get_context("fork")


class Account:
    """Kaggle's side: `rows` as listed, of which the newest `hidden` are not listed for the next `lag` looks;
    `reply(account, row)` stands for what the client makes of a submission."""

    def __init__(self):
        self.rows: list[dict] = []
        self.lag, self.hidden, self.score = 0, 0, "0.80000"
        self.reply = lambda account, row: account.rows.append(row)

    def call(self, *arguments: str, **_: object) -> str:
        verb = arguments[1]
        if verb == "submission-limits":
            return json.dumps({"numAllowedNow": 5, "numTotal": len(self.rows)})
        if verb == "submissions":
            shown = self.rows
            if self.lag > 0:
                self.lag, shown = self.lag - 1, self.rows[: len(self.rows) - self.hidden]
            return json.dumps(shown[::-1]) if shown else "No submissions found"
        row = {"ref": 70 + len(self.rows), "fileName": "x.csv", "description": arguments[-1]}
        self.reply(self, row | {"status": "SubmissionStatus.PENDING"})
        return "Successfully submitted to Even numbers"

    def finish(self, *refs: int) -> None:
        """Score these submissions."""
        for row in self.rows:
            if row["ref"] in refs:
                row.update(status="SubmissionStatus.COMPLETE", publicScore=self.score)


@pytest.fixture
def account(monkeypatch):
    account = Account()
    for module in (sending, submissions):
        monkeypatch.setattr(module, "call", account.call)
    monkeypatch.setattr(waiting, "FIRST", 0.0)
    monkeypatch.setattr(waiting, "LONGEST", 0.0)
    return account


@pytest.fixture
def config(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/baseline.yaml").write_text(CONFIG)
    return load_config(tmp_path / "configs/baseline.yaml")


@pytest.fixture
def send(config, monkeypatch):
    """`send(name)` sends what is called so, whose content is its name; it does not wait for the score."""

    def interrupted(*_):
        raise KeyboardInterrupt

    def run(name: str, submit: bool = True, force: bool = False, wait: bool = False, **more) -> None:
        parcel = Parcel("csv", name, 0.76, name * 10, ("-f", "x.csv"), **more)
        with monkeypatch.context() as patch:
            patch.setattr(sending, "parcel_of", lambda _: parcel)
            if wait:
                return sending.send_submission(config, submit, force)
            patch.setattr(sending, "wait_for_score", interrupted)
            with pytest.raises(KeyboardInterrupt):
                sending.send_submission(config, submit, force)

    return run


def states(config) -> list[str]:
    return sorted(receipt["state"] for receipt in receipts_of(config).values())


def logged(config) -> dict[str, tuple[str, str]]:
    return {row["ref"]: (row["name"], row["public"]) for row in read_log(config.root)}


# --- two under way ---


def test_two_under_way_both_get_their_scores_from_the_one_that_waits(account, config, send, capsys):
    send("first")
    account.reply = lambda account, row: (account.rows.append(row), account.finish(70, 71))
    send("second", wait=True)
    assert logged(config) == {"70": ("first", "0.8"), "71": ("second", "0.8")}
    assert states(config) == ["scored", "scored"]
    assert "submission 70: public score 0.80000" in capsys.readouterr().out


def test_the_board_notes_what_has_its_score_by_now_and_asks_nothing_where_nothing_is_under_way(
    account, config, send, monkeypatch
):
    send("first")
    send("second")
    account.finish(71)
    lines = scores_under_way(config)
    assert logged(config) == {"71": ("second", "0.8")}
    assert any("submission 71: public score 0.80000" in line for line in lines)
    assert any("first: under way" in line for line in lines)
    account.finish(70)
    scores_under_way(config)
    assert set(logged(config)) == {"70", "71"}

    def unplugged(*_, **__):
        raise Busy("no connection")

    monkeypatch.setattr(submissions, "call", unplugged)
    assert scores_under_way(config) == []  # nothing is asked


def test_a_board_without_a_connection_says_so_and_goes_on(account, config, send, monkeypatch):
    send("first")

    def unplugged(*_, **__):
        raise Busy("no connection")

    monkeypatch.setattr(submissions, "call", unplugged)
    (line,) = scores_under_way(config)
    assert "could not be looked up: no connection" in line
    assert states(config) == ["sent"]


# --- nothing twice ---


def test_sent_before_and_scored_is_noted_though_its_receipt_or_its_row_is_lost(account, config, send):
    send("first")
    account.finish(70)
    for path in (config.root / "kaggle/receipts").glob("submission-*"):
        path.unlink()
    with pytest.raises(UserError, match=r"submission 70: the same was sent before and scored 0\.80000"):
        send("first", wait=True)
    assert logged(config) == {"70": ("first", "0.8")}
    (config.root / "submissions/log.csv").unlink()
    with pytest.raises(UserError, match="sent before"):
        send("first", wait=True)
    assert logged(config) == {"70": ("first", "0.8")}
    assert len(account.rows) == 1


def test_one_that_is_under_way_elsewhere_is_waited_for(account, config, send):
    send("first")
    for path in (config.root / "kaggle/receipts").glob("submission-*"):
        path.unlink()
    send("first")
    assert (len(account.rows), states(config)) == (1, ["sent"])


@pytest.mark.parametrize("error", [Busy("no answer"), Busy("(503)", 503), UserError("it printed nonsense")])
def test_a_lost_reply_and_a_lagging_list_send_nothing_twice(account, config, send, error):
    def reply(account, row):
        account.rows.append(row)
        account.lag, account.hidden = 3, 1
        raise error

    account.reply = reply
    send("first")
    assert (len(account.rows), states(config)) == (1, ["sent"])


def test_a_call_stopped_before_its_proof_is_waited_for_by_the_next_one(account, config, send):
    def killed(account, row):
        account.rows.append(row)
        account.lag, account.hidden = 5, 1
        raise KeyboardInterrupt

    account.reply = killed
    send("first")
    assert states(config) == ["sending"]
    send("first")
    assert (len(account.rows), states(config)) == (1, ["sent"])


def test_one_that_is_counted_and_not_listed_is_not_sent_again_and_one_that_is_neither_is(
    account, config, send, monkeypatch
):
    def killed(account, row):
        raise KeyboardInterrupt

    monkeypatch.setattr(sending, "APPEAR_HOURS", 0.0)
    account.reply = killed
    send("first")
    account.rows.append({"ref": 1, "description": "by another member", "status": "X.PENDING"})
    with pytest.raises(UserError, match=r"may have arrived.*--force"):
        send("first", wait=True)
    assert states(config) == ["sending"]
    account.rows.clear()
    account.reply = Account().reply
    send("first")
    assert (len(account.rows), states(config)) == (1, ["lost", "sent"])


@pytest.mark.parametrize(
    "error", [Refused("400", 400), Busy("429", 429), Refused("nothing was submitted, the client says: no")]
)
def test_what_kaggle_refused_leaves_no_receipt_and_may_be_sent_again(account, config, send, error):
    def refused(account, row):
        raise error

    account.reply = refused
    with pytest.raises(type(error), match=str(error)):
        send("first", wait=True)
    assert states(config) == []


def test_two_commands_at_once_send_once(account, config, monkeypatch):
    parcel = Parcel("csv", "first", 0.76, "c" * 20, ("-f", "x.csv"))
    monkeypatch.setattr(sending, "parcel_of", lambda _: parcel)
    sent = config.root / "sent.jsonl"  # Kaggle's side, of both processes
    sent.touch()

    def slow(account, row):
        time.sleep(0.5)  # the other one is here by now
        with open(sent, "a") as handle:
            handle.write(json.dumps(row | {"status": "X.COMPLETE", "publicScore": "0.5"}) + "\n")

    account.reply = slow
    monkeypatch.setattr(
        Account,
        "rows",
        property(lambda _: [json.loads(row) for row in sent.read_text().splitlines()]),
        raising=False,
    )
    processes = [FORK.Process(target=sending.send_submission, args=(config, True)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert len(sent.read_text().splitlines()) == 1
    assert list(logged(config)) == ["70"]


def test_force_sends_the_same_once_more_under_a_receipt_of_its_own(account, config, send):
    send("first")
    send("first", force=True)
    account.finish(70, 71)
    scores_under_way(config)
    assert set(logged(config)) == {"70", "71"}
    assert states(config) == ["scored", "scored"]


def test_a_dry_send_is_no_error_whatever_was_sent_before(account, config, send, capsys):
    send("first", submit=False, wait=True)
    assert "nothing is sent yet" in capsys.readouterr().out
    assert (account.rows, states(config)) == ([], [])
    send("first")
    account.finish(70)
    scores_under_way(config)
    send("first", submit=False, wait=True)
    assert "sent before and scored" in capsys.readouterr().out


def test_a_receipt_that_is_not_whole_is_named(account, config, send):
    path = config.root / "kaggle/receipts/submission-first.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"state": "sent"}')
    with pytest.raises(UserError, match=r"submission-first\.json: is no whole receipt"):
        send("first", wait=True)
    assert account.rows == []


# --- what is odd about a score ---


@pytest.mark.parametrize(
    ("cv", "public", "far"),
    [(0.917, 0.085, True), (0.713, 0.491, True), (0.90, 0.88, False), (3.4, 3.6, False), (-2.0, 2.0, True)],
)
def test_a_score_far_from_cv_is_remarked_upon(cv, public, far):
    assert bool(remarks(cv, public, "")) is far
    assert remarks(cv, None, "") == remarks(None, public, "") == []


def test_rows_on_the_prior_are_said_in_receipt_log_and_board(account, config, send, tmp_path, capsys):
    (tmp_path / "summary.json").write_text(
        '{"rows": 5, "images": 5, "predicted": 1, "prior": {"image not found": 4}, "fallback": null}'
    )
    found = rows_on_prior(tmp_path, "")
    assert found == {"rows": 4, "of": 5, "why": "4 image not found"}
    account.reply = lambda account, row: (account.rows.append(row), account.finish(70))
    account.score = "0.08500"
    send("blind", wait=True, on_prior=found)
    said = capsys.readouterr().out
    assert "WARNING: blind: 4 of 5 rows of its run hold the prior" in said
    assert "WARNING: blind: public score 0.08500 is far from CV 0.76000" in said
    (receipt,) = receipts_of(config).values()
    assert receipt["on_prior"] == found
    assert "4 of 5 rows of its run hold the prior" in read_log(config.root)[0]["message"]
    lines = "\n".join(show_leaderboard(config.root, 1))
    assert "blind: 4 of 5 rows of its run hold the prior (4 image not found)" in lines
    assert "far from CV" in lines


def test_a_run_without_a_summary_is_read_by_its_log_and_few_rows_are_no_warning(tmp_path):
    log = "x\n1,200 of 2,000 images were missing or broken: their rows hold the prior\n"
    assert rows_on_prior(tmp_path, log) == {"rows": 1200, "of": 2000, "why": "images missing or broken"}
    assert said_of_prior({"rows": 900, "of": 2000, "why": ""}) is None
    assert rows_on_prior(tmp_path, "submission.csv: 5 rows") is None
    log_submission(tmp_path, LogRow("2026", "fine", "csv", 0.5, 0.5, None, 1, "fine cv 0.5"))
    assert "WARNING" not in "\n".join(show_leaderboard(tmp_path, 1))
