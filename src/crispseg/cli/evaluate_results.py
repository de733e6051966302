"""What ``crispseg evaluate`` does with results: tables, report, comparison; no measuring."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispseg.cli.evaluate_options import WORST
from crispseg.io.atomic import check_target
from crispseg.types import InputError

if TYPE_CHECKING:
    from crispseg.evaluation.compare import Difference
    from crispseg.evaluation.scores import Row

Report = Mapping[str, Any]
MASK_FIGURES = ("iou", "iou_of_all_pixels", "mba_released", "mba_paper", "boundary_iou")
LAYOUT_OF = {"masks": "cascadepsp-3", "labels": "pspnet-3"}


@dataclass(frozen=True)
class Outputs:
    """What to make of results.

    Attributes:
        title: what the results are called.
        page: HTML file.
        pictures: most pictures in it.
        latex: LaTeX file.
        layout: of the table; None: by the kind of results.
        also: TITLE=FILE, or folder, of more results for the table.
        against: results.json, or its folder, to compare with.
        folder: that is made for the results, in which HTML and LaTeX file may lie.
    """

    title: str
    page: Path | None = None
    pictures: int = 0
    latex: Path | None = None
    layout: str | None = None
    also: Sequence[str] = ()
    against: Path | None = None
    folder: Path | None = None
    others: dict[str, Report] = field(default_factory=dict)

    def check(self) -> Outputs:
        """Itself, when it is sure, before long work, that files can be written and others read.

        Raises:
            InputError: they cannot.
        """
        for path, suffix in ((self.page, ".html"), (self.latex, ".tex")):
            if path and path.suffix.lower() != suffix:
                raise InputError(f"{path} must end in {suffix}")
            if path and (path.parent != self.folder or path.parent.exists()):
                check_target(path)
        for text in self.also:
            title, equals, name = text.partition("=")
            if not equals or not title or not name:
                raise InputError(f"--also must be TITLE=FILE, not {text!r}")
            self.others[title] = read_results(Path(name))
        if self.against:
            read_results(self.against)
        return self


def are_results(path: Path) -> bool:
    """Whether something is a results.json, or the folder of a run; no photos with their truth."""
    if path.is_dir():
        return (path / "results.json").is_file() and not any(path.glob("*_gt.*"))
    return path.suffix.lower() == ".json"


def read_results(path: Path) -> dict[str, Any]:
    """A results.json, or that of a folder.

    Raises:
        InputError: it is missing or something else.
    """
    file = path / "results.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values["rows"], list) or "summary" not in values:
            raise KeyError
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file} is no results.json of crispseg evaluate") from None
    return dict(values)


def differences_of(report: Report, outputs: Outputs) -> tuple[dict[str, Difference], str]:
    """Against other results; else before and after; else nothing. With a heading."""
    import numpy as np  # noqa: PLC0415

    from crispseg.evaluation.compare import (  # noqa: PLC0415
        compare_before_after,
        compare_reports,
    )

    rng = np.random.default_rng(0)  # the same results, the same interval
    if outputs.against:
        other = read_results(outputs.against)
        heading = f"First {outputs.against}, second these results"
        names, others = ({row["name"] for row in one["rows"]} for one in (report, other))
        if alone := len(names ^ others):
            heading += f" ({alone} images are in one of them only, and left out)"
        return compare_reports(other, report, rng), heading
    if outputs.page and (report.get("kind", "masks") == "masks" or "before" in report):
        return compare_before_after(report, rng), "First before refinement, second after"
    return {}, ""


def write_outputs(
    report: Report,
    outputs: Outputs,
    differences: Mapping[str, Difference],
    heading: str,
    pictures: Mapping[str, str],
) -> None:
    """Write the report and the LaTeX table, where wanted."""
    from crispseg.evaluation import page, tables  # noqa: PLC0415
    from crispseg.evaluation.journal import write_text  # noqa: PLC0415

    if outputs.page:
        text = page.render_page(
            report,
            title=outputs.title,
            pictures=pictures,
            differences=differences,
            compared=heading,
        )
        write_text(outputs.page, text)
    if outputs.latex:
        layout = outputs.layout or LAYOUT_OF[report.get("kind", "masks")]
        reports = {outputs.title: report, **outputs.others}
        write_text(outputs.latex, tables.latex_table(reports, layout))


def print_results(
    report: Report, differences: Mapping[str, Difference], heading: str, *, all_rows: bool
) -> str:
    """The table for people."""
    if report.get("kind") == "labels":
        lines = _label_lines(report, all_rows)
    else:
        from crispseg.evaluation.scores import Row  # noqa: PLC0415

        rows = [Row.from_json(row) for row in report["rows"]]
        lines = [*_image_lines(rows, all_rows), "", *_summary_lines(report["summary"])]
    return "\n".join([*lines, *_difference_lines(differences, heading)])


def as_json(report: Report, differences: Mapping[str, Difference]) -> str:
    """Report and comparison as one JSON object."""
    from crispseg.evaluation.labels import plain  # noqa: PLC0415

    if not differences:
        return json.dumps(report)
    plain_ones = {
        name: {key: plain(value) for key, value in asdict(one).items()}
        for name, one in differences.items()
    }
    return json.dumps({**report, "comparison": plain_ones})


def _difference_lines(differences: Mapping[str, Difference], heading: str) -> list[str]:
    if not differences:
        return []
    from crispseg.evaluation.page import TITLES  # noqa: PLC0415

    lines = ["", f"{heading}; {next(iter(differences.values())).images} images, in %"]
    lines.append(f"{'':<34}{'first':>8}{'second':>8}{'change':>9}  95 % interval         p")
    for key, one in differences.items():
        if math.isnan(one.p_value):
            continue
        interval = f"{100 * one.low:+.2f} .. {100 * one.high:+.2f}"
        lines.append(
            f"{TITLES[key]:<34}{percent(one.first):>8}{percent(one.second):>8}"
            f"{100 * one.difference:>+9.2f}  {interval:<20}{one.p_value:.4f}"
        )
    return lines


def _label_lines(report: Report, all_rows: bool) -> list[str]:
    from crispseg.evaluation.page import TITLES  # noqa: PLC0415

    summary = report["summary"]
    width = max(5, *(len(one["name"]) for one in summary["classes"]))
    lines = [f"{'class':<{width}}{'IoU':>8}{'accuracy':>10}{'true pixels':>15}   in %"]
    for one in summary["classes"]:
        lines.append(
            f"{one['name']:<{width}}{percent(one['iou']):>8}{percent(one['accuracy']):>10}"
            f"{one['pixels']:>15,}"
        )
    rows = sorted(report["rows"], key=lambda row: (_rank(row["mean_iou"]), row["name"]))
    shown = rows if all_rows else rows[:WORST]
    lines += ["", f"worst {len(shown)} of {len(rows)} images by mean IoU, in %"]
    for row in shown:
        lines.append(f"{row['name'][-40:]:<40}{percent(row['mean_iou']):>8}")
    heading = f"all {summary['images']} images, in %"
    if "before" not in report:
        lines += ["", heading]
        return lines + [f"{TITLES[k]:<40}{percent(summary[k]):>8}" for k in TITLES if k in summary]
    lines += ["", f"{heading:<40}{'before':>8}{'after':>8}{'change':>9}"]
    first = report["before"]["summary"]
    return lines + [_change_line(TITLES[k], first[k], summary[k]) for k in TITLES if k in summary]


def _change_line(title: str, before: float | None, after: float | None) -> str:
    change = "-" if before is None or after is None else f"{100 * (after - before):+.2f}"
    return f"{title:<40}{percent(before):>8}{percent(after):>8}{change:>9}"


def _rank(share: float | None) -> float:
    return 2.0 if share is None else share


def _image_lines(rows: Sequence[Row], all_rows: bool) -> list[str]:
    shown = sorted(rows, key=lambda row: (row.iou_change, row.name))
    if not all_rows:
        shown = shown[:WORST]
    width = min(40, max(len("image"), *(len(row.name) for row in shown)))
    what = f"worst {len(shown)} of {len(rows)}" if len(shown) < len(rows) else f"{len(rows)}"
    lines = [
        f"{what} images by change of IoU, in %: before, after",
        f"{'image':<{width}}{'IoU':>15}{'change':>8}{'mBA released':>15}{'mBA paper':>15}"
        f"{'Boundary IoU':>15}",
    ]
    for row in shown:
        name = row.name if len(row.name) <= width else row.name[: width - 3] + "..."
        before, after = row.before, row.after
        lines.append(
            f"{name:<{width}}{_pair(before.iou, after.iou)}{100 * row.iou_change:>+8.2f}"
            f"{_pair(before.mba_released, after.mba_released)}"
            f"{_pair(before.mba_paper, after.mba_paper)}"
            f"{_pair(before.boundary_iou, after.boundary_iou)}"
        )
    return lines


def _summary_lines(summary: Mapping[str, Any]) -> list[str]:
    from crispseg.evaluation.page import TITLES  # noqa: PLC0415

    images = summary["images"]
    lines = [f"{f'all {images} images, in %':<34}{'before':>8}{'after':>8}{'change':>9}"]
    for key in MASK_FIGURES:
        before, after = (percent(summary[when][key]) for when in ("before", "after"))
        change = summary["change"][key]
        text = "-" if change is None else f"{100 * change:+.2f}"
        lines.append(f"{TITLES[key]:<34}{before:>8}{after:>8}{text:>9}")
    worse = summary["worse"]
    first = f": {', '.join(worse[:5])}{', ...' if len(worse) > 5 else ''}" if worse else ""
    lines.append(f"made worse by more than 1 IoU point: {len(worse)} of {images}{first}")
    if edgeless := summary["truths_without_edge"]:
        lines.append(f"mBA leaves out {edgeless} whose truth is empty or full")
    return lines


def _pair(before: float, after: float) -> str:
    return f"{percent(before):>8}{percent(after):>7}"


def percent(share: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.2f}"
