"""One HTML file about results: rows to sort, pictures with outlines, curves, bars; nothing outside.

The page is ``report.html`` beside this module with the data put in; it needs no network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from crispseg.evaluation.compare import LEVEL, Difference

Report = Mapping[str, Any]
Facts = Mapping[str, Any]

TITLES = {
    "iou": "IoU, mean over images",
    "mean_iou": "mean IoU of the classes",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy of the classes",
    "iou_of_all_pixels": "IoU of all pixels together",
    "image_iou": "mean IoU, mean over images",
    "mean_iou_category": "mean IoU of the categories",
    "iiou": "iIoU, mean of the classes",
    "iiou_category": "iIoU, mean of the categories",
    "mba_released": "mBA, radii of the released code",
    "mba_paper": "mBA, radii of the paper",
    "boundary_iou": "Boundary IoU",
}
"""Every figure of a summary, in words."""
OUTLINES = {
    "masks": (("#ffffff", "truth"), ("#d55e00", "before"), ("#0072b2", "after")),
    "labels": (("#ffffff", "edges of the truth"), ("#d55e00", "wrong"), ("#7f7f7f", "void")),
}


def render_page(
    report: Report,
    *,
    title: str,
    pictures: Mapping[str, str] | None = None,
    differences: Mapping[str, Difference] | None = None,
    compared: str = "",
) -> str:
    """The page as text.

    Args:
        report: of masks or label maps.
        title: heading.
        pictures: name of an image -> data URL.
        differences: figure -> what comparing two runs, or before and after, gave.
        compared: heading of that part: what is first and what second.
    """
    kind = report.get("kind", "masks")
    build = _labels if kind == "labels" else _masks
    page = build(report, pictures or {}) | {"title": title, "facts": _facts(report)}
    page["legend"] = OUTLINES[kind] if pictures else []
    page["tests"] = _tests(differences, compared) if differences else None
    # "</script>" in a name must not end the data
    data = json.dumps(page, allow_nan=False).replace("<", "\\u003c")
    template = (files("crispseg.evaluation") / "report.html").read_text(encoding="utf-8")
    return template.replace("__DATA__", data)


def _facts(report: Report) -> list[str]:
    settings = report["settings"]
    facts = [f"{key}: {value}" for key, value in settings.items() if value is not None]
    inputs = [f"{role}: {folder}" for role, folder in report["inputs"].items()]
    skipped = report.get("skipped", [])
    left_out = [f"left out: {len(skipped)} images"] if skipped else []
    return ["; ".join(facts), "; ".join(inputs), *left_out]


def _masks(report: Report, pictures: Mapping[str, str]) -> dict[str, Any]:
    summary, rows = report["summary"], report["rows"]
    lines = [
        [TITLES[key], summary["before"][key], summary["after"][key], summary["change"][key]]
        for key in summary["before"]
    ]
    columns = [("image", "text"), ("", "picture"), ("IoU before", "percent")]
    columns += [("IoU after", "percent"), ("change", "change"), ("mBA before", "percent")]
    columns += [("mBA after", "percent"), ("Boundary IoU before", "percent")]
    columns += [("Boundary IoU after", "percent"), ("seconds", "seconds")]
    table = []
    for row in rows:
        before, after = row["before"], row["after"]
        cells = [row["name"], pictures.get(row["name"]), before["iou"], after["iou"]]
        cells.append(after["iou"] - before["iou"])
        for key in ("mba_released", "boundary_iou"):
            cells += [before[key], after[key]]
        table.append([*cells, row["seconds"]])
    series = [
        {"name": when, "values": [row[when]["iou"] for row in rows]} for when in ("before", "after")
    ]
    return {
        "summary": {"head": ["in %", "before", "after", "change"], "lines": lines},
        "columns": _named(columns),
        "rows": table,
        "sort": {"column": 4, "down": False},
        "curves": [_curve("Share of images, in %, whose IoU is at most", series)],
        "bars": [],
    }


def _labels(report: Report, pictures: Mapping[str, str]) -> dict[str, Any]:
    summary, rows, first = report["summary"], report["rows"], report.get("before")
    columns = [("image", "text"), ("", "picture"), ("mean IoU", "percent")]
    columns += [("accuracy", "percent"), ("mBA released", "percent"), ("mBA paper", "percent")]
    columns += [("classes", "number"), ("seconds", "seconds")]
    table = [
        [
            *(row["name"], pictures.get(row["name"]), row["mean_iou"], row["accuracy"]),
            *(row["mba_released"], row["mba_paper"], len(row["counts"]), row["seconds"]),
        ]
        for row in rows
    ]
    series = [{"name": "mean IoU", "values": _known(rows)}]
    sort = 2
    if first:
        columns += [("mean IoU before", "percent"), ("change", "change")]
        for cells, row in zip(table, first["rows"], strict=True):
            cells += [row["mean_iou"], _minus(cells[2], row["mean_iou"])]
        series = [
            {"name": "before", "values": _known(first["rows"])},
            {"name": "after", "values": _known(rows)},
        ]
        sort = len(columns) - 1
    bars = [{"title": "IoU of each class, in %", "items": _bars(summary["classes"])}]
    if groups := summary.get("categories"):
        items = [{"name": name, "value": value} for name, value in groups.items()]
        bars.append({"title": "IoU of each category, in %", "items": items})
    return {
        "summary": _label_summary(summary, first["summary"] if first else None),
        "columns": _named(columns),
        "rows": table,
        "sort": {"column": sort, "down": False},
        "curves": [_curve("Share of images, in %, whose mean IoU is at most", series)],
        "bars": bars,
    }


def _label_summary(summary: Facts, before: Facts | None) -> dict[str, Any]:
    keys = [key for key in TITLES if key in summary]
    if before is None:
        return {"head": ["in %", ""], "lines": [[TITLES[key], summary[key]] for key in keys]}
    lines = [
        [TITLES[key], before[key], summary[key], _minus(summary[key], before[key])] for key in keys
    ]
    return {"head": ["in %", "before", "after", "change"], "lines": lines}


def _known(rows: Sequence[Facts]) -> list[float]:
    return [row["mean_iou"] for row in rows if row["mean_iou"] is not None]


def _minus(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _bars(classes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Best first; classes that are nowhere last."""
    order = sorted(classes, key=lambda one: -1.0 if one["iou"] is None else one["iou"])
    return [{"name": one["name"], "value": one["iou"]} for one in reversed(order)]


def _named(columns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"title": title, "kind": kind} for title, kind in columns]


def _curve(title: str, series: list[dict[str, Any]]) -> dict[str, Any]:
    return {"title": title, "x": "IoU in %", "series": series}


def _tests(differences: Mapping[str, Difference], title: str) -> dict[str, Any]:
    known = {key: value for key, value in differences.items() if value.p_value == value.p_value}
    images = max((value.images for value in known.values()), default=0)
    lines = [
        {
            "title": TITLES[key],
            "first": value.first,
            "second": value.second,
            "difference": value.difference,
            "low": value.low,
            "high": value.high,
            "p": value.p_value,
        }
        for key, value in known.items()
    ]
    note = (
        f"{images} images. Interval: {100 * LEVEL:.0f} % percentile bootstrap over images. "
        "p: paired permutation test, how often chance alone makes a difference as large."
    )
    return {"title": title, "note": note, "lines": lines}
