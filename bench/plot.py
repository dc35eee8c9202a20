"""Plot a bench's JSON: median time and extra memory of every provider per shape.

python -m bench.plot result.json picture.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def shape_name(row: Row) -> str:
    spec = row["spec"]
    if "shape" in spec:
        return str(spec["shape"])
    dtype = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[spec["dtype"]]
    size = f"T={spec['tokens']} D={spec['width']}\nV={spec['vocab']} {dtype}"
    return f"{size}\n{spec['distribution']}, {spec['mask']}\n{spec['variant']}, {row['pass']}"


def grouped(rows: Iterable[Row], figure: str) -> dict[str, dict[str, float]]:
    """Return {provider: {shape: figure}}; rows without the figure are left out."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        value = row.get("median_ms") if figure == "ms" else row.get("memory", {}).get("extra_mib")
        if value is not None:
            found.setdefault(row["provider"], {})[shape_name(row)] = value
    return found


def draw(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows: list[Row] = report["results"]
    shapes = list(dict.fromkeys(shape_name(row) for row in rows if "median_ms" in row))
    panels = {"median, ms": grouped(rows, "ms"), "extra memory, MiB": grouped(rows, "memory")}
    panels = {title: values for title, values in panels.items() if values}
    colors = pyplot.get_cmap("tab20")
    providers = list(panels["median, ms"])
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(max(7.0, 2.6 * len(shapes)) * len(panels), 6), squeeze=False
    )
    width = 0.85 / len(providers)
    for axis, (title, values) in zip(axes[0], panels.items(), strict=True):
        for i, provider in enumerate(providers):
            places = [s + (i - (len(providers) - 1) / 2) * width for s in range(len(shapes))]
            heights = [values.get(provider, {}).get(shape, float("nan")) for shape in shapes]
            axis.bar(places, heights, width, label=provider, color=colors(i % 20))
        axis.set_yscale("log")
        axis.set_ylabel(title)
        axis.set_xticks(range(len(shapes)), shapes, fontsize=8)
        axis.grid(axis="y", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    machine = report["gpu"] or f"{report['machine']}, {report['cpu']}"
    figure.suptitle(f"{report['op']}: {machine}, torch {report['torch']}, fastrl {report['commit']}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.03 + 0.03 * ((len(providers) + 3) // 4), 1, 1))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    given = parser.parse_args()
    draw(json.loads(given.report.read_text()), given.picture)


if __name__ == "__main__":
    main()
