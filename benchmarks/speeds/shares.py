"""What the demo's stages take by the clock, and how much of that is neither training nor inference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from speeds.rounds import ROOT, covered

CLOCKED = Path(__file__).with_name("clocked.py")
MADE = ("data/cache", "data/folds.csv", "data/folds.stamp.json", "runs", "stacks", "submissions")


def measure(rounds: int) -> dict[str, Any]:
    """Bake the demo's project, and run its stages anew each round."""
    sys.path.insert(0, str(ROOT / "demo"))
    import run as demo

    demo.BUILD = ROOT / "build" / "shares"
    project = demo.BUILD / "digits-demo"
    shutil.rmtree(demo.BUILD, ignore_errors=True)
    demo.bake(project)
    demo.run([sys.executable, "tests/digits.py", "data/raw", "--solution", "../solution.csv"], project)
    found = []
    for number in range(rounds):
        for made in MADE:
            path = project / made
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        found.append(clocked(project, demo))
        print(f"stages, round {number + 1} of {rounds}: {found[-1]}", flush=True)
    return {"stages": found}


def clocked(project: Path, demo: Any) -> list[dict[str, Any]]:
    """Wall seconds of each stage, until its first batch, and of training or inference: of moments in which at
    least one of its processes does either. The first entry is the whole command, its start-up included."""
    clock = project / "clock.jsonl"
    clock.unlink(missing_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "CLOCK": str(clock), "NO_ALBUMENTATIONS_UPDATE": "1"}
    command = demo.command(f"{sys.executable} {CLOCKED}")
    start = time.time()
    subprocess.run(command, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)
    whole = {"kind": "all", "first": start, "last": time.time()}
    lines = [json.loads(line) for line in clock.read_text(encoding="utf-8").splitlines()]
    work = sorted((line["first"], line["last"]) for line in lines if line["kind"].startswith("src."))
    stages = [line for line in lines if not line["kind"].startswith("src.")]
    return [measured(stage, work) for stage in (whole, *stages)]


def measured(stage: dict[str, Any], work: list[tuple[float, float]]) -> dict[str, Any]:
    """One stage, by the intervals of work that lie in it."""
    begun, ended = stage["first"], stage["last"]
    inside = [(first, last) for first, last in work if begun <= first < ended]
    first = inside[0][0] - begun if inside else None
    return {"target": stage["kind"], "seconds": ended - begun, "first": first, "busy": covered(inside)}
