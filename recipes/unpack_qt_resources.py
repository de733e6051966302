"""Unpack the pictures of Qt resource files (``*.rcc``), as ``rcc --reverse`` would.

The Debian package ``gcompris-qt-data`` keeps about 130 photographs of animals, monuments and
musicians in such files (free licences, see its copyright file). Example::

    apt-get download gcompris-qt-data && dpkg -x gcompris-qt-data*.deb unpacked
    python recipes/unpack_qt_resources.py unpacked/usr/share/gcompris-qt/rcc gcompris-photos
"""

from __future__ import annotations

import argparse
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

COMPRESSED, DIRECTORY, ZSTANDARD = 1, 2, 4
PICTURES = (".jpg", ".jpeg", ".webp", ".png")


def main() -> None:
    """Parse the command line and unpack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of .rcc files")
    parser.add_argument("out", type=Path, help="folder for the pictures, one subfolder per file")
    options = parser.parse_args()
    for archive in sorted(options.source.glob("*.rcc")):
        for name, content in pictures(archive.read_bytes()):
            target = options.out / archive.stem / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def pictures(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content) of every picture in a Qt resource file."""
    magic, version, tree, data, names = struct.unpack_from(">4sIIII", archive)
    if magic != b"qres":
        raise SystemExit("not a Qt resource file")
    node_size = 14 if version == 1 else 22
    pending = [0]
    while pending:
        node = tree + pending.pop() * node_size
        name_at, flags = struct.unpack_from(">IH", archive, node)
        if flags & DIRECTORY:
            count, first = struct.unpack_from(">II", archive, node + 6)
            pending.extend(range(first, first + count))
            continue
        length = struct.unpack_from(">H", archive, names + name_at)[0]
        start = names + name_at + 6  # the length and a hash come first
        name = Path(archive[start : start + 2 * length].decode("utf-16-be")).name
        if name.lower().endswith(PICTURES) and not flags & ZSTANDARD:
            at = data + struct.unpack_from(">I", archive, node + 10)[0]
            size = struct.unpack_from(">I", archive, at)[0]
            content = archive[at + 4 : at + 4 + size]
            yield name, zlib.decompress(content[4:]) if flags & COMPRESSED else content


if __name__ == "__main__":
    main()
