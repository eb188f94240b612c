"""What each call of the client answers: competitions, datasets, kernels, submissions."""

from __future__ import annotations

import io
import json
import re
import shutil
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kaggle_server.records import Blob, Competition, Dataset, Kernel, Refusal
from kaggle_server.runs import Run, Runner, mount, run_kernel, score

MACHINES = (
    "None",
    "NvidiaTeslaT4",
    "NvidiaL4",
    "NvidiaL4X1",
    "NvidiaH100",
    "NvidiaTeslaA100",
    "NvidiaRtxPro6000",
)


class Store:
    """Everything this Kaggle holds. `faults[name] = n` makes the next n calls of that kind go wrong."""

    def __init__(self, root: Path, runner: Runner):
        self.root, self.runner = root, runner
        self.user, self.key = "quickfox", "0123456789abcdef" * 2
        self.layout = "new"  # of the mounts; or old
        self.looks_until_ready = 1
        self.faults: Counter[str] = Counter()
        self.calls: list[str] = []
        self.sent: list[tuple[str, int]] = []  # files served: name, first byte
        self.competitions: dict[str, Competition] = {}
        self.datasets: dict[str, Dataset] = {}
        self.kernels: dict[str, Kernel] = {}
        self.blobs: dict[str, Blob] = {}
        self.threads: list[threading.Thread] = []
        self.bugs: list[str] = []  # of this server's own

    def fault(self, name: str) -> bool:
        """Whether this time is one that goes wrong."""
        if self.faults[name] <= 0:
            return False
        self.faults[name] -= 1
        return True

    def answer(self, call: str, body: dict[str, Any]) -> dict[str, Any] | Path:
        """The reply to `package.Service/Method`; a path where it is a download."""
        method = call.partition("/")[2]
        self.calls.append(method)
        for status in (403, 404, 429, 503):
            if self.fault(f"{method}_{status}"):
                raise Refusal(status, {429: "Too many requests"}.get(status, f"{status} - refused"))
        handler: Callable | None = getattr(self, re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower(), None)
        if handler is None:
            raise Refusal(404, f"no such method: {call}")
        return handler(body)

    def wait(self) -> None:
        """Until no kernel runs any more."""
        for thread in self.threads:
            thread.join(60)

    # --- competitions ---

    def _competition(self, body: dict) -> Competition:
        competition = self.competitions.get(body["competitionName"])
        if competition is None:
            raise Refusal(403, "Permission 'competitions.participate' was denied")
        if not competition.rules_accepted:
            raise Refusal(
                403, "You must accept this competition's rules before you'll be able to download files."
            )
        return competition

    def download_data_files(self, body: dict) -> Path:
        competition = self._competition(body)
        archive = self.root / "archives" / f"{competition.slug}.zip"
        if not archive.exists():
            archive.parent.mkdir(parents=True, exist_ok=True)
            shutil.make_archive(str(archive.with_suffix("")), "zip", competition.public)
        return Path("/archives") / archive.name

    def get_submission_limits(self, body: dict) -> dict:
        competition = self._competition(body)
        n = len(competition.submissions)
        return {"numToday": n, "numTotal": n, "numAllowedNow": competition.left_today - n}

    def list_submissions(self, body: dict) -> dict:
        return {"submissions": self._competition(body).submissions[::-1]}

    def start_submission_upload(self, body: dict) -> dict:
        self._competition(body)
        return self._new_blob(body["fileName"], body.get("contentLength", 0))

    def create_submission(self, body: dict) -> dict:
        competition = self._competition(body)
        blob = self.blobs[body["blobFileTokens"]]
        path = self.root / "submissions" / f"{len(competition.submissions)}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob.content)
        row = self._submission(competition, body, blob.name)
        row.update(score(path, competition.solution))
        return {"message": f"Successfully submitted to {competition.slug}", "ref": row["ref"]}

    def create_code_submission(self, body: dict) -> dict:
        competition = self._competition(body)
        ref = f"{body['kernelOwner']}/{body['kernelSlug']}"
        runs = self.kernels[ref].runs if ref in self.kernels else []
        version = body.get("kernelVersion", 0)
        if not 1 <= version <= len(runs) or runs[version - 1].status != "COMPLETE":
            raise Refusal(400, "The kernel version has no finished run")
        if runs[version - 1].saved["enableInternet"]:
            raise Refusal(400, "This competition does not allow internet access")
        row = self._submission(competition, body, body["fileName"])
        self._start(self._rerun, competition, runs[version - 1], row, body["fileName"])
        return {"message": f"Successfully submitted to {competition.slug}", "ref": row["ref"]}

    def _rerun(self, competition: Competition, first: Run, row: dict, file: str) -> None:
        run = Run(first.folder.with_name(f"{first.folder.name}-hidden{row['ref']}"), first.saved)
        mount(self, run, hidden=competition)
        run_kernel(self.runner, run, rerun=True)
        if run.status != "COMPLETE":
            row.update(status="ERROR", errorDescription="Notebook Threw Exception")
        elif not (run.working / file).is_file():
            row.update(status="ERROR", errorDescription="Submission CSV Not Found")
        else:
            row.update(score(run.working / file, competition.solution))

    def _submission(self, competition: Competition, body: dict, file: str) -> dict:
        if competition.left_today <= len(competition.submissions):
            raise Refusal(400, "You have used all submissions of today")
        row = {
            "ref": 5_000_000 + len(competition.submissions),
            "date": "2026-11-22T10:00:00.000Z",
            "fileName": file,
            "description": body.get("submissionDescription", ""),
            "status": "PENDING",
        }
        competition.submissions.append(row)
        return row

    # --- blobs and datasets ---

    def start_blob_upload(self, body: dict) -> dict:
        return self._new_blob(body["name"], body.get("contentLength", 0))

    def _new_blob(self, name: str, size: int) -> dict:
        token = f"blob{len(self.blobs)}"
        self.blobs[token] = Blob(name, size)
        return {"token": token, "createUrl": f"http://localhost/blobs/{token}"}

    def _dataset(self, body: dict) -> Dataset:
        dataset = self.datasets.get(f"{body['ownerSlug']}/{body['datasetSlug']}")
        if dataset is None:  # a private one of others and none at all are the same
            raise Refusal(403, "Permission 'datasets.get' was denied")
        return dataset

    def get_dataset_status(self, body: dict) -> dict:
        dataset = self._dataset(body)
        dataset.unready -= dataset.unready > 0
        return {"status": "READY" if dataset.unready == 0 else "BLOBS_RECEIVED"}

    def get_dataset(self, body: dict) -> dict:
        return {"currentVersionNumber": len(self._dataset(body).folders), "isPrivate": True}

    def create_dataset(self, body: dict) -> dict:
        ref = f"{body['ownerSlug']}/{body['slug']}"
        if body["ownerSlug"] != self.user or ref in self.datasets or self.fault("dataset_refused"):
            return {"status": "error", "error": f"The slug {body['slug']} is in use"}
        self.datasets[ref] = Dataset([], 0)
        return self._add_version(ref, body["files"])

    def create_dataset_version(self, body: dict) -> dict:
        self._dataset(body)
        return self._add_version(f"{body['ownerSlug']}/{body['datasetSlug']}", body["body"]["files"])

    def _add_version(self, ref: str, files: list[dict]) -> dict:
        dataset = self.datasets[ref]
        folder = self.root / "datasets" / ref / str(len(dataset.folders) + 1)
        folder.mkdir(parents=True)
        for blob in (self.blobs[file["token"]] for file in files):
            if blob.name.endswith(".zip"):  # Kaggle unpacks whatever is an archive
                zipfile.ZipFile(io.BytesIO(blob.content)).extractall(folder / Path(blob.name).stem)
            else:
                (folder / blob.name).write_bytes(blob.content)
        dataset.folders.append(folder)
        dataset.unready = self.looks_until_ready
        return {"ref": ref, "status": "ok", "url": f"http://localhost/datasets/{ref}"}

    # --- kernels ---

    def save_kernel(self, body: dict) -> dict:
        if self.fault("push_refused"):
            return {"error": "Maximum batch GPU session count of 2 reached."}
        ref, saved = body["slug"], {"enableInternet": True, **body}
        if saved.get("machineShape") not in MACHINES or self.fault("other_machine"):
            saved["machineShape"] = "NvidiaTeslaT4" if saved.get("enableGpu") else "None"
        if self.fault("internet_on"):
            saved["enableInternet"] = True
        joined = {slug for slug, competition in self.competitions.items() if competition.rules_accepted}
        known = {"datasetDataSources": self.datasets, "competitionDataSources": joined}
        known["kernelDataSources"] = self.kernels
        invalid = {}
        for key, there in known.items():
            wanted = saved.get(key) or []
            invalid[f"invalid{key[0].upper()}{key[1:]}".replace("Data", "")] = [
                w for w in wanted if w not in there
            ]
            saved[key] = [w for w in wanted if w in there]
        kernel = self.kernels.setdefault(ref, Kernel(saved, []))
        kernel.saved = saved
        run = Run(self.root / "kernels" / ref / str(len(kernel.runs) + 1), saved)
        kernel.runs.append(run)
        mount(self, run)
        self._start(run_kernel, self.runner, run)
        url = f"http://localhost/code/{ref}"
        return {"ref": ref, "url": url, "versionNumber": len(kernel.runs), **invalid}

    def _kernel(self, body: dict) -> Kernel:
        kernel = self.kernels.get(f"{body['userName']}/{body['kernelSlug']}")
        if kernel is None:
            raise Refusal(403, "Permission 'kernels.get' was denied")
        return kernel

    def get_kernel(self, body: dict) -> dict:
        saved = self._kernel(body).saved
        slug = saved["slug"].partition("/")[2]
        blob = {
            "source": saved["text"],
            "language": "python",
            "kernelType": saved["kernelType"],
            "slug": slug,
        }
        return {
            "metadata": {**saved, "ref": saved["slug"], "title": saved["newTitle"], "slug": slug},
            "blob": blob,
        }

    def get_kernel_session_status(self, body: dict) -> dict:
        run = self._kernel(body).runs[-1]
        return {"status": run.status, **({"failureMessage": run.failure} if run.failure else {})}

    def list_kernel_session_output(self, body: dict) -> dict:
        run = self._kernel(body).runs[-1]
        log = json.dumps(
            [{"stream_name": "stdout", "time": 0.5, "data": line} for line in run.log.splitlines(True)]
        )
        if run.status != "COMPLETE":
            return {"log": log}
        files = sorted(path for path in run.working.rglob("*") if path.is_file())
        size, start = body.get("pageSize") or 20, int(body.get("pageToken") or 0)
        listed = [
            {
                "url": f"http://localhost/files/{path.relative_to(self.root).as_posix()}",
                "fileName": path.relative_to(run.working).as_posix(),
            }
            for path in files[start : start + size]
        ]
        if self.fault("name_leads_out"):
            listed += [{**one, "fileName": f"../{Path(one['fileName']).name}"} for one in listed]
        more = {"nextPageToken": str(start + size)} if start + size < len(files) else {}
        return {"files": listed, "log": log, **more}

    def introspect_token(self, body: dict) -> dict:
        return {"active": body["token"] == self.key, "username": self.user}

    def _start(self, work: Callable, *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self.threads.append(thread)
        thread.start()
