"""Archives read member by member, in memory: nothing is extracted, so no member path ever touches the disk.

A data set is known by the digest of its *content*, the same whichever way it was packed: over the counted members
in sorted path order, the sha256 of the lines ``path NUL sha256hex(member bytes) LF``.
"""

from __future__ import annotations

import hashlib
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fewlabel.errors import UserError

MAX_MEMBER_BYTES = 256 * 2**20  # the largest true member has 31 MB
MAX_TOTAL_BYTES = 2 * 2**30  # the largest true archive unpacks to 184 MB
MAX_MEMBERS = 100_000


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def content_digest(path: Path, counted: str) -> str:
    """The content digest of an archive (see the top of this module)."""
    lines = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in members(path, counted))
    whole = hashlib.sha256()
    for name, digest in lines:
        whole.update(f"{name}\0{digest}\n".encode())
    return whole.hexdigest()


def members(path: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """The (path, bytes) of every file in a zip or tar whose whole path matches ``pattern``, in stored order.

    Raises `UserError` for a damaged archive and for one that holds what no honest one does: a path that leads
    outside, a link or device, the same path twice, or sizes beyond all reason.
    """
    matches = re.compile(pattern).fullmatch
    seen: set[str] = set()
    total = 0
    try:
        for name, size, ordinary, read in _zip(path) if zipfile.is_zipfile(path) else _tar(path):
            total += size
            if size > MAX_MEMBER_BYTES or total > MAX_TOTAL_BYTES or len(seen) >= MAX_MEMBERS:
                raise UserError(f"{path}: refused: holds more than any of the datasets does (at {name[:80]!a})")
            if not ordinary:
                raise UserError(f"{path}: refused: member {name[:80]!a} is a link or a device")
            if name in seen or _leads_outside(name):
                raise UserError(f"{path}: refused: member path {name[:80]!a} leads outside or occurs twice")
            seen.add(name)
            if read is not None and matches(name):
                data = read(size + 1)  # a stated size that lies shows here
                if len(data) != size:
                    raise UserError(f"{path}: damaged: member {name[:80]!a} is not as long as stated")
                yield name, data
    except (OSError, EOFError, *_DAMAGE) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(f"{path}: not a whole zip or tar archive ({reason}); delete it and get it again") from None


# What zipfile and tarfile raise for bytes that are not what they should be.
_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, ValueError, RuntimeError)
_Entry = tuple[str, int, bool, Callable[[int], bytes] | None]  # path, bytes, neither link nor device, how to read it


def _zip(path: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            ordinary = kind in (0, stat.S_IFREG, stat.S_IFDIR)

            def read(most: int, info: zipfile.ZipInfo = info) -> bytes:
                with archive.open(info) as file:
                    return file.read(most)

            yield info.filename, info.file_size, ordinary, None if info.is_dir() else read


def _tar(path: Path) -> Iterator[_Entry]:
    with tarfile.open(path, "r|*") as archive:  # a stream: each byte is decompressed once
        for info in archive:
            file = archive.extractfile(info) if info.isfile() else None
            yield info.name, info.size, info.isfile() or info.isdir(), file.read if file else None


def _leads_outside(name: str) -> bool:
    parts = name.split("/")
    return name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0]
