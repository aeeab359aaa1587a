"""Archives that no honest place hands out are refused, in one line, before a byte of them is used."""

import hashlib
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from fewlabel.data import archives
from fewlabel.data.sources import Source
from fewlabel.errors import UserError


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


FILES = {"a/2.bin": os.urandom(5000), "a/1.bin": b"one", "read me": b"not counted"}


def test_the_digest_is_of_the_content_however_it_is_packed(tmp_path: Path) -> None:
    lines = b"".join(f"{name}\0{hashlib.sha256(FILES[name]).hexdigest()}\n".encode() for name in ("a/1.bin", "a/2.bin"))
    expected = hashlib.sha256(lines).hexdigest()
    packed = [
        make_zip(tmp_path / "x.zip", FILES),
        make_zip(tmp_path / "stored.zip", FILES, zipfile.ZIP_STORED),
        make_tar(tmp_path / "x.tar.gz", FILES, "w:gz"),
        make_tar(tmp_path / "x.tar.xz", dict(reversed(FILES.items())), "w:xz"),
    ]
    for path in packed:
        assert archives.content_digest(path, r"a/.+\.bin") == expected


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "C:/evil"])
def test_a_path_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    for path in (
        make_zip(tmp_path / "x.zip", {"a": b"", name: b"x"}),
        make_tar(tmp_path / "x.tar", {name: b"x"}, "w"),
    ):
        with pytest.raises(UserError, match="leads outside") as error:
            list(archives.members(path, ".*"))
        assert "\n" not in str(error.value)
    assert {file.name for file in tmp_path.iterdir()} == {"x.zip", "x.tar"}


def test_links_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        zipped.writestr(info, "/etc/passwd")
    for name in ("x.tar", "x.zip"):
        with pytest.raises(UserError, match="link"):
            list(archives.members(tmp_path / name, ".*"))


def test_a_path_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("a"))
    with pytest.raises(UserError, match="twice"):
        list(archives.members(path, ".*"))


def test_absurd_sizes_are_refused_before_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 10**6)
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 10**6)
    for files in ({"bomb": bytes(10**6 + 1)}, {str(number): bytes(10**5) for number in range(11)}):
        for path in (make_zip(tmp_path / "x.zip", files), make_tar(tmp_path / "x.tar.xz", files, "w:xz")):
            with pytest.raises(UserError, match="more than any"):
                list(archives.members(path, "nothing of it"))


def test_a_long_name_is_read(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
            archive.addfile(tarfile.TarInfo("é" * 400))
        assert list(archives.members(tmp_path / "x.tar", ".*")) == [("é" * 400, b"")]


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "x.zip", {"a": bytes(1000)})
    raw = bytearray(path.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = (10).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"x\.zip"):
        list(archives.members(path, ".*"))


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.xz"])
def test_truncation_and_damage_are_said_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        make_zip(path, FILES)
    else:
        make_tar(path, FILES, f"w:{name[-2:]}")
    whole = path.read_bytes()
    digest = archives.content_digest(path, r".+")
    item = Source(name, "http://nowhere/", digest, counted=r".+")
    item.verify(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], whole[:-200], bytes(flipped), b"<html></html>"):
        path.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            item.verify(path)
        assert name in str(error.value)
        assert "\n" not in str(error.value)
