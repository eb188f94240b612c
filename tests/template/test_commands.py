"""READMEs, hook and CI name the same commands; nothing of the caller's machine reaches the tests."""

import ast
import os
import re
import runpy
import sys
from pathlib import Path

import processes
import pytest
import yaml
from conftest import PROJECT, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
STARTERS = {
    *(
        "subprocess.run",
        "subprocess.Popen",
        "subprocess.call",
        "subprocess.check_call",
        "subprocess.check_output",
    ),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
}


def two_commands() -> list[str]:
    """The commands in the block of the README's "See it run", without their comments."""
    block = README.split("## See it run")[1].split("```")[1]
    return [line.partition("#")[0].strip() for line in block.strip().splitlines()]


def test_the_readmes_test_command_is_what_ci_runs_and_nothing_more():
    script = [
        line
        for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith(("#", "set ", "cd "))
    ]
    assert script == ["exec make test"]
    assert two_commands() == ["make demo", "make test"]


def test_the_hook_and_both_readmes_say_the_same_first_minute(bake, capfd):
    project = bake()
    hook = capfd.readouterr().out.split("Next:")[1]
    own = (project / "README.md").read_text(encoding="utf-8").split("```")[1]
    template = README.split("in the new folder:")[1].split("\n\n")[0]
    first = [re.findall(r"make ([a-z]+)", text) for text in (hook, own, template)]
    assert first == [["setup", "data", "sniff", "all"]] * 3
    assert all("data/raw" in text and "by hand" in text for text in (hook, own, template))


def test_a_test_starts_other_programs_in_the_clean_environment_alone():
    tests = [*(ROOT / "tests").rglob("*.py")]
    started = [
        f"{path.relative_to(ROOT)}:{node.lineno}: use tests/processes.py"
        for path in tests
        if path.name != "processes.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in STARTERS
    ]
    assert len(tests) > 100
    assert started == []


def test_nothing_of_an_outer_make_shell_or_account_reaches_a_nested_tool(tmp_path, monkeypatch):
    outer = {
        **{"MAKEFLAGS": "-j8 -- ARGS=-k", "MAKELEVEL": "1", "ARGS": "-k hooks", "SUBMIT": "1"},
        **{
            "PYTHONIOENCODING": "latin-1",
            "PYTHONUTF8": "0",
            "LANG": "en_US.ISO-8859-1",
            "PYTEST_ADDOPTS": "-x",
        },
        **{"KAGGLE_KEY": "secret", "WANDB_API_KEY": "secret", "WORLD_SIZE": "2"},
        **{"HOME": "/proc", "TMPDIR": str(tmp_path / "missing")},
    }
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    recipe = '\t@echo "[$(MAKEFLAGS)] [$(ARGS)] [$(MAKELEVEL)] ✓"'
    (tmp_path / "Makefile").write_text(f"all:\n{recipe}\n", encoding="utf-8")
    assert processes.run(["make"], cwd=tmp_path).stdout == "[] [] [0] ✓\n"
    inner = processes.environment()
    assert {name for name in outer if name in inner and inner[name] == outer[name]} == set()
    assert os.access(inner["HOME"], os.W_OK)


def test_ci_tries_the_demo_under_every_condition_and_the_tests_under_known_ones():
    names = runpy.run_path(str(ROOT / ".ci" / "conditions"))["NAMES"]
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))["jobs"][
        "conditions"
    ]
    matrix = job["strategy"]["matrix"]
    assert (matrix["command"], matrix["condition"]) == (["make demo"], list(names))
    for entry in matrix["include"]:
        assert entry["command"] in two_commands()
        assert set(entry["condition"].split("+")) < set(names)


def test_what_a_test_starts_hears_ctrl_c_where_its_shell_does_not():
    """As under `make test &` in a script, whose processes ignore it from birth."""
    code = (
        f"import sys; sys.path.append({str(Path(processes.__file__).parent)!r})\n"
        "import signal, processes; processes.isolate()\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    deaf = ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable, code]
    assert processes.run(deaf).stdout == "True\n"


@pytest.fixture(params=[ROOT, ROOT / PROJECT], ids=["template", "project"])
def makefile(request, tmp_path) -> Path:
    """A copy of a Makefile in a folder with a blank and an umlaut; two more targets show variables."""
    folder = tmp_path / "für mich"
    folder.mkdir()
    shown = '"[$$XDG_CACHE_HOME] [$${TMPDIR-none}] [$$PYTHONUTF8]"'
    text = (request.param / "Makefile").read_text(encoding="utf-8")
    (folder / "Makefile").write_text(
        f"{text}\nshow:\n\t@echo {shown}\npy:\n\t@echo $(PY)\n", encoding="utf-8"
    )
    return folder


@pytest.mark.parametrize("home", [None, "/proc", "a file"])
def test_make_needs_neither_a_home_nor_the_temporary_folder(makefile, tmp_path, home):
    (tmp_path / "a file").touch()
    changed = processes.environment(TMPDIR=str(tmp_path / "missing"), PYTHONUTF8="0")
    for name in ("HOME", "XDG_CACHE_HOME"):
        changed.pop(name, None)
    if home is not None:
        changed["HOME"] = str(tmp_path / home)
    done = processes.run(["make", "show"], cwd=makefile, env=changed)
    assert (done.stdout, done.stderr) == (f"[{makefile}/.venv/cache] [none] [1]\n", "")


def test_make_keeps_a_home_and_a_temporary_folder_that_are_there(makefile, tmp_path):
    changed = processes.environment(TMPDIR=str(tmp_path), HOME=str(tmp_path))
    changed.pop("XDG_CACHE_HOME", None)
    assert processes.run(["make", "show"], cwd=makefile, env=changed).stdout == f"[] [{tmp_path}] [1]\n"


def test_setup_passes_over_a_python_that_does_not_start(makefile, tmp_path):
    """As the stand-ins of pyenv do for versions that are installed and not chosen."""
    (tmp_path / "bin").mkdir()
    for name in ("python3.13", "python3.12"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\nexit 127\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "bin" / "python3.11").symlink_to(sys.executable)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    done = processes.run(["make", "py"], cwd=makefile, env=processes.environment(PATH=path))
    assert done.stdout == "python3.11\n"
