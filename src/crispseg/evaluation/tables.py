r"""Results as CSV, and as LaTeX tables in the layouts of the papers (booktabs is needed).

* ``cascadepsp-3``: IoU of all pixels and mBA of masks, before and after refinement;
* ``cascadepsp-4``: mean IoU and mBA of label maps, before and after refinement;
* ``magnet-4``: mIoU, memory and time of each method;
* ``magnet-8``: the same in groups; ``Group/Method`` as a title begins or goes on with a group;
* ``pspnet-3``: mean IoU and pixel accuracy of each method.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from crispseg.types import InputError

Report = Mapping[str, Any]
LAYOUTS = ("cascadepsp-3", "cascadepsp-4", "magnet-4", "magnet-8", "pspnet-3")
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def images_csv(report: Report) -> str:
    """A line for each image; shares from 0 to 1, empty where nothing can be measured."""
    rows = [_flat(row) for row in report["rows"]]
    return _csv(list(rows[0]), rows)


def classes_csv(report: Report) -> str:
    """A line for each class of results of label maps."""
    classes = report["summary"]["classes"]
    return _csv(list(classes[0]), classes)


def latex_table(reports: Mapping[str, Report], layout: str) -> str:
    """A table of one or more results.

    Args:
        reports: title of the method -> results.json; in order of the lines.
        layout: one of ``LAYOUTS``.

    Raises:
        InputError: no such layout, or results of the wrong kind for it, or, for
            ``cascadepsp-4``, of label maps that nothing refined.
    """
    if layout not in LAYOUTS:
        raise InputError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    wanted = "masks" if layout == "cascadepsp-3" else "labels"
    for title, report in reports.items():
        if (kind := report.get("kind", "masks")) != wanted:
            raise InputError(f"the layout {layout} is for {wanted}, but {title} has {kind}")
    if layout == "cascadepsp-3":
        return _table(("Method", "IoU", "mBA"), _refined(reports))
    if layout == "cascadepsp-4":
        return _table(("Method", "mIoU", "mBA"), _refined_labels(reports))
    if layout == "pspnet-3":
        lines = (
            (title, *(_percent(report["summary"][k]) for k in ("mean_iou", "pixel_accuracy")))
            for title, report in reports.items()
        )
        return _table(("Method", "Mean IoU(%)", "Pixel Acc.(%)"), lines)
    columns = ("Model", "mIoU (%)", "Memory (MB)", "Time (s)")
    return _table(columns, _costs(reports), grouped=layout == "magnet-8")


def _refined(reports: Mapping[str, Report]) -> Iterable[tuple[str, ...]]:
    for title, report in reports.items():
        model = report["settings"].get("model") or "refined"
        for name, when in ((title, "before"), (f"{title} + {model}", "after")):
            figures = report["summary"][when]
            values = (figures["iou_of_all_pixels"], figures["mba_released"])
            yield (name, *map(_percent, values))


def _refined_labels(reports: Mapping[str, Report]) -> Iterable[tuple[str, ...]]:
    for title, report in reports.items():
        if "before" not in report:
            raise InputError(
                f"the label maps of {title} were not refined: nothing before and after"
            )
        settings = report["settings"]
        method = settings.get("refiner") or settings.get("method") or "refined"
        for name, part in ((title, report["before"]), (f"{title} + {method}", report)):
            figures = (part["summary"]["mean_iou"], part["summary"]["mba_released"])
            yield (name, *map(_percent, figures))


def _costs(reports: Mapping[str, Report]) -> Iterable[tuple[str, ...]]:
    for title, report in reports.items():
        summary, memory = report["summary"], report["settings"].get("peak_memory_mb")
        seconds = summary["seconds"] / summary["images"]
        yield (
            title,
            _percent(summary["mean_iou"]),
            f"{memory:.0f}" if memory else "-",
            f"{seconds:.2f}" if seconds else "-",
        )


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]], *, grouped: bool = False) -> str:
    out = [rf"\begin{{tabular}}{{l{'c' * (len(columns) - 1)}}}", r"\toprule"]
    out += [" & ".join(map(_escape, columns)) + r" \\", r"\midrule"]
    current = ""
    for title, *values in lines:
        group, slash, method = title.partition("/")
        name = title
        if grouped and slash:
            name = method
            if group != current:
                out += [r"\midrule"] if current else []
                out.append(rf"\multicolumn{{{len(columns)}}}{{l}}{{{_escape(group)}}} \\")
                current = group
        out.append(" & ".join([_escape(name), *map(_escape, values)]) + r" \\")
    return "\n".join([*out, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Nested scores as ``before_iou`` and the like; counts of classes are left out."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "counts":
            continue
        if isinstance(value, Mapping):
            flat |= {f"{key}_{inner}": number for inner, number in value.items()}
        else:
            flat[key] = value
    return flat


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)
