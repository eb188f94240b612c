"""Safe extraction of a competition's archive: nothing outside the folder, no partially written files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from src.artifacts import writing
from src.config import UserError
from src.progress import Progress

_CHUNK = 2**20
_SPARE = 2**28  # bytes of disk space that stay free
NAME, PATH = 255, 4000  # bytes: the longest file name and whole path that every common file system accepts


@dataclass
class Unpacked:
    """The result of an extraction: `files` maps each path below the folder to its size and CRC, `written`
    counts the files that were written, `kept` lists existing files that differ from the archive and were not
    replaced."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)
    written: int = 0
    kept: list[str] = field(default_factory=list)


def unpack(
    archive: Path,
    folder: Path,
    replace: bool = True,
    came: dict[str, tuple[int, int]] | None = None,
) -> Unpacked:
    """Extract a zip archive into `folder`.

    A file with the archive's size and CRC is not written again, so an interrupted call resumes. Without
    `replace`, any other existing file is kept too, unless it is unchanged since an earlier archive (`came`:
    size and CRC by path). A zip file within the archive is extracted too, into a folder of its name unless it
    contains that folder. Raises `UserError` for a damaged archive, and, before any of its files is written,
    for a member that would land outside the folder, is a link or a special file, or has a name that is
    invalid here.
    """
    done = Unpacked()
    job = _Job(folder, replace, came or {}, done)
    _unpack(archive, folder, job)
    for name in [name for name in done.files if name.lower().endswith(".zip")]:
        inner = folder / name
        if zipfile.is_zipfile(inner):
            with zipfile.ZipFile(inner) as opened:
                brings_it = all(PurePosixPath(n).parts[:1] == (inner.stem,) for n in opened.namelist())
            _unpack(inner, inner.parent if brings_it else inner.with_suffix(""), job)
    return done


@dataclass(frozen=True)
class _Job:
    """The state of an extraction: `folder` is the root of all targets, `done` the result so far."""

    folder: Path
    replace: bool
    came: dict[str, tuple[int, int]]
    done: Unpacked

    def keeps(self, path: Path, name: str) -> bool:
        """Whether a file that differs from the archive's is kept, because the user changed or added it."""
        if self.replace or not path.is_file():
            return False
        return name not in self.came or not is_file(path, *self.came[name])


def _unpack(archive: Path, into: Path, job: _Job) -> None:
    members, done = check_members(archive, into), job.done
    with (
        zipfile.ZipFile(archive) as opened,
        Progress(f"unpack {archive.name}", sum(member.file_size for _, member in members)) as progress,
    ):
        for target, member in members:
            name = (into / target).relative_to(job.folder).as_posix()
            if not is_file(into / target, member.file_size, member.CRC):
                if job.keeps(into / target, name):
                    done.kept.append(name)
                else:
                    _extract(opened, member, into / target)
                    done.written += 1
            done.files[name] = member.file_size, member.CRC
            progress.step(member.file_size)


def check_members(archive: Path, folder: Path) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The archive's files with their target paths below `folder`. Raises `UserError` for the first unsafe
    member."""
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{archive}: is no zip archive that can be read ({error}); run `make data ARGS=--force`"
        ) from None
    folders = {parent for info in infos for parent in PurePosixPath(info.filename).parents}
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in infos:
        fault = _fault(info, folder)
        target = PurePosixPath(info.filename)
        if fault is None and target in members:
            fault = "stands there twice"
        if fault is None and target in folders:
            fault = "is a file there, and a folder of other members too"
        if fault is not None:
            raise UserError(
                f"{archive}: its member {_shown(info.filename)} {fault}; nothing of it was unpacked, "
                f"look at the archive before you trust it"
            )
        members[target] = info
    missing = sum(info.file_size for target, info in members.items() if not (folder / target).exists())
    check_free_space(folder, missing, f"unpacking {archive.name}")
    return list(members.items())


def check_free_space(folder: Path, size: int, what: str) -> None:
    """Raise `UserError` if the disk of `folder` has less than `size` bytes plus a safety margin free."""
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if size + _SPARE > free:
        raise UserError(
            f"{folder}: {what} takes {size / 2**30:.1f} GiB, the disk has {free / 2**30:.1f}; free some, or "
            f"make {folder} a link to a larger disk"
        )


def _shown(name: str) -> str:
    return repr(name) if len(name) <= 100 else f"{name[:80]!r}... ({len(name)} characters)"


def _fault(info: zipfile.ZipInfo, folder: Path) -> str | None:
    """The reason why a member must not be extracted, or None."""
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link" if kind == stat.S_IFLNK else "is no plain file"
    if info.flag_bits & 1:
        return "is encrypted"
    if name.startswith("/") or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return "has an absolute path or a backslash"
    if ".." in PurePosixPath(name).parts:
        return "would land outside the folder"
    longest = max((len(os.fsencode(part)) for part in PurePosixPath(name).parts), default=0)
    if longest > NAME or len(os.fsencode(str(folder / name))) > PATH:
        return "has a name that is too long for this disk; unpack the archive by hand, under a shorter one"
    if not PurePosixPath(name).parts:
        return "has no name"
    if (folder / name).is_dir():
        return f"is a file, and {folder / name} is a folder: move that away"
    parent, root = (folder / name).parent.resolve(), folder.resolve()
    if parent != root and root not in parent.parents:  # through an existing symbolic link
        return "would land outside the folder, through a link in it"
    return None


def is_file(path: Path, size: int, crc: int) -> bool:
    """Whether a regular file of this size and CRC exists."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != size:
        return False
    found = 0
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found == crc


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Write one member atomically. Reading it to its end verifies size and CRC."""
    temporary = path.with_name(".unpacking.tmp")  # short: the file's name may have maximum length
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, open(temporary, "wb") as out:
                shutil.copyfileobj(source, out, _CHUNK)
            os.replace(temporary, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{opened.filename}: its member {member.filename!r} is damaged ({error}); "
            f"run `make data ARGS=--force`, which fetches the archive anew"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
