"""Get a file from the first place that has it, a mirror folder and then the official address, and check it.

A download resumes where it was cut off, is tried again after a pause, never runs twice at once, and takes its place
only when it is whole and verified. It is kept in `DOWNLOADS` too: a stage that runs again, because its code changed,
needs no network. What fails is said in one line: the file, what was tried, the ways out.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import requests
import tenacity
from filelock import FileLock, Timeout

from fewlabel.data.archives import Archive
from fewlabel.errors import UserError
from fewlabel.progress import Progress

DOWNLOADS = Path(".checkpoints/downloads")  # outside the declared outputs, which DVC deletes before a stage runs
WEIGHTS = Path("data/weights")
# A machine without network learns so within half a minute, even where a name has four addresses that never answer.
CONNECT_S, READ_S = 3, 10
TRIES, GIVE_UP_S = 4, 15  # in a row without a byte gained; no new try after so many seconds without one
MAX_BYTES = 2**30  # the largest true file has 170 MB
EMBEDDED = "use the drawn stand-ins with data.source=embedded"


class _Cut(Exception):
    """An attempt that failed and may succeed when repeated; the message is for people and holds no secret."""


class _No(Exception):
    """An address that will not give the file."""


def mirror_folder(from_params: str | None) -> Path | None:
    """The mirror: ``FEWLABEL_MIRROR`` if set, else ``data.mirror`` of the params, else none. Raises `UserError`."""
    where = "FEWLABEL_MIRROR" if os.environ.get("FEWLABEL_MIRROR") else "data.mirror"
    named = os.environ.get("FEWLABEL_MIRROR") or from_params
    try:
        return Path(named).expanduser() if named else None
    except RuntimeError:
        raise UserError(f"{where} = {named}: there is no such user, or no home of one") from None


def obtain(archive: Archive, folder: Path, mirror: Path | None, or_else: str = EMBEDDED) -> tuple[str, Path]:
    """Put a verified copy of ``archive`` into ``folder``.

    Args:
        or_else: the way out that the error names beside a mirror.

    Returns:
        ``mirror`` or ``official``, where it came from, and the path of the copy.

    Raises:
        UserError: no place has the file, or what it has is damaged.
    """
    tried = []
    for name in (archive.name, *archive.also):
        found = mirror / archive.folder / name if mirror else None
        if found and found.is_file():
            return "mirror", _copy(archive, found, folder / name)
    if mirror:
        lacks = "has no such file" if mirror.is_dir() else "is no folder"
        tried.append(f"mirror {mirror / archive.folder if mirror.is_dir() else mirror}: {lacks}")
    try:
        return "official", _copy(archive, _download(archive), folder / archive.name)
    except _No as reason:
        tried.append(f"{archive.url}: {reason}")
    raise UserError(
        f"{archive.name}: could not be had (tried {'; '.join(tried)}): name a folder that holds it in "
        f"FEWLABEL_MIRROR, or {or_else}"
    )


def weights(archive: Archive, mirror: Path | None, or_else: str) -> Path:
    """The path of a verified weights file under ``data/weights``, which is fetched when it is not there yet."""
    path = WEIGHTS / archive.name
    if path.is_file():
        try:
            archive.verify(path)
            return path
        except UserError:
            path.unlink()  # left over from elsewhere: never trusted, always replaced
    _, path = obtain(archive, WEIGHTS, mirror, or_else)
    (DOWNLOADS / archive.name).unlink(missing_ok=True)
    return path


def _copy(archive: Archive, source: Path, target: Path) -> Path:
    """A copy that is itself verified: between a look at the source and its copy either may change."""
    target.parent.mkdir(parents=True, exist_ok=True)
    living = set(map(str, psutil.pids()))
    for left_over in target.parent.glob(f".{target.name}.*.tmp"):  # of a killed run, or of one that is copying now
        if left_over.name.split(".")[-2] not in living:
            left_over.unlink(missing_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        try:
            archive.verify(temporary)
        except UserError:
            archive.verify(source)  # says so of the source, whose fault it mostly is
            raise UserError(
                f"{source}: its copy in {target.parent} is damaged: run again, and check the disk"
            ) from None
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"{source}: cannot be copied to {target.parent} ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _download(archive: Archive) -> Path:
    """The verified official file in `DOWNLOADS`. Raises `_No`, or `UserError` for wrong bytes."""
    whole = DOWNLOADS / archive.name
    part = whole.with_name(whole.name + ".part")
    with _alone(whole):
        if whole.exists():  # fetched by another process or by an earlier run
            with contextlib.suppress(UserError):
                archive.verify(whole, official=True)
                return whole
            whole.unlink()
        once_more = True
        while True:
            surely_whole = _fetch(archive, part)
            try:
                archive.verify(part, official=True)
                break
            except UserError as error:
                part.unlink()
                if surely_whole or not once_more:
                    raise UserError(f"{archive.url}: {str(error).partition(': ')[2]}") from None
                once_more = False  # from the start: the pieces may have been of two versions, or the end missing
        os.replace(part, whole)
    return whole


@contextlib.contextmanager
def _alone(whole: Path) -> Iterator[None]:
    whole.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(whole.with_name(whole.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{whole.name}: another process is downloading it, waiting", flush=True)
        lock.acquire()
    except OSError:  # no room for it, or a file system without locks: two at once would be found out by the digest
        pass
    try:
        yield
    finally:
        lock.release()


def _fetch(archive: Archive, part: Path) -> bool:
    """Fill ``part`` until it is whole. Tries again while bytes keep coming, else `TRIES` times or `GIVE_UP_S`.

    Returns whether it came in one piece whose length the server told. Raises `_No`.
    """
    had = part.stat().st_size if part.exists() else 0
    failures, since = 0, time.monotonic()

    def enough(_: tenacity.RetryCallState) -> bool:
        nonlocal had, failures, since
        have = part.stat().st_size if part.exists() else 0
        if have != had:
            had, failures, since = have, 0, time.monotonic()
        failures += 1
        return failures >= TRIES or time.monotonic() - since > GIVE_UP_S

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Cut),
        wait=tenacity.wait_exponential(multiplier=0.5, max=4),
        stop=enough,
        reraise=True,
    )
    try:
        return retrying(_attempt, archive, part)
    except _Cut as reason:
        raise _No(str(reason)) from None


def _attempt(archive: Archive, part: Path) -> bool:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with requests.get(archive.url, headers=headers, stream=True, timeout=(CONNECT_S, READ_S)) as answer:
            status = answer.status_code
            if status == 416 and answer.headers.get("Content-Range", "") == f"bytes */{have}":
                return False  # nothing is left to get
            if status == 416:
                part.unlink(missing_ok=True)
                raise _Cut("the address refused to resume")
            if status in (408, 429) or status >= 500:
                raise _Cut(f"HTTP {status}")
            if have and status not in (200, 206, 401, 403, 404, 410):
                part.unlink(missing_ok=True)
                raise _Cut(f"HTTP {status} to being asked for the rest")
            if status not in (200, 206):
                raise _No(f"HTTP {status}")
            resumes = status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            resumes &= "Content-Encoding" not in answer.headers  # a range of another form of the file
            if status == 206 and not resumes:
                part.unlink(missing_ok=True)
                raise _Cut("the address answered with another range than asked for")
            have = have if resumes else 0
            total = have + int(answer.headers.get("Content-Length") or 0)
            with part.open("ab" if resumes else "wb") as file, Progress(archive.name, total, start=have) as bar:
                for block in answer.iter_content(2**18):
                    have += len(block)
                    if have > MAX_BYTES:
                        file.truncate(0)
                        raise _No("sends more than any true file holds")
                    file.write(block)
                    bar.update(len(block))
            return not resumes and "Content-Length" in answer.headers
    except requests.exceptions.SSLError:
        raise _No("its TLS certificate was not accepted") from None
    except requests.exceptions.Timeout:
        raise _Cut("no answer in time") from None
    except requests.exceptions.ProxyError:
        raise _Cut("the proxy refused") from None
    except requests.exceptions.ChunkedEncodingError:
        raise _Cut("the connection was cut") from None
    except requests.exceptions.ConnectionError:
        raise _Cut("no connection") from None
    except (requests.exceptions.RequestException, ValueError):
        raise _No("gave no proper answer") from None
    except OSError as error:
        if error.errno is None:  # of requests itself: no such bundle of certificates
            raise _No(str(error)) from None
        raise UserError(f"{part}: cannot be written ({error.strerror})") from None
