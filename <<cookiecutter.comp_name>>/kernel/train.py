"""The training kernel: stages 01 to 03 on Kaggle's GPUs; it resumes where the previous session stopped.

Reads the code dataset (found by its hash), the competition's files and the output of the previous session.
Writes runs/ and training.json (the finished stages, the hash of every file) below the working folder.

`make train-kernel` fills in JOB and pushes this file, which imports none of the project's own code. A session
stops itself before Kaggle would, because a run that Kaggle stops keeps no output.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = {}  # filled in by `make train-kernel`

INPUT = Path(os.environ.get("KAGGLE_INPUT_DIR", "/kaggle/input"))
WORKING = Path(os.environ.get("KAGGLE_WORKING_DIR", "/kaggle/working"))
STAGES = ("01_folds.py", "02_train.py", "03_oof_predict.py")
LAST_WORDS = 120  # seconds that a stopped stage has for writing its checkpoint


def main() -> None:
    """Run the stages until all are finished or the time is over, then write the report."""
    began = time.monotonic()
    check_machine(JOB["gpus"])
    code, raw = find_code(JOB["content"]), find_competition(JOB["competition"])
    project = lay_out(code, raw)
    folds = read_folds(project)
    done = []
    for stage in STAGES:
        left = JOB["hours"] * 3600 - (time.monotonic() - began)
        print(f"{stage}: {left / 3600:.2f} h left", flush=True)
        if not run_stage(project, stage, left):
            break
        done.append(stage)
        if read_folds(project) != folds:
            sys.exit("stage 01 decided other folds here than at home: no score could be compared")
    finished = len(done) == len(STAGES)
    write_report(done, finished)
    print(
        "finished" if finished else "stopped before the session's end; `make train-kernel` goes on",
        flush=True,
    )


def check_machine(gpus: int) -> None:
    """Exit at once if the machine has too few GPUs: Kaggle silently assigns another machine."""
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=120).stdout
    except (OSError, subprocess.TimeoutExpired):  # the program is missing, or the driver does not answer
        said = ""
    found = [line for line in said.splitlines() if line.startswith("GPU ")]
    print("\n".join(found) or "no GPU", flush=True)
    if len(found) < gpus:
        sys.exit(f"this machine has {len(found)} GPU(s), {gpus} were asked for: see kaggle.machine_shape")


def find_code(content: str) -> Path:
    """The attached dataset whose manifest has this hash; every file is checked against it."""
    for pattern in ("datasets/*/*/manifest.json", "*/manifest.json"):
        for path in sorted(INPUT.glob(pattern)):
            manifest = read_manifest(path)
            if manifest.get("bundle_hash") != content:
                continue
            wrong = [
                name for name, known in manifest["sha256"].items() if sha256(path.parent / name) != known
            ]
            if wrong:
                sys.exit(f"{path.parent / wrong[0]}: is not the file that was sent")
            print(f"code {content} in {path.parent}", flush=True)
            return path.parent
    sys.exit(f"no attached dataset holds the code {content}: it was not ready when this session began")


def read_manifest(path: Path) -> dict:
    """Read a manifest; empty if the file is not one of this project, since other datasets may be attached."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def find_competition(slug: str) -> Path:
    """The competition's folder, in either of Kaggle's layouts."""
    for path in (INPUT / "competitions" / slug, INPUT / slug):
        if path.is_dir():
            return path
    sys.exit(f"the files of competition {slug} are not attached; were its rules accepted?")


def lay_out(code: Path, raw: Path) -> Path:
    """Create the project in a temporary folder; its runs/ lies in the working folder, with the previous
    session's output."""
    project = Path(tempfile.mkdtemp(prefix="project-"))
    for entry in code.iterdir():
        if entry.is_dir():
            shutil.copytree(entry, project / entry.name)
        elif entry.name != "manifest.json":
            shutil.copy(entry, project / entry.name)
    (project / "data").mkdir(exist_ok=True)
    (project / "data" / "raw").symlink_to(raw, target_is_directory=True)
    (project / "configs").mkdir()
    config = project / "configs" / f"{JOB['name']}.yaml"
    config.write_text(json.dumps(JOB["config"]), encoding="utf-8")  # JSON is valid YAML
    runs = WORKING / "runs"
    if (project / "runs").exists():  # a teacher's models
        shutil.copytree(project / "runs", runs, dirs_exist_ok=True)
        shutil.rmtree(project / "runs")
    for pattern in ("notebooks/*/*/training.json", "*/training.json"):
        for report in sorted(INPUT.glob(pattern)):
            print(f"going on from {report.parent}", flush=True)
            shutil.copytree(report.parent / "runs", runs, dirs_exist_ok=True)
    runs.mkdir(parents=True, exist_ok=True)
    (project / "runs").symlink_to(runs, target_is_directory=True)
    return project


def read_folds(project: Path) -> bytes:
    """The content of folds.csv, to compare it before and after a stage."""
    return (project / "data" / "folds.csv").read_bytes()


def run_stage(project: Path, stage: str, left: float) -> bool:
    """Run a stage; return whether it finished within `left` seconds. If it fails, the session fails."""
    command = [sys.executable, stage, "--config", f"configs/{JOB['name']}.yaml", *JOB["overrides"]]
    environment = {**os.environ, "TRACEBACK": "1"}  # only the session's log is kept of an error
    process = subprocess.Popen(command, cwd=project, env=environment, start_new_session=True)
    try:
        code = process.wait(timeout=max(0.0, left))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(timeout=LAST_WORDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return False
    if code != 0:
        sys.exit(f"{stage} failed with exit status {code}; the lines above say why")
    return True


def write_report(done: list[str], finished: bool) -> None:
    """Write training.json, which the next session and `make train-kernel` read."""
    files = sorted(path for path in (WORKING / "runs").rglob("*") if path.is_file())
    hashes = {path.relative_to(WORKING).as_posix(): sha256(path) for path in files}
    report = {
        "name": JOB["name"],
        "content": JOB["content"],
        "done": done,
        "finished": finished,
        "sha256": hashes,
    }
    (WORKING / "training.json").write_text(json.dumps(report, indent=2), encoding="utf-8")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, or "missing"."""
    if not path.is_file():
        return "missing"
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


if __name__ == "__main__":
    main()
