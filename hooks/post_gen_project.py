"""Post-generation hook: remove unneeded files, initialise a git repository, print the next steps."""

import json
import shutil
import subprocess
from pathlib import Path

ANSWERS = json.loads(
    r"""
<< cookiecutter | tojson >>
"""
)


def drop_what_is_not_needed():
    """Remove the licence file if the project has no licence."""
    if ANSWERS["license"] == "none":
        Path("LICENSE").unlink()


def start_git():
    """Run `git init`, unless git is missing or the project already lies in a repository. A failure is
    ignored."""
    if shutil.which("git") is None:
        return
    inside = subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], capture_output=True, check=False)
    if inside.returncode != 0:
        # `-c` instead of `init -b`: git before 2.28 ignores the former and fails on the latter.
        command = ["git", "-c", "init.defaultBranch=main", "init", "--quiet"]
        subprocess.run(command, capture_output=True, check=False)


def say_what_is_next():
    """Print the commands to run next."""
    print(
        f"\n{ANSWERS['comp_name']} is ready. Next:\n"
        f"  cd {ANSWERS['comp_name']}\n"
        "  make setup          (once: .venv with the pinned requirements)\n"
        "  make data           (Kaggle's files into data/raw; or put them there by hand)\n"
        "  make sniff          (which column, folder and task is which)\n"
        "  make all            (all six stages, to a checked submission)\n"
    )


if __name__ == "__main__":
    drop_what_is_not_needed()
    start_git()
    say_what_is_next()
