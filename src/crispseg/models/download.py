"""Fetching weights: to a temporary name, checked, then renamed. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from crispseg.io.atomic import atomic_path, check_target
from crispseg.models.zoo import WeightSpec, cache_folder, known, local_file, wrong_checksum
from crispseg.types import CrispsegError, InputError

CHUNK_BYTES = 1 << 18
ATTEMPTS = 4

OnBytes = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None if the server does not say)."""


class DownloadError(CrispsegError):
    """A download that failed for good; what was there before is untouched."""


class _Broken(Exception):
    """A transfer that broke off and may be continued."""


class _WebOnly(HTTPRedirectHandler):
    """Follows a server to http and https addresses only; urllib's own goes to ftp as well."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(
    name: str,
    *,
    url: str | None = None,
    folder: Path | None = None,
    on_bytes: OnBytes | None = None,
    timeout_s: float = 30.0,
    pause_s: float = 1.0,
) -> Path:
    """Fetch the weights of a known model; does nothing if they are here already.

    A transfer that breaks off or stalls is continued where it stopped if the server can, else
    begun again, four times in all.

    Args:
        name: a known model.
        url: another place to fetch the same file from, http or https.
        folder: where to keep it; ``zoo.cache_folder()`` if None.
        on_bytes: progress.
        timeout_s: longest silence of the server.
        pause_s: before the second attempt; doubled before each further one.

    Returns:
        The file.

    Raises:
        InputError: unknown name, a model that is part of the package but missing, not an http URL,
            a timeout out of range, or a folder that cannot be written.
        DownloadError: offline, refused, broken off for good, disk full, or a wrong
            checksum.
    """
    spec = known(name)
    present = local_file(spec) if folder is None else folder / spec.filename
    if present and _is_right(present, spec):
        return present
    if spec.url is None:
        raise InputError(f"{name} is part of crispseg but its file is missing; install it again")
    if not 0 < timeout_s <= 86400:
        raise InputError(f"the timeout must be above 0 and at most 86400 s, not {timeout_s:g}")
    source = url or spec.url
    _check_address(source)
    target = (folder or cache_folder()) / spec.filename
    _make_room(target)
    try:
        with atomic_path(target) as temporary:
            with temporary.open("wb") as file:
                _fetch(source, file, on_bytes, timeout_s, pause_s)
            _check(temporary, spec, source)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from None
    return target


def _is_right(path: Path, spec: WeightSpec) -> bool:
    try:
        return path.is_file() and not wrong_checksum(path, spec)
    except OSError:
        return False


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not (usable and url.isascii() and url.isprintable() and " " not in url):
        raise InputError(f"only http and https addresses can be fetched, not {url!r}")


def _make_room(target: Path) -> None:
    """Make its folder; find out before the transfer whether the file can be written."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_target(target)
    except (OSError, InputError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot write to {target.parent}: {reason}; set CRISPSEG_HOME to another folder"
        ) from None


def _fetch(
    url: str, file: IO[bytes], on_bytes: OnBytes | None, timeout_s: float, pause_s: float
) -> None:
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause_s * 2 ** (attempt - 1))
        try:
            _transfer(url, file, on_bytes, timeout_s)
            return
        except _Broken as error:
            reason = str(error)
    raise DownloadError(f"{url}: {reason}, {ATTEMPTS} times; try again later")


def _transfer(url: str, file: IO[bytes], on_bytes: OnBytes | None, timeout_s: float) -> None:
    """Fetch what is still missing of the file."""
    offset = file.tell()
    request = Request(url, headers={"User-Agent": "crispseg"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        response = build_opener(_WebOnly).open(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()
        raise _refusal(error, url, file) from None
    except (HTTPException, OSError) as error:
        raise _silence(error, url, timeout_s, begun=offset > 0) from None
    with response:
        if offset and response.status != 206:
            _begin_again(file)
        elif offset and not response.headers.get("Content-Range", "").startswith(
            f"bytes {offset}-"
        ):
            _begin_again(file)
            raise _Broken("the server continued at another place")
        _receive(response, file, on_bytes, timeout_s)


def _refusal(error: HTTPError, url: str, file: IO[bytes]) -> Exception:
    """What an HTTP error means."""
    answer = f"the server answered {error.code} {_line(error.reason)}"
    if error.code == 416:  # what is here already is longer than the file
        _begin_again(file)
        return _Broken("the server has another file than before")
    if error.code >= 500 or error.code in (408, 429):
        return _Broken(answer)
    return DownloadError(f"{url}: {answer}")


def _silence(error: Exception, url: str, timeout_s: float, *, begun: bool) -> Exception:
    """What the lack of an answer means: worth another attempt, or no such server."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return _Broken(f"no answer within {timeout_s:g} s")
    if begun or not isinstance(error, URLError):
        return _Broken(f"the connection broke ({_line(reason)})")
    return DownloadError(
        f"cannot reach {urlsplit(url).hostname}: {_line(reason)}; check the connection, or "
        f"fetch {url} elsewhere and give the file with --model"
    )


def _begin_again(file: IO[bytes]) -> None:
    file.seek(0)
    file.truncate()


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]


def _receive(
    response: HTTPResponse, file: IO[bytes], on_bytes: OnBytes | None, timeout_s: float
) -> None:
    length = response.headers.get("Content-Length")
    total = file.tell() + int(length) if length and length.isdecimal() else None
    while True:
        try:
            # read1 hands over what has come, so that nothing is lost when the server stalls.
            chunk = response.read1(CHUNK_BYTES)
        except TimeoutError:
            raise _Broken(f"no data for {timeout_s:g} s") from None
        except (HTTPException, OSError) as error:  # TLS errors are OSErrors as well
            raise _Broken(f"the connection broke ({_line(error)})") from None
        if not chunk:
            break
        file.write(chunk)
        if on_bytes:
            on_bytes(file.tell(), total)
    if total is not None and file.tell() < total:
        raise _Broken(f"the transfer broke off after {file.tell():,} of {total:,} bytes")


def _check(path: Path, spec: WeightSpec, url: str) -> None:
    if wrong := wrong_checksum(path, spec):
        raise DownloadError(f"{url} is not the file that was expected: {wrong}; nothing was kept")
