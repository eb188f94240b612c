"""What the tests of Kaggle share: a competition of even numbers, a project that enters it, a desk to work at.

pytest_plugins = ["kaggle_server.desk"]
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
from conftest import forget_the_listings

from kaggle_server import Competition, KaggleServer
from kaggle_server.numbers import CONFIG, KERNEL, SLUG, write_numbers
from kaggle_server.records import Dataset
from src.artifacts import sha256, write_json
from src.configfile import load_config
from src.kaggle import client, waiting
from src.kaggle.metadata import kernel_metadata
from src.kaggle.names import dataset_ref, kernel_ref
from src.kaggle.receipts import write_receipt
from src.submission.manifest import write_manifest


@dataclass
class Said:
    """How a command ended: its exit status and what it printed."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence of an error; the test fails where there is none, or a traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert (self.code, len(lines), "Traceback" in self.err) == (2, 1, False), self
        return lines[0].removeprefix("error: ")


class Desk:
    """A project beside a Kaggle of its own."""

    def __init__(self, server: KaggleServer, folder: Path):
        self.server, self.store, self.root = server, server.store, folder / "project"
        solution = write_numbers(folder / "public", range(5))
        hidden = write_numbers(folder / "hidden", range(100, 131))
        self.competition = Competition(SLUG, folder / "public", hidden, hidden=folder / "hidden")
        self.public_solution = solution
        self.store.competitions[SLUG] = self.competition
        write_numbers(self.root / "data" / "raw", range(5))
        self.write("configs/baseline.yaml", CONFIG)
        self.write("kernel/infer.py", KERNEL)

    def write(self, name: str, text: str) -> Path:
        """Write a file of the project."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def run(self, command: str, *arguments: str) -> Said:
        """What `python -m src.commands.<command>` does, in this process."""
        from src.cli import main

        forget_the_listings()
        module = importlib.import_module(f"src.commands.{command}")
        argv, code = [command, "--config", str(self.root / "configs/baseline.yaml"), *arguments], 0
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(sys, "argv", argv),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main(module.run, module.__doc__)
            except SystemExit as stop:
                code = stop.code or 0
        return Said(code, out.getvalue(), err.getvalue())

    def bundle(self, yes: int = 1, rehearsed: bool = True) -> str:
        """A bundle whose rule answers `yes` for an even number, rehearsed or not; gives its hash."""
        self.write("kaggle/bundle/weights/rule.json", json.dumps({"yes": yes}))
        self.write("kaggle/bundle/src/answer.py", "ANSWER = 42\n")
        whole = write_manifest(self.root / "kaggle/bundle", cv=0.75)["bundle_hash"]
        if rehearsed:
            kernel = sha256(self.root / "kernel/infer.py")
            receipt = {"bundle_hash": whole, "kernel_sha256": kernel, "passed": True}
            write_json(self.root / "kaggle/receipts/rehearsal.json", receipt)
        return whole

    def uploaded(self, whole: str) -> None:
        """What `make push` finds when this bundle is on Kaggle already, as version 1."""
        ref = f"quickfox/{SLUG}-bundle"
        folder = self.store.root / "datasets" / ref / "1"
        shutil.copytree(self.root / "kaggle/bundle", folder)
        self.store.datasets[ref] = Dataset([folder], 0)
        receipt = {"ref": ref, "version": 1, "content": whole, "ready": True}
        self.write("kaggle/receipts/dataset.json", json.dumps(receipt))

    def pushed(self) -> None:
        """What `make push` and `make send` find when this kernel was pushed too, and its run is over."""
        self.uploaded(whole := self.bundle())
        config = load_config(self.root / "configs/baseline.yaml")
        dataset, kernel = dataset_ref(config), self.root / "kernel/infer.py"
        metadata = kernel_metadata(
            config, kernel_ref(config), "infer.py", internet=False, datasets=(dataset,)
        )
        body = {
            "slug": metadata.id,
            "newTitle": metadata.title,
            "text": kernel.read_text(),
            "kernelType": "script",
        }
        body |= {"machineShape": "None", "enableInternet": False, "isPrivate": True, "language": "python"}
        self.store.save_kernel({**body, "datasetDataSources": [dataset], "competitionDataSources": [SLUG]})
        self.store.wait()
        write_receipt(
            config, "kernel", ref=metadata.id, version=1, url="http://localhost", cv=0.75, bundle_hash=whole,
            kernel_sha256=sha256(kernel), dataset=dataset, dataset_version=1,
            metadata=metadata.model_dump(mode="json"), state="pushed",
        )  # fmt: skip

    def receipt(self, what: str) -> dict:
        """A receipt as it is on disk, of a submission the only one; empty where there is none."""
        folder = self.root / "kaggle" / "receipts"
        paths = [*folder.glob(f"{what}.json"), *folder.glob(f"{what}-*.json")]
        assert len(paths) < 2
        return json.loads(paths[0].read_text()) if paths else {}

    def calls(self) -> list[str]:
        """The methods called since the last look."""
        calls, self.store.calls = self.store.calls, []
        return calls


def talk_to(server: KaggleServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the real client talk to this server; the test is skipped where that client is not installed."""
    if client.find_client() is None:
        pytest.skip("the kaggle client is not installed; requirements/dev.in names it")
    for name in ("NO_PROXY", "no_proxy", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment(home).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(waiting, "FIRST", 0.1)
    monkeypatch.setattr(waiting, "LONGEST", 0.2)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A desk with the real client."""
    with KaggleServer(tmp_path / "kaggle.com") as server:
        talk_to(server, tmp_path / "home", monkeypatch)
        yield Desk(server, tmp_path)
    assert server.store.bugs == []
