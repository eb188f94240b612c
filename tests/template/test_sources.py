"""Nothing in the template's files trips the rendering, names one machine, or promises what is not there."""

import ast
import fnmatch
import io
import json
import re
import tokenize
from pathlib import Path

import pytest
from conftest import PROJECT, ROOT, source_files

SETTINGS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))

# pattern, what it is; `<<` may only open a variable, and Jinja's usual tags would be dead text
NOT_IN_A_RENDERED_FILE = [
    (r"<<-?\s*['\"]?[A-Za-z_]+['\"]?\s*$", "a heredoc; use printf"),
    (r"<<<", "a here-string; use a pipe"),
    (r"<<\s*:", "a YAML merge key; repeat the keys"),
    (r"\b\d+\s*<<\s*\w+", "a left shift; multiply by a power of two"),
    (
        r"<<(?! cookiecutter\.| holder )",
        "a << that is no variable of cookiecutter; the template reads it as one",
    ),
    (r"\{%|\{#", "Jinja's usual tag; the template's are <% and <#"),
]


def is_copied(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in SETTINGS["_copy_without_render"])


def project_files() -> list[str]:
    """Names relative to the project's folder, as cookiecutter matches them."""
    return [Path(*path.parts[1:]).as_posix() for path in source_files() if path.parts[0] == PROJECT]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


@pytest.mark.parametrize("name", [name for name in project_files() if not is_copied(name)])
def test_a_rendered_file_uses_the_delimiters_for_variables_only(name):
    for number, line in enumerate(text_of(ROOT / PROJECT / name).splitlines(), 1):
        for pattern, meaning in NOT_IN_A_RENDERED_FILE:
            assert not re.search(pattern, line), f"{name}:{number}: {line.strip()!r} holds {meaning}"


def test_the_hooks_use_the_delimiters_for_the_answers_only():
    for hook in sorted((ROOT / "hooks").glob("*.py")):
        text = text_of(hook).replace("<< cookiecutter | tojson >>", "")
        assert not re.search("<[<%]|<#", text), (
            f"{hook.name} holds a delimiter outside the one line for the answers"
        )


@pytest.mark.parametrize(
    "line", ["cat <<EOF", "cat <<-'EOF'", "bc <<< 1+1", "  <<: *base", "x = 1 << 3", "{% if a %}"]
)
def test_the_guard_would_catch(line):
    assert any(re.search(pattern, line) for pattern, _ in NOT_IN_A_RENDERED_FILE)


def test_every_python_file_of_the_project_is_copied_without_rendering():
    python = [name for name in project_files() if name.endswith(".py")]
    assert python
    assert [name for name in python if not is_copied(name)] == []


def test_only_single_files_are_copied_without_rendering():
    """Baked over a project, a copied folder is replaced as a whole, with all that was added to it."""
    folders = {parent.as_posix() for name in project_files() for parent in Path(name).parents if parent.name}
    assert [folder for folder in sorted(folders) if is_copied(folder)] == []


def test_cruft_finds_the_folder_it_insists_on():
    assert (ROOT / "{{cookiecutter.cruft}}" / ".gitkeep").is_file()


@pytest.mark.parametrize("path", source_files(), ids=str)
def test_no_file_names_a_package_index_or_a_folder_of_one_machine(path):
    text = text_of(ROOT / path)
    index = r"--(?:extra-)?(?:index|find-links)(?:-url)?[ =]|/simple\b|(?:pypi|pythonhosted)\.org|\bfile://"
    home = r"/(?:home|Users)/[a-z]\w*|(?<!\w)/root\b"
    for pattern in (index, home):
        found = re.search(pattern, text)
        assert found is None or path.name == "test_sources.py", f"{path}: {found[0]!r}"


def pins(path: Path) -> dict[str, set[str]]:
    """Package to versions: a lock for several Pythons may name two."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;#]+)", text_of(path), flags=re.MULTILINE):
        versions.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    return versions


def test_the_locks_hold_every_pin_and_agree():
    project, dev = ROOT / PROJECT / "requirements", ROOT / "requirements"
    locked, locked_dev = pins(project / "lock.txt"), pins(dev / "dev.lock")
    image = project / "kaggle-image.in"  # other versions, and an environment of its own
    for chosen in sorted(project.glob("*.in")):
        lock = pins(project / "kaggle.lock") if chosen == image else locked
        for name, version in pins(chosen).items():
            assert lock[name] == version
    for name, version in pins(dev / "dev.in").items():
        assert locked_dev[name] == version
    for name in locked.keys() & locked_dev.keys():
        assert locked[name] == locked_dev[name], name


def test_the_list_of_new_backbones_is_of_the_versions_in_the_locks():
    """Renewed by `python requirements/kaggle_timm.py`; tests/template/test_kaggle_image.py compares the
    names."""
    project = ROOT / PROJECT / "requirements"
    head = text_of(project / "kaggle-timm.txt").splitlines()[0]
    new, old = re.search(r"timm ([\d.]+) that timm ([\d.]+)", head).groups()
    assert ({new}, {old}) == (pins(project / "lock.txt")["timm"], pins(project / "kaggle.lock")["timm"])


def test_no_pin_is_a_build_of_one_machine():
    """`2.15.0+cpu` is on no registry."""
    project = ROOT / PROJECT / "requirements"
    for lock in (project / "lock.txt", project / "kaggle.lock", ROOT / "requirements/dev.lock"):
        assert all("+" not in version for versions in pins(lock).values() for version in versions)
        assert " @ " not in text_of(lock)


# A figure in the code drifts from the page that holds it (docs/): there it says what was found, not how much.
NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+|two|three|four|five|ten|twenty|fifty|a hundred)"
MEASURED = [
    rf"{NUMBER} times (?:as|the time|slower|faster|longer)",
    rf"(?:takes?|took|costs?|paid)\b[^.;]*? {NUMBER} ?(?:ms|s|seconds|minutes)\b",
    rf": {NUMBER} ?(?:ms|s|seconds|minutes)\b",
    r"\b(?:AUC|F1|RMSE|accuracy|noise)\b[^;]{0,30}? (?:of )?0?\.\d\d",
    r"0?\.\d\d+ (?:AUC|F1|RMSE|accuracy)\b",
]


def sentences(path: Path) -> list[tuple[int, str]]:
    """The comments and docstrings of a Python file, each with the line it begins on."""
    text = text_of(path)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (
            words := ast.get_docstring(node)
        ):
            found.append((node.body[0].lineno, " ".join(words.split())))
    return found


@pytest.mark.parametrize(
    "words",
    [
        "on pure noise such an OOF scores .66 AUC; this one .50",
        "F1 of pure noise: .383, and .352 honestly",
        "Two processes took twenty times as long as one",
        "OpenCV's own choice takes 3.8 ms in and 2.1 out",
    ],
)
def test_a_measurement_is_recognised(words):
    assert any(re.search(pattern, words) for pattern in MEASURED)


def test_no_comment_or_docstring_of_the_code_quotes_a_measurement():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {words[:120]!r}"
        for path in [*(ROOT / PROJECT / "src").rglob("*.py"), *(ROOT / PROJECT).glob("0?_*.py")]
        for line, words in sentences(path)
        if any(re.search(pattern, words) for pattern in MEASURED)
    ]
    assert found == [], "say it without the figure, and keep that in docs/"
