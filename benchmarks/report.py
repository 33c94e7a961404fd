"""Results as tables, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.meter import Cost

MB = 10**6
Row = dict[str, Any]
Growth = Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]]
"""By what grows: its values, and the processor seconds of each command at them."""

_COLUMNS = (
    ("bytes", MB, 2, "MB to the device", "×"),
    ("make_cpu", 1, 1, "server CPU s", "×"),
    ("make_memory", MB, 0, "peak MB", ""),
    ("make_disk", MB, 1, "disk MB", ""),
    ("apply_cpu", 1, 2, "device CPU s", "×"),
    ("apply_wall", 1, 2, "wall s", ""),
    ("apply_memory", MB, 0, "peak MB", ""),
)
"""Of the table of ways: key, unit, digits, title, title of the ratio to the first row."""


def row(
    name: str,
    size: int | None,
    make: Cost | None,
    apply: Cost | None,
    disk: int | None = None,
    remark: str = "",
    first: Cost | None = None,
) -> Row:
    """A line of the table of ways to bring a device from one release to the next. first: of the old one's server."""
    return {
        "name": name,
        "bytes": size,
        "first_cpu": first.cpu if first else None,
        "make_cpu": make.cpu if make else None,
        "make_memory": make.memory if make else None,
        "make_disk": disk,
        "apply_cpu": apply.cpu if apply else None,
        "apply_wall": apply.wall if apply else None,
        "apply_memory": apply.memory if apply else None,
        "remark": remark,
        "reused": False,
        "failed": "",
    }


def first_releases(rows: Sequence[Row]) -> list[str]:
    """A table of those who make a whole first release, too, beside the first row; nothing where that is nobody."""
    found = [row for row in rows if row.get("first_cpu")]
    lines = [(r["name"], f"{r['first_cpu']:.1f}", _ratio(r["first_cpu"], rows[0]["first_cpu"])) for r in found]
    return ["", *grid(("the release before, whole", "server CPU s", "×"), lines)] if len(lines) > 1 else []


def failed(name: str, why: str) -> Row:
    """A line that says why something did not run."""
    return {**row(name, None, None, None), "failed": why}


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown. Ratios are against the first row; a star marks what an earlier run measured."""
    titles = [title for *_, one, two in _COLUMNS for title in (one, two) if title]
    lines = [f"| way | {' | '.join(titles)} |", f"| --- |{' ---: |' * len(titles)}"]
    for found in rows:
        if found["failed"]:
            lines.append(f"| {found['name']} | not run: {found['failed']} |{' |' * (len(titles) - 1)}")
            continue
        cells = [_name(found)]
        for key, unit, digits, _, ratio in _COLUMNS:
            cells.append(_number(found[key], unit, digits))
            cells += [_ratio(found[key], rows[0][key])] if ratio else []
        lines.append(f"| {' | '.join(cells)} |")
    if any(found["reused"] for found in rows):
        lines += ["", "\\* measured in an earlier run, on the same trees."]
    return lines


def _name(found: Row) -> str:
    remark = f" ({found['remark']})" if found["remark"] else ""
    star = r" \*" if found["reused"] else ""
    return f"{found['name']}{remark}{star}"


def costs(found: Mapping[str, Mapping[str, Cost]]) -> list[str]:
    """Commands of several agents beside each other; ratios are of the first to the last."""
    names = list(found)
    lines = [
        f"| command | {' | '.join(f'{n}: CPU s, wall s, peak MB' for n in names)} | CPU × | wall × |",
        f"| --- | {' | '.join('---' for _ in names)} | ---: | ---: |",
    ]
    for command in found[names[0]]:
        each = [found[n][command] for n in names]
        cells = [f"{c.cpu:.2f}, {c.wall:.2f}, {c.memory / MB:.0f}" for c in each]
        ratios = [_ratio(each[0].cpu, each[-1].cpu), _ratio(each[0].wall, each[-1].wall)] if len(each) > 1 else ["", ""]
        lines.append(f"| {command} | {' | '.join(cells)} | {' | '.join(ratios)} |")
    return lines


def grid(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A plain table: words, then numbers."""
    head = [f"| {' | '.join(titles)} |", f"| --- |{' ---: |' * (len(titles) - 1)}"]
    return [*head, *(f"| {' | '.join(line)} |" for line in lines)]


def megabytes(size: float) -> str:
    """A number of bytes for a table."""
    return f"{size / MB:.2f}" if size >= MB / 10 else f"{size / MB:.4f}"


def _number(value: float | None, unit: int, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _ratio(value: float | None, against: float | None) -> str:
    return "" if value is None or not against else f"{value / against:.2f}"


def write(folder: Path, title: str, sections: Mapping[str, Sequence[str]], data: Mapping[str, Any]) -> None:
    """benchmarks.md and benchmarks.json in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"# {title}", ""]
    for heading, lines in sections.items():
        text += [f"## {heading}", "", *lines, ""]
    (folder / "benchmarks.md").write_text("\n".join(text))
    (folder / "benchmarks.json").write_text(json.dumps(data, indent=1) + "\n")


def picture(place: Path, tables: Mapping[str, Sequence[Row]], growth: Growth) -> None:
    """Bars of bytes and of server time for each table, lines of cost against size. Needs matplotlib.

    Nothing where there is nothing to draw.
    """
    if not tables and not growth:
        return
    import matplotlib  # noqa: PLC0415 - only for pictures

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    lines = len(tables) + bool(growth)
    figure, axes = pyplot.subplots(lines, 2, figsize=(13, 4.5 * lines), layout="constrained", squeeze=False)
    for pair, (title, rows) in zip(axes, tables.items(), strict=False):
        _bars(pair, title, [r for r in rows if not r["failed"]])
    for axis, (label, (sizes, found)) in zip(axes[-1], growth.items(), strict=False):
        for name, values in found.items():
            axis.loglog(sizes, values, marker="o", label=name)
        axis.set(xlabel=label, ylabel="CPU s", title=f"growth with {label}")
        axis.legend()
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    figure.savefig(place, dpi=80)
    pyplot.close(figure)


def _bars(pair: Sequence[Any], title: str, rows: Sequence[Row]) -> None:
    colours = ["tab:blue" if "this project" in r["name"] else "tab:gray" for r in rows]
    for axis, key, unit, label in (
        (pair[0], "bytes", MB, "MB to the device"),
        (pair[1], "make_cpu", 1, "server CPU s"),
    ):
        axis.barh([r["name"] for r in rows], [(r[key] or 0) / unit for r in rows], color=colours)
        axis.invert_yaxis()
        axis.set(xlabel=f"{label} (logarithmic)", xscale="log", title=title)
    pair[1].set_yticklabels([])
