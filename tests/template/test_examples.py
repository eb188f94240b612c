"""Every example in a help text, message, comment, Makefile or page works: keys, values, targets and files."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from conftest import PROJECT, ROOT, source_files

HOLE = "\ufffc"  # what stands for a value that a message fills in
FILES = (".py", ".csv", ".json", ".yaml", ".parquet", ".md", ".txt", ".png", ".safetensors")
SOURCES = [*(ROOT / PROJECT / "src").rglob("*.py"), ROOT / "demo" / "run.py"]
OPTION = re.compile(r'add_argument\(\s*"(--[\w-]+)"')
OPTIONS = {option for path in SOURCES for option in OPTION.findall(path.read_text(encoding="utf-8"))} | {"-k"}
VALUE = r"\[[^\]]*\]|\{[^}]*\}|[^\s`\"'|;:()<>\[{]"
MAKEFILES = {folder: (folder / "Makefile").read_text(encoding="utf-8") for folder in (ROOT, ROOT / PROJECT)}

CHECK = """
import json, sys
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from src.config import Config
from src.configfile import FREE, section_of

def section_with(key):
    section, *path = Config, *key.split(".")
    for name in path[:-1]:
        field = section.model_fields.get(name) if section else None
        section = section_of(field.annotation) if field else None
    return section if section and path[-1] in section.model_fields else None

wrong = []
for key, value, where in json.load(sys.stdin):
    section, name = section_with(key), key.rpartition(".")[2]
    if section is None:
        wrong += [] if key.startswith(FREE) else [f"{where}: no key {key}"]
    elif value is not None:
        try:
            section.model_validate(OmegaConf.to_container(OmegaConf.from_dotlist([f"{name}={value}"])))
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            wrong.append(f"{where}: {key}={value}: {error}")
        except ValidationError as error:  # what is wrong with the section as a whole has no key, or another
            found = [found["msg"] for found in error.errors() if found["loc"][:1] == (name,)]
            wrong += [f"{where}: {key}={value}: {why}" for why in found]
print(json.dumps(wrong))
"""


def in_python(path: Path) -> Iterator[tuple[int, str]]:
    """A Python file's comments and texts with their lines, docstrings and messages among them."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    tree = ast.parse(source)
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def texts() -> Iterator[tuple[str, str]]:
    """(where, text) of all that a user may read and copy."""
    for path in source_files():
        own = path.parts[1:] if path.parts[0] == PROJECT else path.parts
        if own[0] in ("tests", "benchmarks") or path.name in ("LICENSE", ".gitkeep"):
            continue
        if path.suffix == ".py":
            yield from ((f"{path}:{line}", text) for line, text in in_python(ROOT / path))
        elif path.suffix in (".md", ".yaml", "") and path.name != ".gitignore":
            yield str(path), (ROOT / path).read_text(encoding="utf-8")


TEXTS = list(texts())


@pytest.fixture(scope="module")
def sections() -> set[str]:
    code = "from src.config import Config, Section; print(*Config.model_fields)"
    done = processes.run([sys.executable, "-c", code], cwd=ROOT / PROJECT, check=True)
    return set(done.stdout.split())


def examples(sections: set[str]) -> Iterator[tuple[str, str | None, str]]:
    """(key, value, where) of `section.key=value` and of `section.key` alone; None for a value left open."""
    start = rf"(?<![\w./{{$*-])((?:{'|'.join(sorted(sections))})(?:\.[a-z_0-9]+)+)"
    for where, text in TEXTS:
        for key, several in re.findall(rf"{start}=((?:(?!,[a-z_.]+=)(?:{VALUE}))*)", text):
            for value in re.split(r",(?![^\[{]*[\]}])", several.rstrip(".,")):  # `make sweep` tries each
                left_open = not value or HOLE in value or "..." in value or "…" in value
                yield key, None if left_open else value, where
        for key in re.findall(rf"`{start}(?:\.\*)?`", text):
            if not key.endswith(FILES):
                yield key, None, where


def test_every_key_and_value_of_an_example_is_taken(sections):
    found = sorted(set(examples(sections)), key=str)
    assert len(found) > 200
    done = processes.run([sys.executable, "-c", CHECK], cwd=ROOT / PROJECT, input=json.dumps(found))
    assert done.returncode == 0, done.stderr
    assert "\n".join(json.loads(done.stdout)) == ""


def commands() -> Iterator[tuple[str, str]]:
    """(command, where): every `make ...` in a code span, and in an indented line of a page or a docstring."""
    for where, text in TEXTS:
        spans = r"```.*?```|`[^`\n]+`" + (r"|^ {4,}\w.*$" if ".md" in where or ".py" in where else "")
        for line in "\n".join(re.findall(spans, text, flags=re.DOTALL | re.MULTILINE)).splitlines():
            found = re.match(r"[ `]*(make [^`#|;\\]+?)(?: {2,}.*)?[`#|;\\]", f"{line}`")
            if found:
                yield found[1], where


def wrong_words(command: str, sections: set[str]) -> Iterator[str]:
    """What of a `make ...` is no target, no variable of a Makefile, or no argument that ARGS may carry."""
    makefiles = "".join(MAKEFILES.values())
    for word in shlex.split(command)[1:]:
        if re.fullmatch(r"-j\d*", word):
            continue
        name, is_set, value = word.partition("=")
        if not is_set:
            if not re.search(rf"^{re.escape(name)}:", makefiles, flags=re.MULTILINE):
                yield f"{name} is no target"
        elif not re.search(rf"\$\(?{re.escape(name)}\b", makefiles):
            yield f"{name} is no variable of a Makefile"
        elif name == "ARGS":
            first = value.split()[0]
            if first not in OPTIONS and re.split("[.=]", first)[0] not in sections:
                yield f"{first} is no key and no option of a command"


def test_every_make_command_names_targets_variables_and_keys_that_are_there(sections):
    found = [(command.replace(HOLE, ""), where) for command, where in commands() if "<" not in command]
    assert len(found) > 100
    wrong = {
        f"{where}: {command}: {why}" for command, where in found for why in wrong_words(command, sections)
    }
    assert "\n".join(sorted(wrong)) == ""


def files_named() -> Iterator[tuple[str, str]]:
    """(path, where): of every file of the template or of a project that a text names."""
    folders = r"(?:src|tests|docs|configs|kernel|demo|hooks|benchmarks|requirements|\.ci)"
    endings = r"(?:py|md|yaml|txt|in|lock)"
    for where, text in TEXTS:
        for name in re.findall(rf"(?<![\w./>-]){folders}/[\w./-]+\.{endings}\b", text):
            yield name, where
        for name in re.findall(r"(?<![\w./])test_\w+\.py\b", text):
            folders_of_tests = (ROOT / "tests" / kind for kind in ("project", "template"))
            place = next((folder for folder in folders_of_tests if (folder / name).exists()), ROOT / "tests")
            yield (place / name).relative_to(ROOT).as_posix(), where


def test_every_file_that_a_text_names_is_there():
    named = list(files_named())
    assert len(named) > 100
    missing = {
        f"{where}: {name}"
        for name, where in named
        if not any((folder / name).exists() for folder in MAKEFILES)
    }
    assert "\n".join(sorted(missing)) == ""
