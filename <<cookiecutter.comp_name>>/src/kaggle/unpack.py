"""Unpack a competition's archive: nothing may land outside the folder, nothing half-written may stay."""

from __future__ import annotations

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

CHUNK = 2**20
SPARE = 2**28  # bytes of the disk left free


@dataclass
class Unpacked:
    """What an archive held: sizes by path below the folder, and how many files had to be written."""

    sizes: dict[str, int] = field(default_factory=dict)
    written: int = 0


def unpack(archive: Path, folder: Path) -> Unpacked:
    """Unpack a zip archive into `folder`.

    A file that is there with the size and CRC of the archive's is kept, so a killed call goes on where it
    was. An archive within the archive is unpacked too, into the folder of its name unless it brings that
    folder itself. Raises `UserError` for a damaged archive and, before anything of it is written, for a
    member that would land outside, is a link or no plain file.
    """
    done = Unpacked()
    _unpack(archive, folder, folder, done)
    for name in [name for name in done.sizes if name.lower().endswith(".zip")]:
        inner = folder / name
        if zipfile.is_zipfile(inner):
            with zipfile.ZipFile(inner) as opened:
                brings_it = all(PurePosixPath(n).parts[:1] == (inner.stem,) for n in opened.namelist())
            _unpack(inner, inner.parent if brings_it else inner.with_suffix(""), folder, done)
    return done


def _unpack(archive: Path, into: Path, folder: Path, done: Unpacked) -> None:
    members = check_members(archive, into)
    with (
        zipfile.ZipFile(archive) as opened,
        Progress(f"unpack {archive.name}", sum(member.file_size for _, member in members)) as progress,
    ):
        for target, member in members:
            if not _same(into / target, member):
                _extract(opened, member, into / target)
                done.written += 1
            done.sizes[(into / target).relative_to(folder).as_posix()] = member.file_size
            progress.step(member.file_size)


def check_members(archive: Path, folder: Path) -> list[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The archive's files by where they go below `folder`; raises `UserError` for the first that may not."""
    try:
        with zipfile.ZipFile(archive) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(
            f"{archive}: is no zip archive that can be read ({error}); run `make data ARGS=--force`"
        ) from None
    members: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in infos:
        fault = _fault(info, folder)
        target = PurePosixPath(info.filename)
        if fault is None and target in members:
            fault = "stands there twice"
        if fault is not None:
            raise UserError(
                f"{archive}: its member {info.filename!r} {fault}; nothing of it was unpacked, "
                f"look at the archive before you trust it"
            )
        members[target] = info
    missing = sum(info.file_size for target, info in members.items() if not (folder / target).exists())
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    if missing + SPARE > free:
        raise UserError(
            f"{folder}: unpacking {archive.name} takes {missing / 2**30:.1f} GiB, the disk has "
            f"{free / 2**30:.1f}; free some, or make {folder} a link to a larger disk"
        )
    return list(members.items())


def _fault(info: zipfile.ZipInfo, folder: Path) -> str | None:
    """Why a member may not be unpacked, or None."""
    name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "is a link" if kind == stat.S_IFLNK else "is no plain file"
    if info.flag_bits & 1:
        return "is encrypted"
    if name.startswith("/") or "\\" in name or "\0" in name or re.match(r"[A-Za-z]:", name):
        return "has an absolute path or a backslash"
    if ".." in PurePosixPath(name).parts:
        return "would land outside the folder"
    parent, root = (folder / name).parent.resolve(), folder.resolve()
    if parent != root and root not in parent.parents:  # through a link that is there already
        return "would land outside the folder, through a link in it"
    return None


def _same(path: Path, member: zipfile.ZipInfo) -> bool:
    """Whether the file is there already, by size and CRC."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size != member.file_size:
        return False
    crc = 0
    with open(path, "rb") as handle:
        while chunk := handle.read(CHUNK):
            crc = zlib.crc32(chunk, crc)
    return crc == member.CRC


def _extract(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Write one member whole or not at all; reading it to its end checks size and CRC."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with opened.open(member) as source, open(temporary, "wb") as out:
                shutil.copyfileobj(source, out, CHUNK)
            os.replace(temporary, path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise UserError(
            f"{opened.filename}: its member {member.filename!r} is damaged ({error}); "
            f"run `make data ARGS=--force`, which fetches the archive anew"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
