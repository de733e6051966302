"""Fetching weights: to a temporary name, checked, then renamed. Standard library only."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from crispseg.models.weights import WeightSpec, cache_folder, file_md5, known, local_file
from crispseg.types import CrispsegError, InputError

CHUNK_BYTES = 1 << 18
ATTEMPTS = 4

OnBytes = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None if the server does not say)."""


class DownloadError(CrispsegError):
    """A download that failed for good; what was there before is untouched."""


class _Broken(Exception):
    """A transfer that broke off and may be continued."""


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
        folder: where to keep it; ``weights.cache_folder()`` if None.
        on_bytes: progress.
        timeout_s: longest silence of the server.
        pause_s: before the second attempt; doubled before each further one.

    Returns:
        The file.

    Raises:
        InputError: unknown name, a model that is part of the package but missing, not an http URL,
            or a folder that cannot be written.
        DownloadError: offline, refused, broken off for good, or a wrong checksum.
    """
    spec = known(name)
    present = local_file(spec) if folder is None else _present(folder / spec.filename)
    if present and (spec.md5 is None or file_md5(present) == spec.md5):
        return present
    if spec.url is None:
        raise InputError(f"{name} is part of crispseg but its file is missing; install it again")
    source = url or spec.url
    if urlsplit(source).scheme not in ("http", "https"):
        raise InputError(f"only http and https addresses can be fetched, not {source!r}")
    target = (folder or cache_folder()) / spec.filename
    temporary = _temporary_beside(target)
    try:
        with temporary.open("wb") as file:
            _fetch(source, file, on_bytes, timeout_s, pause_s)
        _check(temporary, spec, source)
        temporary.replace(target)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _present(path: Path) -> Path | None:
    return path if path.is_file() else None


def _temporary_beside(target: Path) -> Path:
    """A new, empty file of its own, so that two downloads at a time do not meet."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write to {target.parent}: {reason}; set CRISPSEG_HOME to another folder"
        ) from None
    os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    Path(path).chmod(0o666 & ~umask)
    return Path(path)


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
        response = urlopen(request, timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if error.code >= 500:
            raise _Broken(f"the server answered {error.code} {error.reason}") from None
        if error.code == 416:
            # What is here already is longer than the file: begin again.
            file.seek(0)
            file.truncate()
            raise _Broken("the server has another file than before") from None
        raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from None
    except TimeoutError:
        raise _Broken(f"no answer within {timeout_s:g} s") from None
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _Broken(f"no answer within {timeout_s:g} s") from None
        raise DownloadError(
            f"cannot reach {urlsplit(url).hostname}: {error.reason}; check the connection, or "
            f"fetch {url} elsewhere and give the file with --model"
        ) from None
    except (HTTPException, ConnectionError) as error:
        raise _Broken(f"the connection broke ({error})") from None
    with response:
        if offset and response.status != 206:
            file.seek(0)
            file.truncate()
        _receive(response, file, on_bytes, timeout_s)


def _receive(
    response: HTTPResponse, file: IO[bytes], on_bytes: OnBytes | None, timeout_s: float
) -> None:
    length = response.headers.get("Content-Length")
    total = file.tell() + int(length) if length and length.isdigit() else None
    while True:
        try:
            # read1 hands over what has come, so that nothing is lost when the server stalls.
            chunk = response.read1(CHUNK_BYTES)
        except TimeoutError:
            raise _Broken(f"no data for {timeout_s:g} s") from None
        except (HTTPException, ConnectionError) as error:
            raise _Broken(f"the connection broke ({error})") from None
        if not chunk:
            break
        file.write(chunk)
        if on_bytes:
            on_bytes(file.tell(), total)
    if total is not None and file.tell() < total:
        raise _Broken(f"the transfer broke off after {file.tell():,} of {total:,} bytes")


def _check(path: Path, spec: WeightSpec, url: str) -> None:
    digest = file_md5(path)
    if spec.md5 and digest != spec.md5:
        raise DownloadError(
            f"{url} is not the file that was expected: MD5 {digest}, wanted {spec.md5}; "
            "nothing was kept"
        )
