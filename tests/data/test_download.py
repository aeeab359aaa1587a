"""Downloads against a small server on this machine that misbehaves on request."""

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewlabel.data import download
from fewlabel.data.sources import Source
from fewlabel.errors import UserError

BODY = bytes(range(256)) * 4000  # about a megabyte
PART = download.DOWNLOADS / "file.bin.part"


class Server(http.server.ThreadingHTTPServer):
    """Serves `BODY`. ``script`` lists what to do with the coming requests: answer with a status, ``cut`` or ``stall``
    half way, ``ignore`` or ``refuse`` a range, tell ``no length``, ``gzip`` it unasked, serve an ``other`` version."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[int | str] = []
        self.ranges: list[str | None] = []  # of each request
        self.body = BODY
        self.gate = threading.Event()  # closed, it holds up every answer
        self.gate.set()
        self.end = threading.Event()
        self.piece, self.seconds = len(BODY) // 2, 0.0  # bytes sent at once, and the pause after them

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file.bin"

    @property
    def starts(self) -> list[int]:
        """Where each request began."""
        return [int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0 for asked in self.ranges]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        self.server.gate.wait(60)
        action = self.server.script.pop(0) if self.server.script else "serve"
        if action == "refuse":
            action = 400 if asked else "serve"
        if isinstance(action, int):
            self.send_error(action)
            return
        start = self.server.starts[-1] if action != "ignore" else 0
        body = self.server.body
        if action.startswith("other"):
            body = body[::-1]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if not action.startswith("no length"):
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        if action.endswith(("cut", "stall")):
            rest = rest[: len(rest) // 2]
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(rest), self.server.piece):
                self.wfile.write(rest[at : at + self.server.piece])
                self.server.end.wait(self.server.seconds)
        if action == "stall":
            self.server.end.wait(10)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield server
    server.end.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


@pytest.fixture(autouse=True)
def pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Runs in an empty folder; → the pauses between attempts, which are not waited for."""
    waited: list[float] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEWLABEL_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("time.sleep", waited.append)
    return waited


def wanted(url: str, **more: object) -> Source:
    return Source("file.bin", url, hashlib.sha256(BODY).hexdigest(), **more)  # type: ignore[arg-type]


def obtain(source: Source, mirror: Path | None = None, out: str = "out") -> str:
    place, path = download.obtain(source, Path(out), mirror)
    assert path.read_bytes() == BODY
    return place


def refused(url: str, *words: str, mirror: Path | None = None, **more: object) -> None:
    """The file is refused in one line with these words, and nothing is kept of it."""
    with pytest.raises(UserError) as error:
        obtain(wanted(url, **more), mirror)
    text = str(error.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []
    assert not Path("out/file.bin").exists()
    assert not PART.exists() or not PART.stat().st_size


def test_a_plain_download_is_kept_so_that_a_second_run_needs_no_network(server: Server) -> None:
    assert obtain(wanted(server.url)) == obtain(wanted(server.url)) == "official"
    assert server.ranges == [None]
    assert not PART.exists()
    (download.DOWNLOADS / "file.bin").write_bytes(BODY[:-1])  # a damaged one is replaced
    obtain(wanted(server.url))
    assert server.ranges == [None, None]


@pytest.mark.parametrize("failure", ["cut", "stall"])
def test_a_download_continues_where_it_was_cut(server: Server, monkeypatch, failure: str) -> None:
    monkeypatch.setattr(download, "READ_S", 0.2)
    server.script = [failure] * 5  # more than TRIES: each brought new bytes
    obtain(wanted(server.url))
    assert server.starts == sorted(set(server.starts))
    assert len(server.starts) == 6


@pytest.mark.parametrize("had", [1000, len(BODY)])
def test_a_later_run_continues_what_a_killed_one_left(server: Server, had: int) -> None:
    PART.parent.mkdir(parents=True)
    PART.write_bytes(BODY[:had])
    obtain(wanted(server.url))
    assert server.starts == ([had] if had < len(BODY) else [])


@pytest.mark.parametrize(
    ("script", "from_the_start"),
    [
        (["cut", "ignore"], 1),
        (["no length cut"], 2),
        (["cut", "refuse"], 2),
        (["other cut"], 2),  # the two halves make no file
        ([503, 429, "cut", 500, 408], 3),
    ],
    ids=str,
)
def test_what_can_be_had_is_fetched_to_its_end(server: Server, script: list[int | str], from_the_start: int) -> None:
    server.script = script
    assert obtain(wanted(server.url)) == "official"
    assert server.ranges.count(None) == from_the_start


def test_a_server_that_stays_busy_is_given_up_after_pauses_that_grow(server: Server, pauses: list[float]) -> None:
    server.script = [503] * 20
    refused(server.url, "HTTP 503")
    assert len(server.ranges) == download.TRIES
    assert pauses == [1, 2]


def test_a_missing_file_says_what_was_tried_and_the_ways_out(server: Server, tmp_path: Path) -> None:
    server.script = [404]
    (tmp_path / "mirror").mkdir()
    ways_out = ("FEWLABEL_MIRROR", "data.source=embedded")
    refused(server.url, "file.bin", "has no such file", server.url, "HTTP 404", *ways_out, mirror=tmp_path / "mirror")
    assert len(server.ranges) == 1
    refused("http://127.0.0.1:9/x", "nowhere: is no folder", "no answer (ConnectionError)", mirror=Path("nowhere"))


def test_wrong_bytes_are_refused_and_not_kept(server: Server, monkeypatch) -> None:
    refused(server.url, server.url, "md5", md5="0" * 32)
    server.body = b"<html>please log in</html>"
    refused(server.url, server.url, "wrong or damaged content")
    server.body = BODY
    monkeypatch.setattr(download, "MAX_BYTES", len(BODY) // 2)
    refused(server.url, "sends more than")


def test_a_proxys_password_is_not_printed(monkeypatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://me:hunter2@127.0.0.1:9")
    with pytest.raises(UserError, match="ProxyError") as error:
        obtain(wanted("http://files.invalid/file.bin"))
    assert "hunter2" not in str(error.value)


def test_two_at_once_download_it_once(server: Server) -> None:
    server.gate.clear()
    places: list[str] = []
    works = [lambda out=out: places.append(obtain(wanted(server.url), out=out)) for out in ("one", "two")]
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    server.gate.set()
    for thread in threads:
        thread.join(20)
    assert places == ["official", "official"]
    assert server.ranges == [None]


def test_the_mirror_comes_first_also_under_its_other_name(server: Server) -> None:
    Path("mirror/deep").mkdir(parents=True)
    Path("mirror/deep/file.xz").write_bytes(BODY)
    source = wanted(server.url, folder="deep", also=("file.xz",))
    place, path = download.obtain(source, Path("out"), Path("mirror"))
    assert (place, path.name, server.ranges) == ("mirror", "file.xz", [])


def test_a_damaged_file_of_the_mirror_is_an_error_not_a_reason_to_look_elsewhere(server: Server) -> None:
    Path("mirror").mkdir()
    Path("mirror/file.bin").write_bytes(BODY[:-1])
    refused(server.url, "mirror/file.bin: wrong or damaged content", mirror=Path("mirror"))
    assert server.ranges == []
    assert list(Path("out").iterdir()) == []


def test_the_variable_wins_over_the_params(monkeypatch) -> None:
    assert download.mirror_folder("a") == Path("a")
    monkeypatch.setenv("FEWLABEL_MIRROR", "b")
    assert download.mirror_folder("a") == Path("b")
