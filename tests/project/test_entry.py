"""The way into every command: what goes wrong ends in a sentence, with its report in a file."""

from __future__ import annotations

import ast
import importlib
import io
import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from conftest import ROOT, called

import src.entry
from src.config import UserError
from src.configfile import load_config
from src.entry import plain_errors
from src.training.worker_pool import run_in_parallel

SCRIPTS = sorted(ROOT.glob("0?_*.py"))
MODULES = sorted(
    path for path in (ROOT / "src").rglob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8")
)
BYTES = {"encoding": None, "errors": None, "timeout": 60}
SHOW = [sys.executable, str(ROOT / "01_folds.py"), "--show"]


@pytest.fixture
def logs(tmp_path, monkeypatch) -> Path:
    """Where reports go."""
    monkeypatch.setattr(src.entry, "_PROJECT", tmp_path)
    monkeypatch.delenv(src.entry.SHOW, raising=False)
    return tmp_path / "logs"


def ended(error: BaseException, project: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """What a command that raises this error says and ends with."""

    @plain_errors()
    def main() -> None:
        print("begun")
        raise error

    return called(main, project, ["command", "train.epochs=3"])


def test_an_error_of_ours_is_one_sentence_and_a_report(logs):
    done = ended(KeyError("what happened"))
    (report,) = logs.iterdir()
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "begun\n", 1)
    assert "what happened" in done.stderr
    assert "command train.epochs=3" in done.stderr
    assert str(report) in done.stderr
    assert "Traceback" not in done.stderr
    text = report.read_text(encoding="utf-8")
    assert "Traceback" in text
    assert __file__ in text
    assert "torch " in text


def test_a_developer_may_see_the_traceback(logs, monkeypatch):
    monkeypatch.setenv(src.entry.SHOW, "1")
    done = ended(KeyError("what happened"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert not logs.exists()


def test_a_report_that_cannot_be_written_is_printed(logs):
    logs.write_text("a file in its place")
    done = ended(KeyError("what happened"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert str(logs) in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("mend this"), 2), (MemoryError("4 GiB"), 2), (KeyboardInterrupt(), 130), (SystemExit(7), 7)],
)
def test_the_exit_status_says_who_can_mend_it(logs, error, status):
    done = ended(error)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert not logs.exists()


class Awkward(Exception):
    """An error that cannot be built from what it holds, as some libraries have."""

    def __init__(self, code, detail):
        super().__init__(f"{code} {detail}")


def fail_awkwardly(number, device, report):
    raise Awkward(7, "of nine")


def test_an_error_in_a_worker_is_reported_once_with_the_workers_traceback(logs, project):
    """An error that does not unpickle would count as a killed worker, and the job would begin again."""
    config = load_config(project / "configs/baseline.yaml", ["runtime.jobs=2"])
    main = plain_errors()(lambda: run_in_parallel(fail_awkwardly, [(0,), (1,)], config, "test", 2))
    done = called(main, project, ["command"])
    assert done.returncode == 1
    assert "7 of nine" in done.stderr
    assert "killed" not in done.stdout
    assert "fail_awkwardly" in next(logs.iterdir()).read_text(encoding="utf-8")


class Lost(io.StringIO):
    """A log whose disk is full from the second line on."""

    def write(self, text: str) -> int:
        if "line 2" in text:
            raise OSError(28, "No space left on device")
        return super().write(text)


def talk(number, device, report):
    for line in range(3000):
        report(line=f"line {line}" + "x" * 100, last=True)


def test_workers_end_where_their_reports_cannot_be_shown(project, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Lost())
    config = load_config(project / "configs/baseline.yaml", ["runtime.jobs=2"])
    with pytest.raises(OSError, match="No space left"):
        run_in_parallel(talk, [(0,), (1,)], config, "test", 2)


@pytest.mark.parametrize("path", [*SCRIPTS, *MODULES], ids=lambda path: path.stem)
def test_every_command_has_this_way_in(path):
    """Its `main` is decorated, or is the one of `src.cli`, which is."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    if own:
        assert [ast.unparse(decorator) for decorator in own[0].decorator_list] == ["plain_errors()"]
    else:
        assert "from src.cli import main" in map(ast.unparse, tree.body)


@pytest.mark.parametrize("name", ["ablate", "sweep", "leaderboard", "all"])
def test_a_wrong_argument_ends_as_argparse_has_it(name):
    main = importlib.import_module(f"src.commands.{name}").main
    assert called(main, ROOT, [name, "--nonsense"]).returncode == 2


def show(options: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`01_folds.py --show` in a shell."""
    command = f'"$0" "$1" --show {options}; echo "status $?" >&2'
    words = ["sh", "-c", command, *SHOW[:2]]
    return processes.run(words, cwd=ROOT, env=processes.environment(**environment), **BYTES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("flag", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_full_output_is_one_sentence(flag):
    done = show("> /dev/full", PYTHONUNBUFFERED=flag)
    sentence, status = done.stderr.decode().splitlines()
    assert sentence.startswith("error: ")
    assert status == "status 2"


@pytest.mark.parametrize("flag", ["", "1"], ids=["buffered", "unbuffered"])
def test_nobody_reads_the_output(flag):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        streams = {"capture_output": False, "stdout": closed, "stderr": subprocess.PIPE}
        environment = processes.environment(PYTHONUNBUFFERED=flag)
        done = processes.run(SHOW, cwd=ROOT, env=environment, **streams, **BYTES)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_closed_output_takes_all():
    assert show(">&-").stderr == b"status 0\n"


LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


ascii_path = pytest.mark.skipif(
    not sys.prefix.isascii(),
    reason="without UTF-8 mode, which make sets, Python cannot load compiled packages from such a path",
)


@ascii_path
@pytest.mark.parametrize(
    ("encoding", "shown"), [("latin-1", b"P\xeaches \\u65e5"), ("ascii", b"P\\xeaches \\u65e5")]
)
def test_a_terminal_that_is_not_utf8_shows_what_it_can(encoding, shown):
    done = show("'competition.title=Pêches 日'", PYTHONIOENCODING=encoding, **LATIN)
    assert shown in done.stdout
    assert done.stderr == b"status 0\n"


@ascii_path
def test_file_names_are_utf8_whatever_the_locale(tmp_path):
    """In the C locale Python would look for other bytes than the table's."""
    script = tmp_path / "script.py"
    (tmp_path / "é.png").touch()
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom src.entry import plain_errors\n"
        "with plain_errors():\n    print(Path('é.png').exists())\n",
        encoding="utf-8",
    )
    environment = processes.environment(**LATIN, PYTHONPATH=str(ROOT))
    done = processes.run([sys.executable, script], cwd=tmp_path, env=environment, **BYTES)
    assert done.stdout == b"True\n", done.stderr
