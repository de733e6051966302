"""The part of ``crispseg evaluate`` for label maps: from options to a data set and predictions."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispseg.cli.evaluate_results import Outputs
from crispseg.cli.options import Mode, progress_bar
from crispseg.types import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crispseg.data.datasets import Dataset, Labelled
    from crispseg.evaluation.label_run import MadeLabels, Source
    from crispseg.evaluation.labels import LabelRow

RESULTS = "results.json"
Refine = Callable[["Labelled", "NDArray[Any]"], "NDArray[Any]"]


@dataclass(frozen=True)
class LabelTask:
    """What to measure, as the options say it.

    Attributes:
        dataset: name of a data set, or None for two folders of label maps.
        root: its folder.
        split: of it.
        labels: folder of true label maps.
        classes: of those, how many or a file of names.
        images: folder of images of those.
        predictions: folder of label maps to measure, or to refine.
        model: name or file of a segmenter.
        inference: options of the segmenter, as ``load_segmenter`` has them.
        refiner: name or file of CascadePSP's network.
        method: way to refine; None for the cascade if there is a refiner.
        segmenter: for MagNet, the network it was trained on; else ``model``.
        refinement: for MagNet, weights of its module.
        options: of the cascade for one object, as ``load_refiner`` has them.
        ids: "dataset" if predictions hold the numbers of the data set's own files, not classes.
    """

    dataset: str | None
    root: Path | None
    split: str
    labels: Path | None
    classes: str | None
    images: Path | None
    predictions: Path | None
    model: str | None = None
    inference: Mapping[str, Any] = field(default_factory=dict)
    refiner: str | None = None
    method: str | None = None
    segmenter: str | None = None
    refinement: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    ids: str | None = None

    def check(self, used: Sequence[Path | None], *, skip_bad: bool) -> None:
        """Refuse options that do not go together.

        Raises:
            InputError: they do not.
        """
        if any(used) or skip_bad:
            raise InputError(
                "--dataset and --labels measure label maps: no COARSE, TRUTH, --refined, --sheet "
                "or --skip-bad"
            )
        if self.dataset and self.labels:
            raise InputError("give --dataset or --labels, not both")
        if self.dataset and (self.root is None or self.images):
            raise InputError("--dataset needs --root, the folder of the data set, and no IMAGES")
        if self.labels and (not self.classes or not self.predictions):
            raise InputError("--labels needs --classes and --predictions")
        if self.model and self.predictions:
            raise InputError("give --model or --predictions, not both")
        if not self.model and not self.predictions:
            raise InputError("give --model, a segmenter, or --predictions, a folder of label maps")
        if self.ids == "dataset" and not (self.dataset and self.predictions):
            raise InputError("--prediction-ids dataset is for --dataset with --predictions")
        given = {k for k, v in self.inference.items() if v is not None and k != "device"}
        if given and not self.model:
            name = sorted(given)[0].replace("_", "-")
            raise InputError(f"--{name} is for a segmenter; give --model")

    @property
    def refines(self) -> bool:
        """Whether label maps are refined."""
        return bool(self.refiner or self.method)

    def run(
        self, output: Path | None, limit: int | None, outputs: Outputs, *, quiet: bool
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Measure; results and pictures of the worst, the median and the best images."""
        from crispseg.evaluation.label_run import evaluate_labels  # noqa: PLC0415
        from crispseg.evaluation.labels import label_report  # noqa: PLC0415
        from crispseg.runtime.memory import peak_mib  # noqa: PLC0415

        if output:
            _check_folder(output)
        dataset = self._open()
        if self.refines and not dataset.has_images:
            raise InputError("refining needs the images as well; give their folder as IMAGES")
        source = self._source(dataset)
        for item in dataset.items[:limit]:
            source.files(item)  # before long work
        made = self.refines or not self.predictions
        store = self._store(output, dataset, quiet=quiet) if output and made else None
        taken = [item for item in dataset.items[:limit] if store and store.has(item, source)]
        if taken and not quiet:
            print(
                f"{len(taken)} of {len(dataset.items[:limit])} label maps taken over from {output}",
                file=sys.stderr,
            )
        with progress_bar("evaluating", hidden=quiet) as progress:
            scores, before = evaluate_labels(
                dataset, source, limit=limit, store=store, progress=progress
            )
        settings = self._settings()
        if made:
            settings["peak_memory_mb"] = round(peak_mib())
        report = label_report(scores, dataset, settings, self._inputs(), before)
        if output:
            _write(output, report)
        pictures = {}
        if outputs.page:
            ranked = _worst_first(scores.rows, before.rows if before else None)
            pictures = _pictures(dataset, source, store, ranked, outputs.pictures)
        return report, pictures

    def _open(self) -> Dataset:
        if self.dataset and self.root:
            from crispseg.data.datasets import open_dataset  # noqa: PLC0415

            return open_dataset(self.dataset, self.root, self.split)
        from crispseg.data.datasets.folder import open_label_maps  # noqa: PLC0415

        assert self.labels
        return open_label_maps(self.labels, self.classes or "", self.images)

    def _source(self, dataset: Dataset) -> Source:
        from crispseg.evaluation.label_run import Source  # noqa: PLC0415

        refine = self._refine(dataset) if self.refines else None
        if self.predictions:
            predict, files = from_folder(self.predictions, dataset, own_ids=self.ids == "dataset")
            return Source(predict, refine, files)
        return Source(_segmenter(self.model or "", self.inference, dataset), refine)

    def _refine(self, dataset: Dataset) -> Refine:
        method = self.method or "cascade"
        if dataset.num_classes == 2 and method == "cascade":
            return _object_refiner(self.refiner, self.options)
        if self.options.get("fast") or self.options.get("mode") != Mode.default.value:
            raise InputError("--fast and --mode are for one object: data sets of 0 and 1")
        from crispseg.methods import load_label_refiner  # noqa: PLC0415
        from crispseg.pipeline import DEFAULT_MODEL  # noqa: PLC0415

        refiner = load_label_refiner(
            method,
            model=self.refiner or DEFAULT_MODEL,
            segmenter=self.segmenter or self.model,
            refinement=self.refinement,
            device=str(self.options["device"]),
        )
        return lambda item, labels: refiner.refine_labels(
            item.read_image(), labels, ignore_index=dataset.ignore_index
        )

    def _store(self, output: Path, dataset: Dataset, *, quiet: bool) -> MadeLabels:
        from crispseg.evaluation.journal import Journal  # noqa: PLC0415
        from crispseg.evaluation.label_run import MadeLabels  # noqa: PLC0415

        _make(output)
        decides = {"kind": "labels", "classes": list(dataset.class_names)}
        journal = Journal(output, decides | self._settings() | {"inputs": self._inputs()})
        if journal.changed and not quiet:
            changed = ", ".join(journal.changed)
            print(f"{journal.path}: {changed} changed; begun anew", file=sys.stderr)
        return MadeLabels(output, journal, dataset.colours)

    def _settings(self) -> dict[str, Any]:
        from crispseg import __version__  # noqa: PLC0415

        looks = {k: v for k, v in self.inference.items() if v is not None}
        ways = {"refiner": self.refiner, "method": self.method, "segmenter": self.segmenter}
        files = {"model": self.model, "refiner": self.refiner, "refinement": self.refinement}
        return {
            "crispseg": __version__,
            "model": self.model,
            **({"refiner": None} | {k: v for k, v in ways.items() if v}),
            "split": self.split if self.dataset else None,
            **({"prediction_ids": "dataset"} if self.ids == "dataset" else {}),
            **{k: list(v) if isinstance(v, tuple) else v for k, v in looks.items()},
            **{f"{k}_sha256": _checksum(v) for k, v in files.items() if v},
            **(dict(self.options) if self.refines else {}),
        }

    def _inputs(self) -> dict[str, str]:
        places = {
            "dataset": self.root,
            "labels": self.labels,
            "images": self.images,
            "predictions": self.predictions,
        }
        return {name: str(path) for name, path in places.items() if path}


def _checksum(model: str | Path) -> str | None:
    """SHA-256 of a weights file, or of a known model's; None where there is no such file."""
    from crispseg.io.journal import checksum  # noqa: PLC0415
    from crispseg.models.zoo import KNOWN, local_file  # noqa: PLC0415

    path = Path(model)
    if not path.is_file():
        found = local_file(KNOWN[str(model)]) if str(model) in KNOWN else None
        if found is None:
            return None
        path = found
    return checksum(path)


def from_folder(
    folder: Path, dataset: Dataset, *, own_ids: bool = False
) -> tuple[Callable[[Labelled], NDArray[Any]], Callable[[Labelled], dict[str, Path]]]:
    """Label maps of a folder, found by the names of a data set's images; and their files.

    Args:
        folder: of the files.
        dataset: whose images count.
        own_ids: whether the files hold the numbers of the data set's own, which become classes.

    Raises:
        InputError: no such folder, or, when called, no or two files for an image, or a number that
            is no class, or none of the data set's own.
    """
    from crispseg.data.datasets.base import read_recoded  # noqa: PLC0415
    from crispseg.io.labels import read_labels  # noqa: PLC0415

    file_of = _finder(folder, dataset)
    numbers = dataset.numbers if own_ids else {}
    if own_ids and not numbers:
        raise InputError(f"{dataset.name}: predictions hold classes; leave out --prediction-ids")

    def predict(item: Labelled) -> NDArray[Any]:
        path = file_of(item)["prediction"]
        labels = read_recoded(path, numbers, read_labels) if numbers else read_labels(path)
        if labels.size and labels.max() >= dataset.num_classes:
            wrong = labels[(labels >= dataset.num_classes) & (labels != dataset.ignore_index)]
            if wrong.size:
                raise InputError(
                    f"{path} holds label {int(wrong.max())}; {dataset.name} has the classes 0 to "
                    f"{dataset.num_classes - 1}{_own(labels, dataset)}"
                )
        return labels  # void may stay where the truth is void as well

    return predict, file_of


def _own(labels: NDArray[Any], dataset: Dataset) -> str:
    """What to do if these are the numbers of the data set's own files."""
    if not dataset.numbers or not set(labels.ravel().tolist()) <= set(dataset.numbers):
        return ""
    return "; if these are the numbers of its own files, give --prediction-ids dataset"


def _finder(folder: Path, dataset: Dataset) -> Callable[[Labelled], dict[str, Path]]:
    """What gives an image's label map in a folder.

    It is named as ``Labelled`` has it (``frankfurt_000000_000294``) or as the image's file
    (``frankfurt_000000_000294_leftImg8bit``), and may lie below the folder, as a city's do. Where
    names have folders in them (FSS-1000's ``abacus/1``), only those count.
    """
    from crispseg.data.datasets.base import find_by_name  # noqa: PLC0415

    files = find_by_name(folder)
    flat = not any("/" in item.name for item in dataset)
    below: dict[str, list[Path]] = {}
    for name, path in files.items() if flat else ():
        below.setdefault(name.rpartition("/")[2], []).append(path)

    def file_of(item: Labelled) -> dict[str, Path]:
        names = [item.name, item.image.stem] if item.image and flat else [item.name]
        found = [files[name] for name in names if name in files][:1]
        found = found or [path for name in dict.fromkeys(names) for path in below.get(name, [])]
        if len(found) > 1:
            raise InputError(f"{found[0]} and {found[1]} are both named like {item.name}; keep one")
        if not found:
            raise InputError(f"{folder} has no label map named {item.name}.png")
        return {"prediction": found[0]}

    return file_of


def _segmenter(
    model: str, inference: Mapping[str, Any], dataset: Dataset
) -> Callable[[Labelled], NDArray[Any]]:
    from crispseg.segmenters.load import load_segmenter  # noqa: PLC0415

    segmenter = load_segmenter(model, **inference)
    if segmenter.num_classes != dataset.num_classes:
        raise InputError(
            f"{model} knows {segmenter.num_classes} classes, {dataset.name} has "
            f"{dataset.num_classes}"
        )
    return lambda item: segmenter.segment(item.read_image())


def _object_refiner(name: str | None, options: Mapping[str, Any]) -> Refine:
    """Object 1 of label maps of 0 and 1, refined as a mask."""
    import numpy as np  # noqa: PLC0415

    from crispseg.pipeline import DEFAULT_MODEL, load_refiner  # noqa: PLC0415

    refiner = load_refiner(name or DEFAULT_MODEL, **options)

    def refine(item: Labelled, labels: NDArray[Any]) -> NDArray[Any]:
        return (refiner.refine(item.read_image(), labels == 1) > 0.5).astype(np.uint8)

    return refine


def _check_folder(folder: Path) -> None:
    """Make sure, before long work, that a folder is there or can be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"cannot make the folder {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {there}; give --output another folder")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None


def _write(output: Path, report: Mapping[str, Any]) -> None:
    from crispseg.evaluation.journal import write_text  # noqa: PLC0415
    from crispseg.evaluation.run import write_report  # noqa: PLC0415
    from crispseg.evaluation.tables import classes_csv, images_csv  # noqa: PLC0415

    _make(output)
    write_report(output, report)
    write_text(output / "images.csv", images_csv(report))
    write_text(output / "classes.csv", classes_csv(report))


def _worst_first(rows: Sequence[LabelRow], before: Sequence[LabelRow] | None) -> list[str]:
    """Names by change of mean IoU, or by mean IoU; those that have none last."""
    scores = [row.mean_iou for row in rows]
    if before:
        scores = [score - row.mean_iou for score, row in zip(scores, before, strict=True)]
    ranks = [math.inf if math.isnan(score) else score for score in scores]
    names = [row.name for row in rows]
    return [name for _, name in sorted(zip(ranks, names, strict=True))]


def _pictures(
    dataset: Dataset,
    source: Source,
    store: MadeLabels | None,
    ranked: Sequence[str],
    most: int,
) -> dict[str, str]:
    from crispseg.evaluation.thumbnails import choose_rows, data_url, mark_labels  # noqa: PLC0415

    wanted = set(choose_rows(ranked, most))
    pictures = {}
    for item in dataset:
        if item.name in wanted:
            made = (store.load(item, source) if store else None) or source.make(item)
            image = item.read_image() if dataset.has_images else None
            marked = mark_labels(image, made.labels, item.read_labels(), dataset.ignore_index)
            pictures[item.name] = data_url(marked)
    return pictures
