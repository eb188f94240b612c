"""Jobs side by side: what is killed begins again, what fails ends the rest, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from conftest import ROOT
from torch.utils.data import Dataset

from src.config import UserError
from src.configfile import load_config
from src.data.workers import create_loader
from src.training.worker_pool import run_in_parallel


@pytest.fixture
def config(project):
    """`config("runtime.jobs=2", ...)` is the small competition's with these changes."""
    return lambda *overrides: load_config(project / "configs/baseline.yaml", list(overrides))


def run_python(script: str, project: Path) -> subprocess.CompletedProcess[str]:
    env = processes.environment(PYTHONPATH=str(ROOT))
    return processes.run([sys.executable, "-c", script], cwd=project, env=env, timeout=120)


def die_at_one(number, device, report):
    """A job that its worker does not survive."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_worker_that_dies_too_often_is_said_in_a_sentence(config, retries):
    with pytest.raises(UserError, match="a process was killed"):
        run_in_parallel(
            die_at_one, [(0,), (1,)], config("runtime.jobs=2", f"runtime.retries={retries}"), "test", 2
        )


class Deadly(Dataset):
    """Ten numbers; whoever reads the fifth is killed, as often as `lives` has files."""

    def __init__(self, lives: Path):
        self.lives = lives

    def __getitem__(self, number: int) -> torch.Tensor:
        if number == 5 and (left := list(self.lives.iterdir())):
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(number)


def read_all(lives: Path, result: Path, device, report) -> None:
    """A job whose images are loaded by a process of its own."""
    loader = create_loader(Deadly(lives), range(10), workers=1, pin_memory=False)
    result.write_text(" ".join(str(int(number)) for number in loader))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_whose_loader_is_killed_begins_again(config, tmp_path, capsys, jobs):
    lives, results = tmp_path / "lives", [tmp_path / "first", tmp_path / "second"]
    lives.mkdir()
    (lives / "one").touch()
    run_in_parallel(read_all, [(lives, path) for path in results], config(f"runtime.jobs={jobs}"), "test", 2)
    assert [path.read_text() for path in results] == ["0 1 2 3 4 5 6 7 8 9"] * 2
    assert not list(lives.iterdir())
    assert "a process was killed (out of memory?)" in "".join(capsys.readouterr())


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_loader_that_is_killed_too_often_is_said_in_a_sentence(config, tmp_path, jobs):
    for number in range(9):
        (tmp_path / str(number)).touch()
    changed = config(f"runtime.jobs={jobs}", "runtime.retries=1")
    with pytest.raises(UserError, match=r"a process was killed .* lower runtime.jobs, runtime.workers"):
        run_in_parallel(read_all, [(tmp_path, tmp_path.parent / "result")] * 2, changed, "test", 2)


KILLED_AT_ONCE = """
import os, signal, time
from src.data.workers import create_loader

os.register_at_fork(after_in_child=lambda: time.sleep(0.5))
batches = iter(create_loader(list(range(10)), range(10), workers=1, pin_memory=False))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_loader_ends_with_its_process_however_soon_that_is_killed(project):
    """Whoever reads the stage's output to its end (`| tee log`) would wait for the loader."""
    done = run_python(KILLED_AT_ONCE, project)  # to the end of its output
    assert done.returncode == -signal.SIGKILL


def fail_or_talk(number, device, report):
    """One fails at once; the other has more to say than a pipe holds."""
    if number == 0:
        raise ValueError("what happened")
    while True:
        report(line="x" * 1000)


def test_an_error_ends_the_others_whatever_they_have_to_say(config):
    with pytest.raises(ValueError, match="what happened"):
        run_in_parallel(fail_or_talk, [(0,), (1,)], config("runtime.jobs=2"), "test", 2)


def test_a_jobs_own_runtime_error_is_not_tried_again(config, tmp_path):
    def fail(device, report):
        (tmp_path / "tries").open("a").write("once ")
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        run_in_parallel(fail, [()], config(), "test", 1)
    assert (tmp_path / "tries").read_text() == "once "


TWO_THREADS_EACH = """
import torch
from src.configfile import load_config
from src.training.worker_pool import run_in_parallel

def job(device, report):
    torch.rand(10**6).exp().sum()
    report(line=f"{torch.get_num_threads()} threads", last=True)

torch.set_num_threads(2)
torch.rand(10**6).exp().sum()  # OpenMP starts its threads, which a fork does not take along
config = load_config("configs/baseline.yaml", ["runtime.jobs=2", "runtime.threads=2"])
run_in_parallel(job, [(), ()], config, "test", 2)
"""


def test_jobs_may_use_threads_after_their_parent_has(project):
    """GCC's OpenMP waits for ever, in a forked process, for the threads of its parent."""
    done = run_python(TWO_THREADS_EACH, project)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("2 threads") == 2
