"""Downloads against a small server on this machine that misbehaves on request."""

import contextlib
import errno
import functools
import gzip
import hashlib
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewlabel.data import download as acquire
from fewlabel.data.archives import Archive
from fewlabel.errors import UserError
from tests.conftest import ROOT

BODY = bytes(range(256)) * 4000  # about a megabyte


class Server(http.server.ThreadingHTTPServer):
    """Serves `BODY`; ``script`` lists what to do with the coming requests: a status, ``cut`` or ``stall`` half way,
    stay ``silent``, ``understate`` the length, ``ignore range`` or ``refuse range``, ``redirect`` to another host, tell
    ``no length``, ``gzip`` it unasked, serve an ``other`` version; some of them ``... cut`` too."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[int | str] = []
        self.ranges: list[str | None] = []
        self.body = BODY
        self.gate: threading.Event | None = None
        self.asked = threading.Event()
        self.piece, self.seconds, self.pause = len(BODY) // 2, 0.0, threading.Event()  # sends so much, waits so long

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        self.server.asked.set()
        if self.server.gate:
            self.server.gate.wait(60)
        action = self.server.script.pop(0) if self.server.script else "serve"
        if isinstance(action, int):
            self.send_error(action)
            return
        if action == "refuse range" and asked:
            self.send_error(400)
            return
        if action == "silent":
            self.server.pause.wait(10)
            return
        if action == "redirect":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/elsewhere")
            self.end_headers()
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and action != "ignore range" else 0
        body = self.server.body
        if action.startswith("gzip"):
            body = gzip.compress(body, mtime=0)
        elif action.startswith("other"):
            body = body[::-1]
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if not action.startswith("no length"):
            self.send_header("Content-Length", str((len(body) - start) // (2 if action == "understate" else 1)))
        if action.startswith("gzip"):
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        rest = body[start:]
        piece = min(self.server.piece, max(1, len(rest) // 2))
        for at in range(0, len(rest), piece):
            if action.endswith(("cut", "stall")) and at >= len(rest) // 2:
                self.server.pause.wait(10 if action == "stall" else 0)
                break
            with contextlib.suppress(ConnectionError):
                self.wfile.write(rest[at : at + piece])
            self.server.pause.wait(self.server.seconds)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield server
    server.pause.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEWLABEL_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the pauses between tries


def wanted(url: str, **more: str) -> Archive:
    return Archive("file.bin", url, hashlib.sha256(BODY).hexdigest(), **more)  # type: ignore[arg-type]


def obtain(archive: Archive, mirror: Path | None = None) -> str:
    source, path = acquire.obtain(archive, Path("out"), mirror)
    assert path.read_bytes() == BODY
    return source


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_plain_download(server: Server) -> None:
    assert obtain(wanted(server.url)) == "official"
    assert not list(Path(".checkpoints").rglob("*.part"))


def test_a_cut_connection_is_resumed_where_it_was_cut(server: Server) -> None:
    server.script = ["cut", "cut"]
    obtain(wanted(server.url))
    assert server.ranges[0] is None
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:] if asked]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(BODY)


def test_a_server_that_stalls_is_left_and_asked_again_for_the_rest(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acquire, "READ_S", 0.2)
    server.script = ["silent", "stall", "stall"]
    obtain(wanted(server.url))
    assert server.ranges[:2] == [None, None]
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[2:] if asked]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(BODY)


def test_a_server_that_stays_silent_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquire, "READ_S", 0.05)
    server.script = ["silent"] * 20
    with pytest.raises(UserError) as error:
        obtain(wanted(server.url))
    assert "no answer in time" in one_line(error)
    assert len(server.ranges) == acquire.TRIES


def test_an_understated_length_gives_no_half_a_file(server: Server) -> None:
    server.script = ["understate"]
    with pytest.raises(UserError, match="wrong or damaged content"):
        obtain(wanted(server.url))
    assert not Path("out").exists()
    assert not list(Path(".checkpoints").rglob("*.part"))
    assert obtain(wanted(server.url)) == "official"
    assert server.ranges == [None, None]


def test_a_later_run_resumes_what_a_killed_one_left(server: Server) -> None:
    part = acquire.DOWNLOADS / "file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:1000])
    obtain(wanted(server.url))
    assert server.ranges == ["bytes=1000-"]


def test_a_part_that_is_whole_already_is_taken(server: Server) -> None:
    part = acquire.DOWNLOADS / "file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY)
    assert obtain(wanted(server.url)) == "official"


def test_a_server_that_cannot_resume_sends_all_of_it_again(server: Server) -> None:
    server.script = ["cut", "ignore range"]
    obtain(wanted(server.url))


def test_a_wrong_beginning_is_fetched_again_from_the_start(server: Server) -> None:
    part = acquire.DOWNLOADS / "file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    obtain(wanted(server.url))
    assert server.ranges == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("script", "from_the_start"),
    [
        (["redirect"], 2),
        (["redirect", "cut", "redirect"], 2),
        (["no length"], 1),
        (["no length cut"], 2),
        (["gzip"], 1),
        (["gzip cut", "gzip", "gzip"], 2),
        (["cut", "refuse range", "refuse range"], 2),
        (["other cut"], 2),
    ],
    ids=str,
)
def test_what_may_be_mended_is_fetched_to_its_end(server: Server, script: list[int | str], from_the_start: int) -> None:
    server.script = script
    assert obtain(wanted(server.url)) == "official"
    assert server.ranges.count(None) == from_the_start


def test_a_file_that_never_ends_is_refused_and_not_kept(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquire, "MAX_BYTES", len(BODY) // 2)
    for _ in range(2):
        with pytest.raises(UserError, match="sends more than any true file holds"):
            obtain(wanted(server.url))
    assert server.ranges == [None, None]


def test_a_file_system_without_locks(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(acquire.FileLock, "acquire", fails)
    assert obtain(wanted(server.url)) == "official"


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.script = [503, 500, 429]
    assert obtain(wanted(server.url)) == "official"


def test_a_server_that_stays_busy_is_given_up_after_pauses_that_grow(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    server.script = [503] * 20
    with pytest.raises(UserError) as error:
        obtain(wanted(server.url))
    assert "HTTP 503" in one_line(error)
    assert len(server.ranges) == acquire.TRIES
    assert pauses == [0.5, 1, 2]


def test_a_missing_file_says_what_was_tried_and_the_ways_out(server: Server, tmp_path: Path) -> None:
    server.script = [404]
    (tmp_path / "mirror").mkdir()
    with pytest.raises(UserError) as error:
        obtain(wanted(server.url), tmp_path / "mirror")
    text = one_line(error)
    for piece in ("file.bin", "has no such file", server.url, "HTTP 404", "FEWLABEL_MIRROR", "data.source=embedded"):
        assert piece in text
    assert len(server.ranges) == 1
    assert not Path("out").exists()


def test_wrong_bytes_are_refused_and_not_kept(server: Server) -> None:
    server.body = b"<html>please log in</html>"
    with pytest.raises(UserError, match=r"file\.bin"):
        obtain(wanted(server.url))
    assert not Path("out").exists()
    assert not list(Path(".checkpoints").rglob("*.part"))


def test_the_official_file_must_have_its_md5(server: Server) -> None:
    with pytest.raises(UserError, match="md5"):
        obtain(wanted(server.url, md5="0" * 32))


def test_no_one_answers() -> None:
    with pytest.raises(UserError) as error:
        obtain(wanted("http://127.0.0.1:9/file.bin"), Path("nowhere"))
    text = one_line(error)
    assert "nowhere" in text
    assert "is no folder" in text
    assert "no connection" in text


def test_secrets_of_a_proxy_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(UserError) as error:
        obtain(wanted("http://files.invalid/file.bin"))
    assert "hunter2" not in one_line(error)


def test_two_at_once_download_it_once(server: Server) -> None:
    server.gate = threading.Event()
    results: list[str] = []

    def work(number: int) -> None:
        results.append(acquire.obtain(wanted(server.url), Path(f"out{number}"), None)[0])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    server.gate.set()
    for thread in threads:
        thread.join(20)
    assert results == ["official", "official"]
    assert server.ranges == [None]
    assert Path("out0/file.bin").read_bytes() == Path("out1/file.bin").read_bytes() == BODY


def test_two_processes_at_once_download_it_once(server: Server) -> None:
    server.gate = threading.Event()

    def start(out: str) -> subprocess.Popen[str]:
        code = (
            f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
            "from pathlib import Path\n"
            "from fewlabel.data import download as acquire\n"
            "from fewlabel.data.archives import Archive\n"
            f"print(acquire.obtain({wanted(server.url)!r}, Path({out!r}), None)[0])\n"
        )
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    first = start("out0")
    assert server.asked.wait(60)
    second = start("out1")
    assert second.stdout
    assert "another process is downloading it, waiting" in second.stdout.readline()
    server.gate.set()
    for process in (first, second):
        assert process.communicate(timeout=60)[0].endswith("official\n")
        assert process.returncode == 0
    assert server.ranges == [None]
    assert Path("out0/file.bin").read_bytes() == Path("out1/file.bin").read_bytes() == BODY


def test_a_second_run_needs_no_network(server: Server) -> None:
    obtain(wanted(server.url))
    obtain(wanted(server.url))
    assert len(server.ranges) == 1


def test_a_damaged_kept_download_is_replaced(server: Server) -> None:
    obtain(wanted(server.url))
    (acquire.DOWNLOADS / "file.bin").write_bytes(BODY[:-1])
    obtain(wanted(server.url))
    assert len(server.ranges) == 2


def test_the_mirror_comes_first_also_under_its_other_name(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "mirror" / "deep"
    folder.mkdir(parents=True)
    (folder / "file.xz").write_bytes(BODY)
    archive = Archive("file.bin", server.url, hashlib.sha256(BODY).hexdigest(), folder="deep", also=("file.xz",))
    source, path = acquire.obtain(archive, Path("out"), tmp_path / "mirror")
    assert (source, path.name, server.ranges) == ("mirror", "file.xz", [])


def test_a_damaged_file_of_the_mirror_is_an_error_not_a_reason_to_look_elsewhere(server: Server) -> None:
    Path("mirror").mkdir()
    Path("mirror/file.bin").write_bytes(BODY[:-1])
    with pytest.raises(UserError, match=r"mirror/file\.bin"):
        obtain(wanted(server.url), Path("mirror"))
    assert server.ranges == []


def test_a_copy_that_is_not_what_was_read_is_never_put_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = Path("mirror")
    mirror.mkdir()
    (mirror / "file.bin").write_bytes(BODY)
    Path("out").mkdir()
    Path("out/file.bin").write_bytes(b"the last good one")

    def copied(source: Path, target: Path) -> None:
        target.write_bytes(BODY[:-1] + b"?")

    monkeypatch.setattr("shutil.copyfile", copied)
    with pytest.raises(UserError, match=r"mirror/file\.bin: its copy in out is damaged"):
        obtain(wanted("http://127.0.0.1:9/x"), mirror)
    assert [path.read_bytes() for path in Path("out").iterdir()] == [b"the last good one"]


def test_what_a_killed_copy_left_is_removed_and_a_living_ones_is_not(server: Server) -> None:
    Path("out").mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = f".file.bin.{os.getppid()}.tmp"
    for name in (f".file.bin.{dead.pid}.tmp", living, ".file.bin.?.tmp"):
        Path("out", name).write_bytes(b"half")
    obtain(wanted(server.url))
    assert sorted(path.name for path in Path("out").iterdir()) == [living, "file.bin"]


def test_the_variable_wins_over_the_params(monkeypatch: pytest.MonkeyPatch) -> None:
    assert acquire.mirror_folder(None) is None
    assert acquire.mirror_folder("a") == Path("a")
    monkeypatch.setenv("FEWLABEL_MIRROR", "b")
    assert acquire.mirror_folder("a") == Path("b")


def test_a_mirror_in_the_home_of_no_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^data\.mirror = ~no-one-here/x: there is no such user"):
        acquire.mirror_folder("~no-one-here/x")
    monkeypatch.setenv("FEWLABEL_MIRROR", "~no-one-here/y")
    with pytest.raises(UserError, match=r"^FEWLABEL_MIRROR = ~no-one-here/y: there is no such user"):
        acquire.mirror_folder("a")


def test_weights_are_kept_and_a_damaged_copy_is_replaced(server: Server) -> None:
    archive = wanted(server.url)
    path = acquire.weights(archive, None, "choose another backbone")
    assert path == Path("data/weights/file.bin")
    acquire.weights(archive, None, "")
    assert len(server.ranges) == 1
    path.write_bytes(b"?")
    assert acquire.weights(archive, None, "").read_bytes() == BODY
    assert len(server.ranges) == 2


def test_weights_name_their_own_way_out() -> None:
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth.*choose another backbone"):
        acquire.weights(
            Archive("resnet18-f37072fd.pth", "http://127.0.0.1:9/x", "f37072fd"), None, "choose another backbone"
        )
