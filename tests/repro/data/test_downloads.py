"""Downloads from a server of this process: whole, cut, silent, without ranges, and not what was published."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from repro.data import downloads
from repro.data.downloads import fetch
from repro.errors import UserError

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `CONTENT`, and breaks off as a test tells it."""

    daemon_threads = False  # closing waits for threads: what they print after their test would be the next one's

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.bytes_a_connection = len(CONTENT)
        self.ranges, self.silent, self.ended = True, False, threading.Event()
        self.code = 0  # an error that it answers with; 0: none
        self.length: str | None = None  # the length that it states; None: the right one

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/folder/file.tar"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers["Range"])
        if self.server.silent:
            self.server.ended.wait()
            return
        if self.server.code:
            self.send_error(self.server.code)
            return
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if self.server.ranges else 200)
        self.send_header("Content-Length", self.server.length or str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : start + self.server.bytes_a_connection])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        served.ended.set()
        served.shutdown()


def test_a_download_that_is_cut_goes_on(server: Server, tmp_path: Path) -> None:
    server.bytes_a_connection = 6000
    path = fetch(server.url, tmp_path / "new", MD5)
    assert path == tmp_path / "new/file.tar"
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=0-", "bytes=6000-"]
    assert list((tmp_path / "new").iterdir()) == [path]
    fetch(server.url, tmp_path / "new", MD5)
    assert len(server.asked) == 2


@pytest.mark.parametrize("length", ["many", "-1"])
def test_a_length_that_is_none_is_as_if_the_server_said_nothing(server: Server, tmp_path: Path, length: str) -> None:
    server.length = length
    assert fetch(server.url, tmp_path, MD5).read_bytes() == CONTENT


@pytest.mark.parametrize("there", [4000, len(CONTENT)])
def test_what_a_killed_process_left_is_gone_on_with(server: Server, tmp_path: Path, there: int) -> None:
    (tmp_path / ".file.tar.part").write_bytes(CONTENT[:there])
    assert fetch(server.url, tmp_path, MD5).read_bytes() == CONTENT
    assert server.asked == [f"bytes={there}-"]


def test_without_ranges_it_begins_anew(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / ".file.tar.part").write_bytes(b"other")
    assert fetch(server.url, tmp_path, MD5).read_bytes() == CONTENT


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "SILENCE_SECONDS", 0.2)
    server.silent = True
    with pytest.raises(UserError, match=r"cannot download http://.*file\.tar \(.*timed out\); mend: .*--from FILE"):
        fetch(server.url, tmp_path, MD5)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_is_gone_is_told_by_its_code(server: Server, tmp_path: Path) -> None:
    server.code = 404
    with pytest.raises(UserError, match=r"file\.tar \(HTTP Error 404: Not Found\); mend: download it elsewhere"):
        fetch(server.url, tmp_path, MD5)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_the_published_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"what came has the MD5 {MD5}, the published file 0"):
        fetch(server.url, tmp_path, "0")
    assert list(tmp_path.iterdir()) == []


def test_a_torn_file_under_its_own_name_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.tar").write_bytes(CONTENT[:100])
    assert fetch(server.url, tmp_path, MD5).read_bytes() == CONTENT
