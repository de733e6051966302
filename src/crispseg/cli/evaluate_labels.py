"""The part of ``crispseg evaluate`` for label maps: from options to a data set and predictions."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispseg.cli.evaluate_results import Outputs
from crispseg.cli.options import progress_bar
from crispseg.types import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from crispseg.data.datasets import Dataset, Labelled
    from crispseg.evaluation.labels import LabelRow, Predict

RESULTS, MADE = "results.json", "labels"


@dataclass(frozen=True)
class LabelTask:
    """What to measure, as the options say it."""

    dataset: str | None
    root: Path | None
    split: str
    labels: Path | None
    classes: str | None
    images: Path | None
    predictions: Path | None

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

    def run(
        self,
        model: str | None,
        refiner: str | None,
        options: Mapping[str, Any],
        output: Path | None,
        limit: int | None,
        outputs: Outputs,
        *,
        quiet: bool,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Measure; results and pictures of the worst images."""
        from crispseg.evaluation import labels as scoring  # noqa: PLC0415

        dataset = self._open()
        if model and self.predictions:
            raise InputError("give --model or --predictions, not both")
        predict = (
            from_folder(self.predictions, dataset)
            if self.predictions
            else _segmenter(model, str(options["device"]), dataset)
        )
        if refiner:
            predict = _refined(predict, refiner, options, dataset)
        keep = (
            _keeper(output, dataset.colours)
            if output and (refiner or not self.predictions)
            else None
        )
        with progress_bar("evaluating", hidden=quiet) as progress:
            scores = scoring.evaluate_labels(
                dataset,
                predict,
                limit=limit,
                timed=bool(refiner or not self.predictions),
                keep=keep,
                progress=progress,
            )
        report = scoring.label_report(
            scores, dataset, self._settings(model, refiner, options), self._inputs()
        )
        if output:
            _write(output, report)
        pictures = {}
        if outputs.page:
            again = from_folder(output / MADE, dataset) if keep and output else predict
            pictures = _pictures(dataset, again, scores.rows, outputs.pictures)
        return report, pictures

    def _open(self) -> Dataset:
        if self.dataset and self.root:
            from crispseg.data.datasets import open_dataset  # noqa: PLC0415

            return open_dataset(self.dataset, self.root, self.split)
        from crispseg.data.datasets.folder import open_label_maps  # noqa: PLC0415

        assert self.labels
        return open_label_maps(self.labels, self.classes or "", self.images)

    def _settings(
        self, model: str | None, refiner: str | None, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        from crispseg import __version__  # noqa: PLC0415

        made = bool(refiner or not self.predictions)
        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = peak_kb / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB here
        return {
            "crispseg": __version__,
            "model": model,
            "refiner": refiner,
            "split": self.split if self.dataset else None,
            **({"peak_memory_mb": round(peak)} if made else {}),
            **(dict(options) if refiner else {}),
        }

    def _inputs(self) -> dict[str, str]:
        places = {
            "dataset": self.root,
            "labels": self.labels,
            "images": self.images,
            "predictions": self.predictions,
        }
        return {name: str(path) for name, path in places.items() if path}


def from_folder(folder: Path, dataset: Dataset) -> Predict:
    """Label maps of a folder, found by the names of a data set's images.

    Raises:
        InputError: no such folder, or, when called, no or two files for an image.
    """
    from crispseg.data.datasets.base import find_by_name  # noqa: PLC0415
    from crispseg.io.labels import read_labels  # noqa: PLC0415

    files = find_by_name(folder)

    def predict(item: Labelled) -> NDArray[Any]:
        if item.name not in files:
            raise InputError(f"{folder} has no label map named {item.name}.png")
        labels = read_labels(files[item.name])
        if labels.size and labels.max() >= dataset.num_classes:
            wrong = int(labels.max())
            raise InputError(
                f"{files[item.name]} holds label {wrong}; {dataset.name} has the classes 0 to "
                f"{dataset.num_classes - 1}"
            )
        return labels

    return predict


def _segmenter(model: str | None, device: str, dataset: Dataset) -> Predict:
    if model is None:
        raise InputError("give --model, a segmenter, or --predictions, a folder of label maps")
    from crispseg.segmenters.load import load_segmenter  # noqa: PLC0415

    segmenter = load_segmenter(model, device=device)
    if segmenter.num_classes != dataset.num_classes:
        raise InputError(
            f"{model} knows {segmenter.num_classes} classes, {dataset.name} has "
            f"{dataset.num_classes}"
        )
    return lambda item: segmenter.segment(item.read_image())


def _refined(predict: Predict, name: str, options: Mapping[str, Any], dataset: Dataset) -> Predict:
    import numpy as np  # noqa: PLC0415

    from crispseg.pipeline import load_refiner  # noqa: PLC0415

    if dataset.num_classes != 2:
        raise InputError(
            f"--refiner refines one object, label maps of 0 and 1; {dataset.name} has "
            f"{dataset.num_classes} classes"
        )
    refiner = load_refiner(name, **options)

    def refine(item: Labelled) -> NDArray[Any]:
        refined = refiner.refine(item.read_image(), predict(item) == 1)
        return (refined > 0.5).astype(np.uint8)

    return refine


def _keeper(
    output: Path, colours: Sequence[tuple[int, int, int]]
) -> Callable[[Labelled, NDArray[Any]], None]:
    from crispseg.io import write_labels  # noqa: PLC0415

    def keep(item: Labelled, labels: NDArray[Any]) -> None:
        path = output / MADE / f"{item.name}.png"
        _make(path.parent)
        write_labels(path, labels, colours)

    return keep


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


def _pictures(
    dataset: Dataset, predict: Predict, rows: Sequence[LabelRow], most: int
) -> dict[str, str]:
    from crispseg.evaluation.thumbnails import data_url, mark_labels  # noqa: PLC0415

    worst = sorted(rows, key=lambda row: (row.mean_iou, row.name))[:most]
    wanted = {row.name for row in worst}
    return {
        item.name: data_url(
            mark_labels(
                item.read_image() if dataset.has_images else None,
                predict(item),
                item.read_labels(),
                dataset.ignore_index,
            )
        )
        for item in dataset
        if item.name in wanted
    }
