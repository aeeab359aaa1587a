"""Get a file from the first place that has it, a mirror folder or the official address, and check it.

A download continues where it was cut off, is tried again after a pause, and takes its place only when it is whole and
its digest is right. It stays in `DOWNLOADS`, so that a stage that runs again needs no network.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import requests
from filelock import FileLock

from fewlabel.data.sources import Source
from fewlabel.errors import UserError
from fewlabel.progress import Progress

DOWNLOADS = Path(".checkpoints/downloads")  # not in the stage's outputs, which DVC deletes before the stage runs
# A machine without a network learns so within half a minute, also where a name has four addresses that do not answer.
CONNECT_S, READ_S = 3, 10
TRIES = 3  # in a row that brought no byte
MAX_BYTES = 4 * 2**30  # the largest file, ImageNet weights of vit_h_14, has 2.4 GiB
EMBEDDED = "use small drawn data with data.source=embedded"


class _Interrupted(Exception):
    """An attempt that may succeed when repeated. The message shows no address of a proxy, which may hold a password."""


class _Refused(Exception):
    """The address does not give the file."""


def mirror_folder(from_params: str | None) -> Path | None:
    """The mirror: ``FEWLABEL_MIRROR`` if set, else ``data.mirror`` of the params, else none."""
    named = os.environ.get("FEWLABEL_MIRROR") or from_params
    return Path(os.path.expanduser(named)) if named else None


def obtain(source: Source, folder: Path, mirror: Path | None, or_else: str = EMBEDDED) -> tuple[str, Path]:
    """Put a verified copy of ``source`` into ``folder``.

    Args:
        or_else: what else a user can do who has neither network nor mirror; part of the error.

    Returns:
        ``mirror`` or ``official``, where it came from, and the path of the copy.

    Raises:
        UserError: no place has the file, or what it has is damaged.
    """
    tried = []
    if mirror:
        for name in (source.name, *source.also):
            found = mirror / source.folder / name
            if found.is_file():
                return "mirror", _copy(source, found, folder / name)
        lacks = "has no such file" if mirror.is_dir() else "is no folder"
        tried.append(f"mirror {mirror / source.folder}: {lacks}")
    try:
        return "official", _copy(source, _download(source), folder / source.name)
    except (_Interrupted, _Refused) as reason:
        tried.append(f"{source.url}: {reason}")
    raise UserError(
        f"{source.name}: not found (tried {'; '.join(tried)}): set FEWLABEL_MIRROR to a folder that holds it, "
        f"or {or_else}"
    )


def _copy(source: Source, found: Path, target: Path) -> Path:
    """Copy, and verify the copy: the file may change, and the disk may fail, between a check and the copy."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, temporary)
        _verify(source, temporary, str(found))
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"{found}: cannot be copied to {target.parent} ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _verify(source: Source, path: Path, name: str, official: bool = False) -> None:
    """`Source.verify` that calls the file ``name``, as the user knows it, and deletes it when it is wrong."""
    try:
        source.verify(path, official)
    except UserError as error:
        path.unlink()
        raise UserError(str(error).replace(str(path), name)) from None


def _download(source: Source) -> Path:
    """The verified official file in `DOWNLOADS`. Raises `_Interrupted`, `_Refused`, or `UserError` for wrong bytes."""
    whole = DOWNLOADS / source.name
    part = whole.with_name(whole.name + ".part")
    whole.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{whole}.lock"):  # two processes would write the same .part
        for path in (whole, part):  # of an earlier run; the second may be whole if that run was killed at its end
            if path.exists() and _is_right(source, path):
                os.replace(path, whole)
                return whole
        _fetch(source, part)
        if not _is_right(source, part):  # made of pieces of two versions, or cut where no length was told
            part.unlink()
            _fetch(source, part)
            _verify(source, part, source.url, official=True)
        os.replace(part, whole)
    return whole


def _is_right(source: Source, path: Path) -> bool:
    try:
        source.verify(path, official=True)
    except UserError:
        return False
    return True


def _fetch(source: Source, part: Path) -> None:
    """Fill ``part`` until the server has no more. Raises `_Interrupted` after `TRIES` attempts without a new byte."""
    failures = 0
    while True:
        had = _size(part)
        try:
            return _attempt(source, part)
        except _Interrupted:
            failures = 0 if _size(part) > had else failures + 1
            if failures == TRIES:
                raise
            time.sleep(2.0 ** (failures - 1))


def _attempt(source: Source, part: Path) -> None:
    have = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(source.url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)) as answer:
            status = answer.status_code
            if status in (408, 429) or status >= 500:
                raise _Interrupted(f"HTTP {status}")
            continues = status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if have and not continues and status not in (200, 401, 403, 404, 410):
                part.unlink()
                raise _Interrupted(f"HTTP {status} to a request for the rest of the file")
            if not continues and status != 200:
                raise _Refused(f"HTTP {status}")
            have = have if continues else 0
            total = have + int(answer.headers.get("Content-Length") or 0)
            with part.open("ab" if continues else "wb") as file, Progress(source.name, total, start=have) as bar:
                for block in answer.iter_content(2**15):
                    have += len(block)
                    if have > MAX_BYTES:
                        file.truncate(0)
                        raise _Refused(f"sends more than {MAX_BYTES:,} bytes")
                    file.write(block)
                    bar.update(len(block))
    except requests.RequestException as error:
        raise _Interrupted(f"no answer ({type(error).__name__})") from None
    except OSError as error:
        if error.errno is None:  # requests finds no certificates
            raise _Refused(str(error)) from None
        raise UserError(f"{part}: cannot be written ({error.strerror})") from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
