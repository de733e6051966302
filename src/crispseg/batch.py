"""Many images, one after the other: reading the next and writing the last overlap the network.

read (one thread) -> network (this thread) -> write (one thread)

One image waits on each side of the network, no more: memory is that of three images, and each is
handed on, never copied. Order and results are those of one image at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from crispseg.io import (
    DEFAULT_MAX_PIXELS,
    LABEL_SUFFIXES,
    check_output,
    read_image,
    write_labels,
    write_mask,
)
from crispseg.io.journal import run_folder
from crispseg.large import Job, Summary, is_large, refine_large, summary_of
from crispseg.large_labels import LabelSummary, is_large_photo, segment_large, summary_of_labels
from crispseg.pipeline import read_inputs
from crispseg.refiners.base import Refinement
from crispseg.refiners.cascade import CascadeRefiner
from crispseg.segmenters.base import Labels
from crispseg.segmenters.network import NetworkSegmenter
from crispseg.types import Image, InputError, Mask

Input = TypeVar("Input")
Read = TypeVar("Read")
Made = TypeVar("Made")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Steps(Generic[Input, Read, Made, Result]):
    """The three steps of an image.

    Attributes:
        read: files to arrays, in a thread of its own.
        make: the network, in the caller's thread.
        write: arrays to a file, in a third thread; its account is what is kept.
    """

    read: Callable[[Input], Read]
    make: Callable[[Input, Read], Made]
    write: Callable[[Input, Made], Result]


@dataclass(frozen=True)
class Outcome(Generic[Input, Result]):
    """What became of one input.

    Attributes:
        item: the input.
        result: an account of it; None if it failed.
        error: why it failed; None if it did not.
    """

    item: Input
    result: Result | None
    error: InputError | None = None


def overlapped(
    inputs: Iterable[Input], steps: Steps[Input, Read, Made, Result]
) -> Iterator[Outcome[Input, Result]]:
    """Take every input through the steps, in order.

    While ``make`` works on one input, the next is read and the last is written; no more than that
    is under way. When the iteration ends early, by an exception, Ctrl-C or ``close``, what is
    being read or written is waited for, and nothing else is begun.

    Args:
        inputs: in the order wanted.
        steps: what is done with each.

    Yields:
        An outcome for each; InputErrors of its steps are part of it, other exceptions pass.
    """
    todo = iter(inputs)
    last: tuple[Input, Future[Result]] | None = None
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:

        def begin() -> tuple[Input, Future[Read]] | None:
            for item in todo:
                return item, reader.submit(steps.read, item)
            return None

        following = begin()
        while following:
            item, reading = following
            wait([reading])
            following = begin()
            writing: Future[Result] = Future()
            try:
                made = steps.make(item, reading.result())
            except InputError as error:
                writing.set_exception(error)
            else:
                writing = writer.submit(steps.write, item, made)
                del made
            del reading  # it holds the pixels
            if last:
                yield _outcome(*last)
            last = item, writing
        if last:
            yield _outcome(*last)


def _outcome(item: Input, writing: Future[Result]) -> Outcome[Input, Result]:
    try:
        return Outcome(item, writing.result())
    except InputError as error:  # without the frames that it came through: they hold the pixels
        error.__cause__ = error.__context__ = None
        return Outcome(item, None, error.with_traceback(None))


def refine_files(
    jobs: Sequence[Job],
    refiner: CascadeRefiner,
    *,
    max_pixels: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome[Job, Summary]]:
    """Refine the masks of many photos; one that fails does not stop the others.

    Photos that fit into memory are read and written beside the network; larger ones and rasters
    with a grid are streamed, each by itself (``pipeline.refine_file`` says which).

    Args:
        jobs: image, mask and output of each, and how; roi, region and polygons as well.
        refiner: from ``pipeline.load_refiner``.
        max_pixels: photos above are errors; None: any size is streamed.
        progress: called with (images done, images in all).

    Yields:
        An outcome for each job, in order.
    """

    def read(job: Job) -> tuple[Image, Mask] | None:
        if is_large(job, max_pixels=max_pixels):
            return None
        check_output(job.output)
        return read_inputs(job.image, job.mask, max_pixels=max_pixels or DEFAULT_MAX_PIXELS)

    def make(job: Job, arrays: tuple[Image, Mask] | None) -> Summary | tuple[Mask, Refinement]:
        if arrays is None:
            return refine_large(job, refiner)
        return arrays[1], refiner.run(*arrays, roi=job.roi)

    def write(job: Job, made: Summary | tuple[Mask, Refinement]) -> Summary:
        if isinstance(made, Summary):
            return made
        write_mask(job.output, made[1].mask, binary=job.binary)
        return summary_of(*made)

    for done, outcome in enumerate(overlapped(jobs, Steps(read, make, write)), 1):
        if progress:
            progress(done, len(jobs))
        yield outcome


def segment_files(
    jobs: Sequence[tuple[Path, Path]],
    segmenter: NetworkSegmenter,
    *,
    restart: bool = False,
    max_pixels: int | None = None,
    progress: Progress | None = None,
) -> Iterator[Outcome[tuple[Path, Path], LabelSummary]]:
    """Name the class of every pixel of many photos; one that fails does not stop the others.

    Photos that fit into memory are read and written beside the network; larger ones and rasters
    with a grid are streamed, each by itself (``pipeline.segment_file`` says which).

    Args:
        jobs: image and output of each.
        segmenter: from ``segmenters.load.load_segmenter``.
        restart: throw away what interrupted runs have left.
        max_pixels: photos above are errors; None: any size is streamed.
        progress: called with (images done, images in all).

    Yields:
        An outcome for each job, in order.
    """

    def read(job: tuple[Path, Path]) -> Image | None:
        begun = restart and run_folder(job[1]).exists()
        if is_large_photo(*job, restart=begun, max_pixels=max_pixels):
            return None
        check_output(job[1], LABEL_SUFFIXES)
        return read_image(job[0], max_pixels=max_pixels or DEFAULT_MAX_PIXELS)

    def make(job: tuple[Path, Path], pixels: Image | None) -> LabelSummary | Labels:
        if pixels is None:
            return segment_large(*job, segmenter, restart=restart)
        return segmenter.segment(pixels)

    def write(job: tuple[Path, Path], made: LabelSummary | Labels) -> LabelSummary:
        if isinstance(made, LabelSummary):
            return made
        write_labels(job[1], made, segmenter.colours)
        return summary_of_labels(made, segmenter.num_classes)

    for done, outcome in enumerate(overlapped(jobs, Steps(read, make, write)), 1):
        if progress:
            progress(done, len(jobs))
        yield outcome
