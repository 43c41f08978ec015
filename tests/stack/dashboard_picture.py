"""Draws the dashboard of template.yaml from summary lines of the function: PICTURE.svg [PERIOD], lines on stdin.

PERIOD is in seconds. The dashboard has a period of a minute, in which one tick runs. It is less where ticks run more
often. Widgets, titles, statistics and metrics are those of the template; units are those of the lines.
"""

import json
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from cloudformation import Stack, read_template

# Colour, width and marker size of the first, second and third metric. Equal values stay visible.
STYLES = [("#1f77b4", 2, 4.5), ("#d95f02", 1.6, 3.5), ("#2ca02c", 1.2, 2.5)]
NUMBER = FuncFormatter(lambda value, _: f"{value:,.0f}")
FORMATS = {"Bytes": EngFormatter("B"), "Seconds": FuncFormatter(lambda value, _: f"{value:,.0f} s")}
STATISTICS = {"Sum": sum, "Maximum": max, "Minimum": min}


def read_lines(file):
    """The values of the metrics, as (time in ms, value), and their units."""
    values, units = {}, {}
    for line in map(json.loads, file):
        time = line["_aws"]["Timestamp"]
        for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]:
            values.setdefault(metric["Name"], []).append((time, line[metric["Name"]]))
            units[metric["Name"]] = metric["Unit"]
        # Lambda counts each failed invocation.
        if "error_type" in line:
            values.setdefault("Errors", []).append((time, 1))
    units["Errors"] = "Count"
    return values, units


def points(values, statistic, start, period):
    """One value for each period that has one. A NaN separates those that are not adjacent."""
    periods = {}
    for time, value in values:
        # The first line is in the middle of a period, so that a tick that is a little early has its own
        # period.
        periods.setdefault(round((time - start) / 1000 / period), []).append(value)
    previous, result = None, []
    for number in sorted(periods):
        if previous is not None and number > previous + 2:
            result.append((number - 1, float("nan")))
        result.append((number, STATISTICS[statistic](periods[number])))
        previous = number
    return [number * period for number, _ in result], [value for _, value in result]


def draw(axes, properties, values, units, start, end, period):
    right, handles = None, []
    for (colour, width, size), metric in zip(STYLES, properties["metrics"]):
        name, options = metric[1], metric[-1] if isinstance(metric[-1], dict) else {}
        side, label = axes, name
        if options.get("yAxis") == "right":
            right = right or axes.twinx()
            side, label = right, f"{name} (right)"
        times, numbers = points(values.get(name, []), properties["stat"], start, period)
        handles += side.plot(times, numbers, color=colour, label=label, linewidth=width, marker="o", markersize=size)
    unit = units.get(properties["metrics"][0][1])
    for side in filter(None, [axes, right]):
        side.set_ylim(0, max(1, side.get_ylim()[1]) * 1.08)
        side.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        side.yaxis.set_major_formatter(FORMATS.get(unit, NUMBER))
        side.tick_params(labelsize=8.5)
        side.spines[["top"] if right else ["top", "right"]].set_visible(False)
    axes.set_title(properties["title"], loc="left", fontsize=11, fontweight="bold")
    axes.set_xlim(-period, end + period)
    axes.set_ylabel(f"{properties['stat'].lower()} in {period} s", fontsize=8.5, color="#555555")
    axes.set_xlabel("seconds of the run", fontsize=8.5, color="#555555")
    axes.grid(axis="y", color="#e6e6e6")
    axes.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(-0.02, -0.2), ncols=len(handles), fontsize=8.5, frameon=False
    )


def main():
    picture, period = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
    values, units = read_lines(sys.stdin)
    times = [time for metric in values.values() for time, _ in metric]
    if not times:
        sys.exit("no summary line has metrics")
    start, end = min(times), (max(times) - min(times)) / 1000
    body = Stack(read_template(), {"CreateDashboard": "true"}).properties("Dashboard")["DashboardBody"]
    widgets = json.loads(body)["widgets"]
    rows = max(widget["y"] + widget["height"] for widget in widgets)
    matplotlib.rcParams.update({"svg.hashsalt": "spillway", "svg.fonttype": "none", "font.family": "sans-serif"})
    # The grid of a dashboard has 24 columns. Half of a row's height is for title, axis and legend.
    figure = plt.figure(figsize=(12, rows * 0.56))
    for widget in widgets:
        left, width = widget["x"] / 24, widget["width"] / 24
        top, height = 1 - widget["y"] / rows, widget["height"] / rows
        place = (left + 0.068, top - height * 0.72, width - 0.108, height * 0.62)
        draw(figure.add_axes(place), widget["properties"], values, units, start, end, period)
    figure.savefig(picture, metadata={"Date": None, "Creator": None})


main()
