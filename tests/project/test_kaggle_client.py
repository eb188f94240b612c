"""The client is called, and what it prints is read strictly: what means no success never passes for one."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import processes
import pytest
from conftest import ROOT

from src.config import UserError
from src.kaggle import client, waiting
from src.kaggle.client import About, Busy, Refused, call, failure, status_of
from src.kaggle.dataset import look_up
from src.kaggle.kernels import about_kernel
from src.kaggle.output import check_table
from src.kaggle.replies import (
    DatasetStatus,
    KernelStatus,
    Limits,
    Pushed,
    Submitted,
    Uploaded,
    read_submissions,
)

pytest_plugins = ["kaggle_server.desk"]

# --- which client, in which environment ---


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """`stub("echo hello")` is the only client there is."""

    def make(text: str) -> Path:
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python/bin/python"))
        return script(tmp_path / "python/bin/kaggle", text)

    return make


def test_the_client_beside_this_python_comes_before_one_on_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python/bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert client.find_client() is None
    on_path = script(tmp_path / "path/kaggle", "")
    assert client.find_client() == on_path
    beside = script(tmp_path / "python/bin/kaggle", "")
    assert client.find_client() == beside


def test_without_a_client_the_sentence_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"make setup.*requirements/kaggle\.in"):
        call("quota", about=About("the quota"))


def test_variables_that_the_client_would_misread_do_not_reach_it(stub, monkeypatch):
    for name in client.UNWANTED:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KAGGLE_USERNAME", "quickfox")
    stub("env")
    seen = {line.partition("=")[0] for line in call("quota", about=About("the quota")).splitlines()}
    assert "KAGGLE_USERNAME" in seen
    assert not seen & set(client.UNWANTED)


def test_a_default_competition_a_token_and_a_verbose_shell_change_nothing(desk, monkeypatch):
    """With the real client: KAGGLE_TOKEN alone would be a 401, VERBOSE would print the key."""
    for name, value in {"KAGGLE_TOKEN": "x", "KAGGLE_COMPETITION": "other", "VERBOSE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert look_up("quickfox/nothing-there") is None
    assert desk.calls() == ["GetDatasetStatus"]


def test_a_package_that_the_client_lacks_is_named(stub):
    stub("echo \"ModuleNotFoundError: No module named 'six'\" >&2; exit 1")
    with pytest.raises(UserError, match=r"lacks the package six: install requirements/kaggle\.in"):
        call("quota", about=About("the quota"))


def test_both_streams_are_read_to_their_end_however_long(stub):
    stub(
        f"{sys.base_prefix}/bin/python3 -c \"import sys; sys.stderr.write('e' * 10**6); print('o' * 10**6)\""
    )
    text = call("quota", about=About("the quota"))
    assert (text.count("e"), text.count("o")) == (10**6, 10**6)


def test_a_client_that_never_answers_is_ended(stub, monkeypatch):
    monkeypatch.setattr(client, "_LIMIT", 0.2)
    stub("exec sleep 60")
    with pytest.raises(Busy, match="no answer from Kaggle"):
        call("kernels", "status", "a/b-infer", about=About("kernel a/b-infer"))


# --- failures ---

HTTP = "{} Client Error: {} for url: https://api.kaggle.com/v1/competitions.CompetitionApiService/DownloadDataFiles"
PRINTED = {
    HTTP.format(401, "Unauthorized"): 401,
    "Authentication required to call the Kaggle API.\n\nFirst, you will need a Kaggle account.": 401,
    HTTP.format(403, "Forbidden"): 403,
    "You must accept this competition's rules before you'll be able to download files.": 403,
    "403 - Forbidden - Permission 'competitions.participate' was denied": 403,
    "Cannot access kernel 'a/b-infer' (Permission 'kernels.get' was denied). The most likely cause is": 403,
    HTTP.format(404, "Not Found"): 404,
    HTTP.format(429, "Too Many Requests"): 429,
    "Too many requests": 429,
    "503 Server Error: Service Unavailable for url: https://api.kaggle.com/v1/x": 503,
    "404 Not Found": 404,
    "404: not found": 404,
    "not found": 404,
    "NOT_FOUND": 404,
    "Kaggle answered HTTP 404": 404,
    '{"code": 503, "message": "try again"}': 503,  # as its JSON, and as the message alone
    "The service is currently unavailable.": 503,
    "Internal error encountered.": 500,
    "An error occurred, please try again later": 503,
    "Competition 'leaves' does not exist": 404,
    "504 Gateway Time-out": 504,
    "Max retries exceeded with url: /x (Caused by ResponseError('too many 502 error responses'))": 502,
    "Request failed: 503 Server Error: x. Will retry in 2.0 seconds\n403 Client Error: Forbidden": 403,
    "Metadata file not found: dataset-metadata.json": None,
    "FileNotFoundError: [Errno 2] No such file or directory: 'a/503'": None,
    "The dataset slug must be between 6 and 50 characters": None,
}


@pytest.mark.parametrize("text", PRINTED)
def test_the_status_behind_what_the_client_prints(text):
    assert status_of(text) == PRINTED[text]
    error = failure(text, ("kernels", "push"), about_kernel("quickfox/leaf-infer"))
    later = PRINTED[text] is not None and (PRINTED[text] == 429 or PRINTED[text] >= 500)
    assert isinstance(error, Busy if later else Refused)
    assert error.status == PRINTED[text]
    assert "\n" not in str(error)
    if PRINTED[text] is None:
        assert text in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: /v1/x (Caused "
        "by NameResolutionError(\"HTTPSConnection: Failed to resolve 'api.kaggle.com'\"))",
        "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
        "HTTPSConnectionPool(host='api.kaggle.com', port=443): Read timed out. (read timeout=300)",
    ],
)
def test_a_lost_connection_may_go_well_later(text):
    assert isinstance(failure(text, ("kernels", "status"), About("kernel x")), Busy)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("429 Client Error: Too Many Requests for url: x", None),
        ("429 Client Error: Too Many Requests\nRetry-After: 37", 37.0),
        ("Rate limited (HTTP 429). Retrying in 3.0 seconds... (attempt 1/5)", 3.0),
        ("Request failed: 429 Client Error: x. Will retry in 2.5 seconds\nToo many requests", 2.5),
    ],
)
def test_too_many_requests_carry_the_seconds_that_kaggle_asks_to_wait(text, seconds):
    error = failure(text, ("kernels", "push"), About("kernel x"))
    assert (type(error), error.status, error.after) == (Busy, 429, seconds)
    assert ("some minutes" if seconds is None else f"{seconds:.0f} s") in str(error)


def test_waiting_pauses_as_long_as_kaggle_asks(quick, monkeypatch):
    pauses, looks = [], iter([Busy("slow down", 429, 37.0), ("running", None), ("complete", 1)])
    monkeypatch.setattr(waiting.time, "sleep", pauses.append)

    def look():
        if isinstance(one := next(looks), Busy):
            raise one
        return one

    assert waiting.wait_for("kernel x", look, hours=1, after="") == 1
    assert pauses == [37.0, 0.0]


def test_a_full_disk_is_no_matter_of_the_connection(tmp_path):
    full = "Connection error: OSError: [Errno 28] No space left on device\nDownload failed after 5 retries."
    error = failure(full, ("competitions", "download", "x", "-p", str(tmp_path)), About("competition x"))
    assert type(error) is UserError
    assert str(tmp_path) in str(error)
    assert "disk is full" in str(error)
    refused = "Connection error: [Errno 111] Connection refused"
    assert isinstance(failure(refused, ("competitions", "download"), About("competition x")), Busy)


def test_a_look_at_what_is_printed_can_end_a_transfer(stub):
    stub("echo first; echo second; exec sleep 60")
    seen = []

    def look(printed: str) -> None:
        seen.append(printed)
        if "second" in printed:
            raise Busy("enough")

    with pytest.raises(Busy, match="enough"):
        call("competitions", "download", about=About("x"), watch=True, look=look)
    assert seen[-1].splitlines() == ["first", "second"]


def test_a_verb_that_the_client_does_not_know_points_at_the_right_client():
    text = "usage: kaggle [-h] [-v] [-W] {competitions,c} ...\nkaggle: error: unrecognized arguments: --json"
    with pytest.raises(UserError, match=r"does not know `kaggle competitions submission-limits`"):
        raise failure(text, ("competitions", "submission-limits", "x", "--json"), About("x"))


# --- replies ---

PUSHED = (
    "Kernel version 3 successfully pushed.  Please check progress at https://www.kaggle.com/code/a/b-infer\n"
)
LEFT_OUT = (
    "The following are not valid dataset sources and could not be added to the kernel: ['a/b-bundle']\n"
)


def test_a_push_counts_only_with_its_version_and_without_a_source_left_out():
    assert Pushed.read(PUSHED, "a/b-infer") == Pushed(3, "https://www.kaggle.com/code/a/b-infer")
    for text, why in {
        LEFT_OUT + PUSHED: r"without \['a/b-bundle'\].* no valid dataset sources",
        "Kernel push error: Notebook not found\n": "refuses the push: Notebook not found",
        "Kernel push error: Maximum batch GPU session count of 2 reached.\n": "session count of 2 reached",
        "Kernel push error: see previous output\n": "see previous output",
        "Kernel version successfully pushed.  Please check progress at https://x\n": "takes for a failure",
        "": "it said nothing",
    }.items():
        with pytest.raises(UserError, match=why):
            Pushed.read(text, "a/b-infer")


CREATED = (
    "Your private Dataset is being created. Please check progress at https://www.kaggle.com/datasets/a/b\n"
)
ARRIVED = (
    "Starting upload for file x.json\nUpload successful: x.json (2B)\nUpload successful: src.zip (1KB)\n"
)


def test_a_dataset_counts_only_with_every_file_arrived_and_private():
    expected = ("src.zip", "x.json")
    assert Uploaded.read(ARRIVED + CREATED, "a/b", expected).files == ("x.json", "src.zip")
    version = "Dataset version is being created. Please check progress at https://x\n"
    assert Uploaded.read(ARRIVED + version, "a/b", expected)
    lost = ARRIVED.replace("Upload successful: src.zip (1KB)", "Upload unsuccessful: src.zip")
    for text, why in {
        lost + CREATED: r"src\.zip did not arrive \(1 of 2 file\(s\)\)",
        "Skipping folder: src; use '--dir-mode' to upload folders\n" + CREATED: "did not arrive",
        'Dataset creation error: The requested title "B" is already in use by a dataset.\n': "already in use",
        "Dataset version creation error: quota\n": "refuses the dataset: quota",
        ARRIVED + CREATED.replace("private", "public"): "became public",
        ARRIVED: "takes for a failure",
    }.items():
        with pytest.raises(UserError, match=why):
            Uploaded.read(text, "a/b", expected)


def test_a_datasets_status_is_read_past_the_clients_warnings():
    warning = "Warning: Your Kaggle API key is readable by other users on this system!\n"
    text = warning + '{"status": "blobs_received", "current_version_number": 4}\n'
    assert DatasetStatus.read(text) == DatasetStatus("blobs_received", 4)
    with pytest.raises(UserError, match="takes for a failure"):
        DatasetStatus.read("ready")


def test_a_kernels_status_and_its_failure():
    done = 'a/b-infer has status "KernelWorkerStatus.COMPLETE"\n'
    assert KernelStatus.read(done) == KernelStatus("complete", None)
    failed = 'a/b-infer has status "KernelWorkerStatus.ERROR"\nFailure message: "Notebook Threw Exception"\n'
    assert KernelStatus.read(failed) == KernelStatus("error", "Notebook Threw Exception")
    with pytest.raises(UserError, match="takes for a failure"):
        KernelStatus.read("complete")


def test_limits_are_zero_where_the_client_leaves_them_out():
    assert Limits.read('{\n  "numToday": 5,\n  "numTotal": 40\n}\n') == Limits(0, 5, 40)
    assert Limits.read("{}") == Limits(0, 0, 0)
    assert Limits.read('{"numAllowedNow": 3}').allowed_now == 3


def test_submissions_are_read_with_scores_only_where_there_are_any():
    text = """[{"ref": 7, "fileName": "submission.csv", "date": "2026-11-22T10:00:00", "description": "b",
      "status": "SubmissionStatus.PENDING", "publicScore": "", "privateScore": ""},
     {"ref": 6, "fileName": "submission.csv", "date": "2026-11-21T10:00:00", "description": null,
      "status": "SubmissionStatus.COMPLETE", "publicScore": "0.91200", "privateScore": "0.9"}]"""
    pending, scored = read_submissions(text)
    assert (pending.ref, pending.status, pending.public, pending.private) == (7, "pending", None, None)
    assert (scored.description, scored.status, scored.public, scored.private) == ("", "complete", 0.912, 0.9)
    assert read_submissions("No submissions found\n") == []


def test_a_submission_that_was_not_taken_is_refused():
    assert Submitted.read("4 submissions remaining today.\nSuccessfully submitted to Leaf", "leaf").answer
    for text in ("Could not submit to competition", "Could not find competition - please verify that you"):
        with pytest.raises(Refused, match="nothing was submitted"):
            Submitted.read(text, "leaf")


# --- waiting ---


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(waiting, "FIRST", 0.0)
    monkeypatch.setattr(waiting, "LONGEST", 0.0)


def test_waiting_prints_a_line_when_the_state_changes_and_gives_the_result(quick, capsys):
    states = iter([("queued", None), ("running", None), ("running", None), ("complete", 7)])
    assert waiting.wait_for("kernel x", lambda: next(states), hours=1, after="") == 7
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\d:\d\d:\d\d", "T", line) for line in lines] == [
        "kernel x: queued, T",
        "kernel x: running, T",
    ]


def test_waiting_ends_with_what_to_do(quick):
    with pytest.raises(UserError, match=r"kernel x: still running after 0 h; do this"):
        waiting.wait_for("kernel x", lambda: ("running", None), hours=0, after="do this")


def test_waiting_outlives_a_bad_quarter_of_an_hour_but_not_a_bad_night(quick):
    failing = iter([True] * (waiting.POLL_PATIENCE - 1) + [False])

    def look():
        if next(failing):
            raise Busy("no connection")
        return "complete", True

    assert waiting.wait_for("kernel x", look, hours=1, after="")
    failing = iter([True] * waiting.POLL_PATIENCE)
    with pytest.raises(Busy, match="no connection"):
        waiting.wait_for("kernel x", look, hours=1, after="")


def test_at_a_terminal_there_is_one_line_that_moves(quick, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    states = iter([("queued", None), ("running", None), ("complete", 7)])
    waiting.wait_for("kernel x", lambda: next(states), hours=1, after="")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 0
    assert said.err.count("\r") == 3


# --- the last look at a table ---


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("<!DOCTYPE html><html>Forbidden</html>", "is a web page"),
        ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
        ("id,target\na,1\nb,2\n", r"its columns are \['id', 'target'\]"),
        (",id,label\n0,a,1\n1,b,2\n", "its columns are"),
        ("id,label\na,1\n", "ends before row 3"),
        ("id,label\na,1\nb,2\nc,3\n", "sample.csv: ends before row 4"),
        ("id,label\nb,1\na,2\n", r"row 2 is 'b', .* has 'a'"),
        ("id,label\na,1\nb\n", "row 3 has 1 cells"),
        ("", "its columns are"),
    ],
)
def test_a_file_that_is_not_the_table_meant_is_refused(tmp_path, text, why):
    (tmp_path / "sample.csv").write_text("id,label\na,0\nb,0\n")
    (tmp_path / "submission.csv").write_text(text)
    with pytest.raises(UserError, match=why):
        check_table(tmp_path / "submission.csv", tmp_path / "sample.csv")


def test_a_table_of_the_samples_rows_passes_whatever_its_line_ends_and_cells(tmp_path):
    (tmp_path / "sample.csv").write_text("id,label\na,0\nb,0\n")
    (tmp_path / "submission.csv").write_bytes(
        b'\xef\xbb\xbfid,label\r\na,"1 2 3, 4"\r\n\r\nb,' + b"9" * 200_000 + b"\r\n"
    )
    assert check_table(tmp_path / "submission.csv", tmp_path / "sample.csv") == 2
    assert os.listdir(tmp_path)


def test_speaking_to_kaggle_imports_nothing_heavy():
    rooms = "src.kaggle.send, src.kaggle.push, src.kaggle.training, src.kaggle.download"
    code = (
        f"import sys, {rooms}; print([m for m in ('kaggle', 'torch', 'pandas', 'numpy') if m in sys.modules])"
    )
    done = processes.run([sys.executable, "-c", code], cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr
