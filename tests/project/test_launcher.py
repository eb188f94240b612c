"""torchrun itself: stage 02 on two devices, and one model on two hosts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import processes
import pytest
import torch
from competitions import prepare_competition
from conftest import ROOT
from safetensors.torch import load_file

HERE = Path(__file__).parent
# Where a ReLU's input is nearly zero, or a gradient is a last digit to Adam, rounding makes a step.
STEADY = ("model.backbone=test_efficientnet", "train.optimizer=sgd", "train.lr=0.01")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def python(*words: str, count: int = 1, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run Python, or so many of it by torchrun."""
    launcher = [] if count == 1 else [*TORCHRUN, str(count)]
    env = processes.environment(PYTHONPATH=str(HERE), GLOO_SOCKET_IFNAME="lo")
    return processes.run([sys.executable, *launcher, *words], cwd=cwd, env=env, timeout=300)


@pytest.fixture(scope="module")
def competition(tmp_path_factory) -> Path:
    """A small competition of classes, prepared: its config. A fold learns from batches of 16, 16 and 4."""
    return prepare_competition(tmp_path_factory.mktemp("made"), "multiclass")


@pytest.fixture
def hosts():
    """Two hosts with a cable between them: their names, their addresses, their network cards. Linux's network
    namespaces, where root may make them."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (iproute2) to make two hosts of one machine")
    mark = f"nn{os.getpid() % 10000}"
    names, cards = [f"{mark}a", f"{mark}b"], [f"{mark}x", f"{mark}y"]
    addresses = ["10.77.0.1", "10.77.0.2"]
    steps = [f"link add {cards[0]} type veth peer name {cards[1]}"]
    for name, card, address in zip(names, cards, addresses, strict=True):
        steps += [f"netns add {name}", f"link set {card} netns {name}"]
        steps += [f"-n {name} address add {address}/24 dev {card}", f"-n {name} link set {card} up"]
        steps += [f"-n {name} link set lo up"]
    try:
        for step in steps:
            done = processes.run(["ip", *step.split()])
            if done.returncode != 0:
                pytest.skip(f"no network namespaces may be made here: ip {step}: {done.stderr.strip()}")
        yield list(zip(names, addresses, cards, strict=True))
    finally:
        for name in names:  # the cable goes with them
            processes.run(["ip", "netns", "delete", name])


def test_two_hosts_give_the_weights_of_one(competition, tmp_path, hosts):
    script, alone, both = HERE / "several_devices.py", tmp_path / "alone", tmp_path / "both"
    done = python(script, competition, alone, *STEADY)
    assert done.returncode == 0, done.stdout + done.stderr
    launcher = f"-m torch.distributed.run --nnodes 2 --master-addr {hosts[0][1]} --master-port 29511".split()
    running = []
    for rank, (name, _, card) in enumerate(hosts):
        words = *launcher, "--node-rank", rank, script, competition, both, *STEADY
        command = ["ip", "netns", "exec", name, sys.executable, *words]
        env = processes.environment(PYTHONPATH=str(HERE), GLOO_SOCKET_IFNAME=card)
        running.append(processes.start(command, env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    expected, found = load_file(alone), load_file(both)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


def test_stage_02_on_two_devices_writes_one_run_that_stage_03_takes(competition):
    config = ("--config", competition, "fold=0", *STEADY)
    alone = python("02_train.py", *config, "name=alone")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    done = python("02_train.py", *config, "name=both", count=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("both fold 0: accuracy") == 1  # the first process alone speaks
    runs = competition.parents[1] / "runs"
    histories = [pd.read_csv(runs / name / "fold0" / "history.csv") for name in ("alone", "both")]
    for column in ("train_loss", "grad_norm", "stop_loss"):  # in float32
        assert histories[1][column].tolist() == pytest.approx(histories[0][column].tolist(), rel=1e-3)
    assert {path.name for path in (runs / "alone" / "fold0").iterdir()} == {
        path.name for path in (runs / "both" / "fold0").iterdir()
    }
    again = python("02_train.py", *config, "name=both")
    assert "up to date" in again.stdout  # by one device what two have made
    assert python("03_oof_predict.py", *config, "name=both").returncode == 0
    assert len(pd.read_parquet(runs / "both" / "fold0" / "oof.parquet")) == 40
