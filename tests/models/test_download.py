"""Downloads from a local server that also truncates, stalls, corrupts and refuses."""

from __future__ import annotations

import errno
import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import pytest

from crispseg.models import download as module
from crispseg.models import zoo
from crispseg.models.download import DownloadError, download
from crispseg.models.zoo import WeightSpec
from crispseg.types import InputError

CONTENT = bytes(range(256)) * 4000
NAME = "tested"


class Handler(BaseHTTPRequestHandler):
    """Behaves as the path says: /good, /truncates, /stalls/2 (twice), /corrupts, ..."""

    def do_GET(self) -> None:
        behaviour = self.path.strip("/").split("/")[0]
        calls = self.server.calls
        calls.append((behaviour, self.headers.get("Range")))
        times = int(self.path.rstrip("/").split("/")[-1]) if self.path.count("/") > 1 else 99
        misbehaves = len(calls) <= times
        if behaviour in ("404", "503") and misbehaves:
            self.send_error(int(behaviour))
            return
        body = CONTENT if behaviour != "corrupts" else CONTENT[::-1]
        start = self._start() if behaviour not in ("noranges", "nolength") else 0
        if behaviour == "redirects":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1:9/x")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            # "elsewhere" sends the right bytes but says that they are others.
            first = start if behaviour != "elsewhere" else 7
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        if behaviour != "nolength":
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        breaks = behaviour in ("truncates", "stalls", "noranges", "elsewhere") and misbehaves
        part = body[start : start + 300_000] if breaks else body[start:]
        self.wfile.write(part)
        self.wfile.flush()
        if behaviour == "stalls" and misbehaves:
            self.server.stopping.wait(5)

    def _start(self) -> int:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        return int(match[1]) if match else 0

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.calls, server.stopping = [], threading.Event()
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _spec(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = WeightSpec(
        name=NAME,
        architecture="cascadepsp-resnet50",
        filename="tested.pth",
        licence="MIT",
        size_bytes=len(CONTENT),
        task="",
        url="http://127.0.0.1:9/never",
        md5=hashlib.md5(CONTENT).hexdigest(),
    )
    monkeypatch.setitem(zoo.KNOWN, NAME, spec)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def fetch(server: ThreadingHTTPServer, path: str, folder: Path, **options) -> Path:
    url = f"http://127.0.0.1:{server.server_address[1]}/{path}"
    return download(NAME, url=url, folder=folder, timeout_s=0.3, pause_s=0.01, **options)


def test_good_server_with_progress(server, tmp_path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = fetch(server, "good", tmp_path, on_bytes=lambda *numbers: seen.append(numbers))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert [p.name for p in tmp_path.iterdir()] == ["tested.pth"]
    assert fetch(server, "good", tmp_path) == path
    assert len(server.calls) == 1  # already here: not fetched again


def test_a_wrong_file_of_that_name_is_fetched_again(server, tmp_path) -> None:
    (tmp_path / "tested.pth").write_bytes(b"old")
    assert fetch(server, "good", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", ["truncates", "stalls"])
def test_broken_transfers_are_continued_where_they_stopped(server, behaviour, tmp_path) -> None:
    assert fetch(server, f"{behaviour}/2", tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.calls] == [None, "bytes=300000-", "bytes=600000-"]


def test_a_server_without_ranges_begins_again(server, tmp_path) -> None:
    assert fetch(server, "noranges/1", tmp_path).read_bytes() == CONTENT


def test_a_server_that_continues_at_another_place_begins_again(server, tmp_path) -> None:
    assert fetch(server, "elsewhere/1", tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.calls] == [None, "bytes=300000-", None]


def test_a_server_that_does_not_say_the_length(server, tmp_path) -> None:
    assert fetch(server, "nolength", tmp_path).read_bytes() == CONTENT


def test_a_server_that_recovers(server, tmp_path) -> None:
    assert fetch(server, "503/2", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("corrupts", "MD5 .* wanted"),
        ("404", "404"),
        ("503", "503.*4 times"),
        ("noranges", "broke off after 300,000 of 1,024,000 bytes, 4 times"),
    ],
)
def test_failures_are_one_line_and_leave_nothing(server, path, message, tmp_path) -> None:
    old = tmp_path / "tested.pth"
    old.write_bytes(b"what was there before")
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(server, path, tmp_path)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["tested.pth"]
    assert old.read_bytes() == b"what was there before"


def test_a_server_that_never_answers(tmp_path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/x"
        with pytest.raises(DownloadError, match=r"no answer within 0\.1 s, 4 times"):
            download(NAME, url=url, folder=tmp_path, timeout_s=0.1, pause_s=0.01)


def test_offline_says_so_and_what_to_do(tmp_path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match=r"cannot reach 127.0.0.1: .*check the connection"):
        download(NAME, url=f"http://127.0.0.1:{port}/x", folder=tmp_path, pause_s=0.01)
    assert list(tmp_path.iterdir()) == []


class Torn:
    """A response whose body breaks with an error that TLS or the network raises."""

    def __init__(self, response: object, error: OSError) -> None:
        self.response, self.error = response, error

    def __getattr__(self, name: str) -> object:
        return getattr(self.response, name)

    def read1(self, _size: int) -> bytes:
        raise self.error


@pytest.mark.parametrize(
    "error", [ssl.SSLError(1, "bad record"), OSError(errno.ENETUNREACH, "unreachable")]
)
def test_a_torn_connection_is_not_taken_for_a_full_disk(error, server, tmp_path, monkeypatch):
    receive, torn = module._receive, [1]

    def receive_torn(response, *arguments) -> None:
        receive(Torn(response, error) if torn and torn.pop() else response, *arguments)

    monkeypatch.setattr(module, "_receive", receive_torn)
    assert fetch(server, "good", tmp_path).read_bytes() == CONTENT
    assert len(server.calls) == 2


def test_a_full_disk_says_so_and_leaves_nothing(server, tmp_path) -> None:
    def fill(_done: int, _total: int | None) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DownloadError, match=r"cannot write .*No space left"):
        fetch(server, "good", tmp_path, on_bytes=fill)
    assert len(server.calls) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_goes_away_is_tried_again(server, tmp_path, monkeypatch) -> None:
    fetch_all, seen = module.build_opener, []

    def opener(*handlers):
        seen.append(1)
        if len(seen) == 2:  # the transfer has begun by then
            raise URLError(socket.gaierror(-3, "Temporary failure in name resolution"))
        return fetch_all(*handlers)

    monkeypatch.setattr(module, "build_opener", opener)
    assert fetch(server, "truncates/1", tmp_path).read_bytes() == CONTENT
    assert len(seen) == 3


def test_ctrl_c_leaves_nothing(server, tmp_path) -> None:
    def interrupt(_done: int, _total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, "good", tmp_path, on_bytes=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_fetched(tmp_path) -> None:
    for url in (f"file://{tmp_path}/x", "http://", "http://[x", "http://a:b/", "http://a b/", "ü"):
        with pytest.raises(InputError, match="only http"):
            download(NAME, url=url, folder=tmp_path)
    for timeout_s in (0, -1, float("nan"), 1e30):
        with pytest.raises(InputError, match="timeout"):
            download(NAME, folder=tmp_path, timeout_s=timeout_s)
    with pytest.raises(InputError, match="did you mean tested"):
        download("testing")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        download(NAME, url="http://127.0.0.1:9/x", folder=blocked)


def test_redirects_lead_to_web_addresses_only(server, tmp_path) -> None:
    with pytest.raises(InputError, match=r"only http.*ftp:"):
        fetch(server, "redirects", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_downloads_at_a_time_do_not_meet(server, tmp_path) -> None:
    threads = [threading.Thread(target=fetch, args=(server, "good", tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in tmp_path.iterdir()] == ["tested.pth"]
    assert (tmp_path / "tested.pth").read_bytes() == CONTENT


def test_the_known_address_is_the_authors() -> None:
    spec = zoo.KNOWN["cascadepsp-resnet50"]
    assert spec.url == "https://github.com/hkchengrex/CascadePSP/releases/download/v1.0/model"
    assert spec.md5 == "7478d4a9c42ab52beb6d7e9683402fe0"
    assert module.ATTEMPTS >= 2
