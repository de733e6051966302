"""Published tables as recipes: what a line needs, what of it is here, the command, the figures.

The tables themselves stand in ``published.toml`` beside this module.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from crispseg.data.datasets import DATASETS, open_dataset
from crispseg.types import InputError

SUFFIXES = (".safetensors", ".pth", ".pt", ".onnx")


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        name: such as "cascadepsp-3".
        title: for people.
        kind: "refine", "segment", "labels" for refined label maps, or "other" for what no command
            measures.
        dataset: name of ``data.datasets``.
        split: of it.
        columns: figures of a results.json, by their place in its summary.
        rows: line -> published figures, in percent, one for each column.
        costs: line -> published "megabytes" (of a GPU) and "seconds" an image; of some lines.
        weights: line -> name of the weights.
        refinements: line -> name of the weights of MagNet's module.
        without: line -> why no command measures it; of the lines that have no weights.
        folders: line -> folder under the data set's root ("refine": of images and masks; "labels":
            of the label maps that are refined).
        options: line -> more options of the command.
        recipe: what trains weights of this kind; "" if nothing of ours does.
        needs: why no command measures it.
    """

    name: str
    title: str
    kind: str
    dataset: str
    columns: tuple[str, ...]
    rows: Mapping[str, Sequence[float]]
    costs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    split: str = "val"
    weights: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    refinements: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    recipe: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a table on this machine.

    Attributes:
        name: of the line.
        published: figures, in percent.
        command: arguments of ``crispseg`` that measure it; empty if no command does.
        missing: what is, and where it comes from; empty if nothing.
    """

    name: str
    published: Sequence[float]
    command: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def runs(self) -> bool:
        """Whether the command can run here."""
        return bool(self.command) and not self.missing


def load_tables() -> dict[str, Table]:
    """Every table, by name."""
    text = (files("crispseg.evaluation") / "published.toml").read_text(encoding="utf-8")
    return {
        name: Table(name=name, **(values | {"columns": tuple(values["columns"])}))
        for name, values in tomllib.loads(text).items()
    }


def plan(table: Table, data: Path, weights: Path, known: Mapping[str, Path | None]) -> list[Line]:
    """What of a table can be measured here, and what is missing for the rest.

    Args:
        table: from ``load_tables``.
        data: folder of data sets, each in a folder of its name.
        weights: folder of weights files.
        known: name -> file of the models that ``crispseg models`` lists; None where not here.
    """
    if table.kind == "other":
        return [Line(name, figures, (), (table.needs,)) for name, figures in table.rows.items()]
    no_data = _missing_data(table, data)
    return [
        Line(name, figures, (), (f"a command: {table.without[name]}",))
        if name in table.without
        else _line(table, name, data, weights, known, no_data)
        for name, figures in table.rows.items()
    ]


def figure(summary: Mapping[str, Any], column: str) -> float | None:
    """A figure of a summary in percent, by a column such as "after.mba_released".

    Of a list, such as that of the classes, the one with the name: "classes.traffic sign.iou".
    """
    value: Any = summary
    for key in column.split("."):
        if isinstance(value, list):
            value = {one["name"]: one for one in value}
        value = value[key]
    return None if value is None else 100 * float(value)


def _line(
    table: Table,
    name: str,
    data: Path,
    weights: Path,
    known: Mapping[str, Path | None],
    no_data: str,
) -> Line:
    missing = [no_data] if no_data else []
    model, problem = _find_weights(table.weights[name], weights, known, table.recipe)
    missing += [problem] if problem else []
    root = data / table.dataset
    folder = root / table.folders.get(name, "")
    if name in table.folders and not folder.is_dir():
        missing.append(_missing_folder(table, folder))
    command = ["evaluate", "--dataset", table.dataset, "--root", str(root), "--split", table.split]
    if table.kind == "refine":
        command = ["evaluate", str(folder), "--mode", "published"]
    if table.kind == "labels":
        command += ["--predictions", str(folder), "--refiner", model]
    else:
        command += ["--model", model]
    command += table.options.get(name, ())
    if name in table.refinements:
        module, problem = _find_weights(table.refinements[name], weights, known, table.recipe)
        command += ["--refinement", module]
        missing += [problem] if problem else []
    return Line(name, table.rows[name], tuple(command), tuple(missing))


def _missing_folder(table: Table, folder: Path) -> str:
    if table.kind == "labels":
        return (
            f"data: the folder {folder} of this line's label maps NAME.png, classes 0 to N - 1, "
            "made from what the authors pass on with the published code"
        )
    return (
        f"data: the folder {folder} of NAME_im.jpg, NAME_gt.png and this line's coarse masks "
        f"NAME_seg.png; {DATASETS[table.dataset].where}"
    )


def _missing_data(table: Table, data: Path) -> str:
    root, spec = data / table.dataset, DATASETS[table.dataset]
    if table.kind in ("segment", "labels"):
        try:
            open_dataset(table.dataset, root, table.split)
        except InputError as error:
            first = str(error).splitlines()[0].removesuffix("; expected:")
            return f"data: {first} (crispseg datasets {spec.name}); {spec.where}"
    return ""


def _find_weights(
    model: str, folder: Path, known: Mapping[str, Path | None], recipe: str
) -> tuple[str, str]:
    """What ``--model`` takes, or will take; and what is missing, if anything is."""
    for suffix in SUFFIXES:
        if (folder / f"{model}{suffix}").is_file():
            return str(folder / f"{model}{suffix}"), ""
    if model in known:
        return model, "" if known[model] else f"weights: crispseg models download {model}"
    path = folder / f"{model}.safetensors"
    if not recipe:
        return str(path), f"weights: {path}"
    trains = "trains" if Path(recipe).stem == model else "trains one of its kind"
    return str(path), f"weights: {path}, which nobody published; {recipe} {trains}"
