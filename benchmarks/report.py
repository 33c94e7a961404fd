"""Results as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.meter import Cost

MB = 10**6
Row = dict[str, Any]


def row(name: str, size: int | None, make: Cost | None, apply: Cost | None, note: str = "") -> Row:
    """A line of the table of ways to bring a device from one release to the next."""
    return {
        "name": name,
        "bytes": size,
        "make_cpu": make.cpu if make else None,
        "make_memory": make.memory if make else None,
        "apply_cpu": apply.cpu if apply else None,
        "apply_wall": apply.wall if apply else None,
        "apply_memory": apply.memory if apply else None,
        "note": note,
    }


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown. Ratios are against the first row."""
    first = rows[0]
    lines = [
        "| way | MB to the device | ratio | server CPU s | ratio | server peak MB | device CPU s | device peak MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in rows:
        if found["note"]:
            lines.append(f"| {found['name']} | not run: {found['note']} | | | | | | |")
            continue
        cells = [
            found["name"],
            _number(found["bytes"], MB, 2),
            _ratio(found["bytes"], first["bytes"]),
            _number(found["make_cpu"], 1, 1),
            _ratio(found["make_cpu"], first["make_cpu"]),
            _number(found["make_memory"], MB, 0),
            _number(found["apply_cpu"], 1, 2),
            _number(found["apply_memory"], MB, 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def costs(found: Mapping[str, Mapping[str, Cost]]) -> list[str]:
    """Commands of several agents beside each other; ratios are against the second agent, where there is one."""
    names = list(found)
    lines = [
        f"| command | {' | '.join(f'{n}: CPU s, wall s, peak MB' for n in names)} | CPU ratio | wall ratio |",
        f"| --- | {' | '.join('---' for _ in names)} | ---: | ---: |",
    ]
    for command in found[names[0]]:
        each = [found[n][command] for n in names]
        cells = [f"{c.cpu:.2f}, {c.wall:.2f}, {c.memory / MB:.0f}" for c in each]
        ratios = [_ratio(each[0].cpu, each[-1].cpu), _ratio(each[0].wall, each[-1].wall)] if len(each) > 1 else ["", ""]
        lines.append(f"| {command} | {' | '.join(cells)} | {' | '.join(ratios)} |")
    return lines


def _number(value: float | None, unit: int, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _ratio(value: float | None, against: float | None) -> str:
    return "" if value is None or not against else f"{value / against:.2f}"


def write(folder: Path, title: str, sections: Mapping[str, Sequence[str]], data: Mapping[str, Any]) -> None:
    """NAME.md and NAME.json in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = [f"# {title}", ""]
    for heading, lines in sections.items():
        text += [f"## {heading}", "", *lines, ""]
    (folder / "benchmarks.md").write_text("\n".join(text))
    (folder / "benchmarks.json").write_text(json.dumps(data, indent=1) + "\n")


def picture(
    place: Path, rows: Sequence[Row], growth: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]]
) -> None:
    """Bars of bytes and of server time, and lines of cost against size. Needs matplotlib."""
    import matplotlib  # noqa: PLC0415 - only for pictures

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    shown = [r for r in rows if not r["note"]]
    figure, axes = pyplot.subplots(1, 2 + len(growth), figsize=(6 + 5 * (1 + len(growth)), 5), layout="constrained")
    for axis, key, unit, label in (
        (axes[0], "bytes", MB, "MB to the device"),
        (axes[1], "make_cpu", 1, "server CPU s"),
    ):
        axis.barh([r["name"] for r in shown], [(r[key] or 0) / unit for r in shown], color=_colours(shown))
        axis.invert_yaxis()
        axis.set_xlabel(label)
        axis.set_xscale("log")
    axes[1].set_yticklabels([])
    for axis, (label, (sizes, lines)) in zip(axes[2:], growth.items(), strict=True):
        for name, values in lines.items():
            axis.plot(sizes, values, marker="o", label=name)
        axis.set_xlabel(label)
        axis.set_ylabel("CPU s")
        axis.legend()
    figure.savefig(place, dpi=80)
    pyplot.close(figure)


def _colours(rows: Sequence[Row]) -> list[str]:
    return ["tab:blue" if "this" in r["name"] else "tab:gray" for r in rows]
