"""`make push`: only what was rehearsed goes, and only what really ran as it was meant counts."""

from __future__ import annotations

import json
import multiprocessing
import re

import pytest
from kaggle_server.numbers import KERNEL

from src.kaggle.kernels import inside
from src.locks import alone

pytest_plugins = ["kaggle_server.desk"]

FORK = multiprocessing.get_context("fork")
NAME = "quickfox/even-numbers-infer"


# --- the way to the leaderboard ---


def test_a_rehearsed_bundle_reaches_the_leaderboard(desk, monkeypatch):
    """Push, the run on Kaggle, its output, the submission, the hidden run, the score, the log."""
    whole = desk.bundle()
    said = desk.run("push")
    assert said.code == 0, said.err
    assert "submission.csv: 5 rows, checked" in said.out
    kernel = desk.store.kernels[NAME]
    assert kernel.saved["text"] == KERNEL
    assert kernel.saved["enableInternet"] is False
    assert kernel.saved["sessionTimeoutSeconds"] == 9 * 3600
    assert kernel.saved["datasetDataSources"] == ["quickfox/even-numbers-bundle"]
    receipt = desk.receipt("kernel")
    assert (receipt["ref"], receipt["version"], receipt["state"]) == (NAME, 1, "checked")
    assert (receipt["bundle_hash"], receipt["dataset_version"]) == (whole, 1)
    written = (desk.root / "kaggle/output/submission.csv").read_text().splitlines()
    assert written == ["id,label", *(f"{name},{label}" for name, label in desk.public_solution.items())]
    desk.calls()

    assert "up to date" in desk.run("push").out  # again: nothing is sent
    assert set(desk.calls()) == {"GetDatasetStatus", "GetDataset"}

    monkeypatch.setenv("SUBMIT", "1")
    said = desk.run("send", "kaggle.code_competition=true")
    assert said.code == 0, said.err
    assert "public score 1.00000, CV 0.75000" in said.out
    (row,) = desk.competition.submissions
    assert row["status"] == "COMPLETE"
    hidden = kernel.runs[0].folder.with_name(f"1-hidden{row['ref']}") / "working/submission.csv"
    assert len(hidden.read_text().splitlines()) == 32  # it ran on the hidden test set
    log = (desk.root / "submissions/log.csv").read_text().splitlines()
    assert log[0] == "when,name,kind,cv,public,private,ref,message"
    assert re.fullmatch(rf"[^,]+,even-numbers-infer v1,code,0\.75,1\.0,,{row['ref']},.*", log[1])
    assert desk.receipt("submission")["ref"] == row["ref"]


# --- refused before anything is sent ---


def test_without_a_rehearsal_of_exactly_this_bundle_and_kernel_nothing_is_sent(desk):
    assert "run `make bundle` first" in desk.run("push").sentence
    desk.bundle(rehearsed=False)
    assert "was never rehearsed; run `make rehearse` first" in desk.run("push").sentence
    desk.bundle()
    desk.bundle(yes=2, rehearsed=False)
    assert "another bundle was rehearsed" in desk.run("push").sentence
    desk.bundle()
    desk.write("kernel/infer.py", KERNEL + "# one more line\n")
    assert "kernel/infer.py: changed since the rehearsal" in desk.run("push").sentence
    whole = desk.bundle()
    desk.write("kaggle/receipts/rehearsal.json", json.dumps({"bundle_hash": whole, "passed": False}))
    assert "did not pass" in desk.run("push").sentence
    desk.bundle()
    desk.write("kaggle/bundle/weights/rule.json", '{"yes": 3}')
    assert "weights/rule.json: changed since the folder was made" in desk.run("push").sentence
    desk.bundle()
    desk.write("kaggle/receipts/dataset.json", "half a rec")
    assert "is no receipt of ours" in desk.run("push").sentence
    assert desk.calls() == []


# --- what Kaggle does with a push ---


def pushed(desk, **faults: int):
    """A push of an uploaded bundle with these faults of Kaggle's; gives what was said."""
    desk.uploaded(desk.bundle())
    desk.store.faults.update(faults)
    return desk.run("push")


def test_a_push_refused_with_exit_status_0_is_a_failure(desk):
    said = pushed(desk, push_refused=1)
    assert "refuses the push: Maximum batch GPU session count of 2 reached." in said.sentence
    assert desk.receipt("kernel") == {}


def test_a_source_that_was_left_out_with_exit_status_0_is_a_failure(desk):
    desk.competition.rules_accepted = False
    said = pushed(desk)
    assert "without ['even-numbers']" in said.sentence
    assert desk.receipt("kernel") == {}


def test_too_many_requests_ask_to_wait(desk):
    assert "(429): wait some minutes" in pushed(desk, SaveKernel_429=1).sentence
    assert desk.receipt("kernel") == {}


def test_a_machine_given_in_silence_is_found_by_reading_back(desk):
    desk.write(
        "configs/baseline.yaml",
        (desk.root / "configs/baseline.yaml").read_text().replace("cpu", "NvidiaH100"),
    )
    said = pushed(desk, other_machine=1)
    assert 'Kaggle has machine_shape="NvidiaTeslaT4", "NvidiaH100" was sent' in said.sentence
    assert "set kaggle.machine_shape" in said.sentence
    assert desk.receipt("kernel")["state"] == "failed"


def test_internet_switched_on_is_found_by_reading_back(desk):
    assert "enable_internet=true, false was sent" in pushed(desk, internet_on=1).sentence


def test_a_kernel_that_fails_is_told_with_the_end_of_its_log(desk):
    desk.write("kernel/infer.py", KERNEL + "raise RuntimeError('the weights are of another model')\n")
    said = pushed(desk)
    assert "version 1 failed: Notebook Threw Exception; its log is in" in said.sentence
    assert "  | RuntimeError: the weights are of another model" in said.out
    assert desk.receipt("kernel")["state"] == "failed"
    assert "run `make push` first" in desk.run("send", "kaggle.code_competition=true").sentence


def test_a_page_in_place_of_the_output_is_no_submission_and_the_next_call_only_fetches(desk):
    """The client saves Kaggle's refusal as submission.csv and exits with 0. (On the older mounts.)"""
    desk.store.layout = "old"
    desk.pushed()
    desk.store.faults["output_403"] = 1
    assert "submission.csv: is a web page" in desk.run("push").sentence
    assert desk.receipt("kernel")["state"] == "pushed"
    desk.calls()
    assert desk.run("push").code == 0
    assert desk.receipt("kernel")["state"] == "checked"
    assert "SaveKernel" not in desk.calls()


BLIND = """\
summary = {"rows": 5, "images": 5, "predicted": 0, "prior": {"image not found": 5}, "fallback": None}
(working / "summary.json").write_text(json.dumps(summary))
(working / "cache.bin").write_text("large")
"""


def test_only_wanted_files_come_no_name_leads_out_and_a_run_that_saw_no_image_is_said_loudly(desk):
    desk.write("kernel/infer.py", KERNEL + BLIND)
    desk.pushed()
    desk.store.faults["name_leads_out"] = 9
    said = desk.run("push")
    assert said.code == 0, said.err
    output = desk.root / "kaggle" / "output"
    files = ["even-numbers-infer.log", "submission.csv", "summary.json"]
    assert sorted(path.name for path in output.iterdir()) == files
    assert not (output.parent / "submission.csv").exists()
    assert "WARNING: 5 of 5 rows of its run hold the prior (5 image not found)" in said.out
    assert desk.receipt("kernel")["on_prior"]["rows"] == 5


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("runs/a.b/fold0/model.safetensors", True),
        ("runs/a.b/..notes", True),
        ("runs/a.b/../../evil", False),
        ("runs/a.b/x/..", False),
        ("runs/a.b/x\n/../evil", False),
        ("../runs/a.b/x", False),
        ("/runs/a.b/x", False),
        ("runs/axb/x", False),
    ],
)
def test_a_pattern_matches_whole_paths_below_the_folder(name, wanted):
    assert bool(re.compile(inside(rf"runs/{re.escape('a.b')}/.+")).search(name)) is wanted
    assert not re.search(inside(None), name)


def test_two_pushes_at_once_are_one(desk):
    """The second says who is at work, and sends nothing."""
    ours, theirs = FORK.Pipe()

    def hold() -> None:
        with alone(desk.root / "kaggle" / "kernel"):
            theirs.send("held")
            theirs.recv()

    process = FORK.Process(target=hold)
    process.start()
    assert ours.recv() == "held"
    assert f"process {process.pid} " in desk.run("push").sentence
    process.kill()
    process.join()
    assert desk.calls() == []


def test_a_run_that_writes_no_submission_is_no_success(desk):
    desk.write("kernel/infer.py", KERNEL.replace("submission.csv", "answers.csv"))
    desk.pushed()
    assert "wrote no submission.csv; Kaggle would say `Submission CSV Not Found`" in desk.run("push").sentence


def test_a_run_of_an_older_bundle_is_no_success(desk):
    desk.write("kernel/infer.py", KERNEL.replace('["bundle_hash"]', '["bundle_hash"][::-1]'))
    desk.pushed()
    assert "does not name bundle" in desk.run("push").sentence
    assert desk.receipt("kernel")["state"] == "pushed"
