"""Which image, coarse mask and true mask belong together; what is wrong with them, told early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crispseg.io import image_size, mask_size
from crispseg.types import InputError, Size

SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".heif"),
    *(".avif", ".pbm", ".pgm", ".ppm", ".npy"),
)
"""What read_image and read_mask read, by its usual suffixes."""
ROLES = ("image", "coarse", "truth", "refined")
ENDINGS = {"image": "_im", "coarse": "_seg", "truth": "_gt", "refined": "_refined"}
"""What the BIG data set appends to the stem; "_refined" is ours."""


@dataclass(frozen=True)
class Case:
    """The files of one image; ``refined`` is None where a model is to make it."""

    name: str
    image: Path
    coarse: Path
    truth: Path
    refined: Path | None = None

    def files(self) -> dict[str, Path]:
        """Role -> file, those that there are."""
        paths = (self.image, self.coarse, self.truth, self.refined)
        return {role: path for role, path in zip(ROLES, paths, strict=True) if path}


@dataclass(frozen=True)
class Skip:
    """An image that cannot be measured, and why."""

    name: str
    reason: str


def find_cases(
    images: Path, coarse: Path, truth: Path, refined: Path | None = None
) -> tuple[list[Case], list[Skip]]:
    """Match the files of folders by their stems.

    The endings of the BIG data set (``name_im.jpg``, ``name_seg.png``, ``name_gt.png``) and
    ``name_refined.png`` are taken off. Where one folder is given for several roles, only files
    with the ending of a role are looked at. Subfolders, hidden files and files that are no images
    by their suffix are passed over.

    Returns:
        The complete cases, sorted by name, and a Skip for every name that lacks a file.

    Raises:
        InputError: a folder is missing or has no images, two files of one folder have one name,
            or nothing belongs together.
    """
    folders = {"image": images, "coarse": coarse, "truth": truth}
    if refined:
        folders["refined"] = refined
    found, skips = match_files(folders)
    return [Case(name, **files) for name, files in found.items()], skips


def match_files(folders: Mapping[str, Path]) -> tuple[dict[str, dict[str, Path]], list[Skip]]:
    """Match the files of folders by their stems, as ``find_cases`` says.

    Args:
        folders: of some of the ``ROLES``.

    Returns:
        Name -> role -> file, sorted by name, where there is one for each role; and a Skip for every
        name that lacks a file.

    Raises:
        InputError: as ``find_cases``.
    """
    shared = [folder.resolve() for folder in folders.values()]
    found = {
        role: _by_name(folder, role, mixed=shared.count(folder.resolve()) > 1)
        for role, folder in folders.items()
    }
    complete, skips = {}, []
    for name in sorted(set().union(*found.values())):
        missing = [role for role in folders if name not in found[role]]
        if missing:
            lacks = " and ".join(f"{role} file in {folders[role]}" for role in missing)
            skips.append(Skip(name, f"has no {lacks}"))
        else:
            complete[name] = {role: found[role][name] for role in folders}
    if not complete:
        raise InputError(
            f"nothing belongs together: {skips[0].name!r} {skips[0].reason}; files are matched by "
            "their names without suffix (name.jpg and name.png, or name_im, name_seg, name_gt)"
        )
    return complete, skips


def _by_name(folder: Path, role: str, *, mixed: bool) -> dict[str, Path]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise InputError(f"cannot list the folder {folder}: {error.strerror}") from None
    ending = ENDINGS[role]
    found: dict[str, Path] = {}
    for path in paths:
        if path.name.startswith(".") or (mixed and not path.stem.endswith(ending)):
            continue
        name = path.stem.removesuffix(ending)
        if name in found:
            raise InputError(
                f"{folder} has two {role} files for {name!r}: {found[name].name} and {path.name}"
            )
        found[name] = path
    if not found:
        named = f" named like name{ending}.png" if mixed else ""
        raise InputError(f"{folder} has no {role} files{named}")
    return found


def check_cases(cases: Iterable[Case]) -> tuple[list[Case], list[Skip]]:
    """Those whose files all have the truth's size, by their headers, and those that do not.

    A file whose header cannot be read is a Skip as well. The EXIF orientation of images is
    applied, that of masks is not.
    """
    good, skips = [], []
    for case in cases:
        try:
            _check_sizes(case)
        except InputError as error:
            skips.append(Skip(case.name, str(error)))
        else:
            good.append(case)
    return good, skips


def _check_sizes(case: Case) -> None:
    truth = mask_size(case.truth)
    for role, path in case.files().items():
        reader: Callable[[Path], Size] = image_size if role == "image" else mask_size
        size = reader(path)
        if size != truth:
            raise InputError(
                f"{path} is {size.width}x{size.height} but {case.truth} is "
                f"{truth.width}x{truth.height} (width x height); resize it first"
            )
