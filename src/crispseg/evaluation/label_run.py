"""Label maps of a whole data set: made or read, refined, kept on disk, measured; goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crispseg.data.datasets.base import Colour, Dataset, Labelled
from crispseg.evaluation.journal import Journal
from crispseg.evaluation.labels import Labels, LabelScores, LabelSums, group_numbers
from crispseg.io import write_labels
from crispseg.io.labels import read_labels
from crispseg.types import InputError

AFTER, BEFORE = "labels", "before"
"""Folders of label maps in the output folder: the result, and what a refiner was given."""


@dataclass(frozen=True)
class Made:
    """The label map of an image.

    Attributes:
        labels: (H, W) class numbers.
        before: what it was before refinement; None if nothing refines.
        seconds: that making it took; 0 if it was read from a file.
    """

    labels: Labels
    before: Labels | None
    seconds: float


@dataclass(frozen=True)
class Source:
    """Where label maps come from.

    Attributes:
        predict: gives the label map of an image.
        refine: makes a better one of image and label map; None if nothing does.
        files: files that ``predict`` reads for an image, role -> path; empty if it is a network.
    """

    predict: Callable[[Labelled], Labels]
    refine: Callable[[Labelled, Labels], Labels] | None = None
    files: Callable[[Labelled], Mapping[str, Path]] = lambda _: {}

    def make(self, item: Labelled) -> Made:
        """The label map of an image, and how long it took."""
        given = bool(self.files(item))
        start = time.perf_counter()
        labels = self.predict(item)
        seconds = 0.0 if given else time.perf_counter() - start
        if self.refine is None:
            return Made(labels, None, seconds)
        start = time.perf_counter()
        refined = self.refine(item, labels)
        return Made(refined, labels, seconds + time.perf_counter() - start)


class MadeLabels:
    """Label maps in a folder, with a journal, so that a run that was stopped goes on.

    Args:
        folder: that exists.
        journal: of the same run.
        colours: RGB of each class, for the palette.
    """

    def __init__(self, folder: Path, journal: Journal, colours: Sequence[Colour]) -> None:
        self.folder, self.journal, self.colours = folder, journal, colours

    def has(self, item: Labelled, source: Source) -> bool:
        """Whether ``load`` gives something; no pixel is read."""
        return self._kept(item, source) is not None

    def load(self, item: Labelled, source: Source) -> Made | None:
        """What was made of an image, if everything it was made from is as it was."""
        values = self._kept(item, source)
        if values is None:
            return None
        before = None
        if source.refine:
            given = source.files(item)
            before = source.predict(item) if given else read_labels(self._path(BEFORE, item))
        return Made(read_labels(self._path(AFTER, item)), before, float(values["seconds"]))

    def _kept(self, item: Labelled, source: Source) -> Mapping[str, Any] | None:
        """The journal's line about an image, if all files that go with it are there."""
        kinds = [AFTER] if not source.refine or source.files(item) else [AFTER, BEFORE]
        if not all(self._path(kind, item).is_file() for kind in kinds):
            return None
        return self.journal.values(item.name, _inputs(item, source))

    def save(self, item: Labelled, source: Source, made: Made) -> None:
        """Write what was made of an image, then a line about it.

        Raises:
            InputError: it cannot be written.
        """
        self._write(AFTER, item, made.labels)
        if made.before is not None and not source.files(item):
            self._write(BEFORE, item, made.before)
        self.journal.put(_inputs(item, source), {"name": item.name, "seconds": made.seconds})

    def _path(self, kind: str, item: Labelled) -> Path:
        return self.folder / kind / f"{item.name}.png"

    def _write(self, kind: str, item: Labelled, labels: Labels) -> None:
        path = self._path(kind, item)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from None
        write_labels(path, labels, self.colours)


def _inputs(item: Labelled, source: Source) -> dict[str, Path]:
    image = {"image": item.image} if item.image else {}
    return {**image, **source.files(item)}


def evaluate_labels(
    dataset: Dataset,
    source: Source,
    *,
    limit: int | None = None,
    store: MadeLabels | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LabelScores, LabelScores | None]:
    """Measure label maps of a whole data set, one image at a time.

    Args:
        dataset: images with truth.
        source: of the label maps.
        limit: only the first so many images.
        store: label maps that it has are taken over, others are written to it.
        progress: called with (images done, images in all).

    Returns:
        The scores, and those before refinement if something refines.

    Raises:
        InputError: a file cannot be read or written, sizes differ, a number is no class, or no
            image at all.
    """
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if not total:
        raise InputError(f"{dataset.name} has no images to measure")
    groups = group_numbers(dataset.categories) or None
    after, before = (LabelSums(dataset, groups) for _ in range(2))
    for done in range(total):
        if progress:
            progress(done, total)
        item = dataset[done]
        made = store.load(item, source) if store else None
        if made is None:
            made = source.make(item)
            if store:
                store.save(item, source, made)
        truth = item.read_labels()
        instances = None
        if item.read_instances and dataset.average_sizes:
            instances = item.read_instances()
        after.add(item.name, made.labels, truth, instances, made.seconds)
        if made.before is not None:
            before.add(item.name, made.before, truth, instances, 0.0)
    if progress:
        progress(total, total)
    return after.scores(), before.scores() if source.refine else None
