"""Draws the dashboard of deploy/grafana over a few minutes of mixed load on three real servers.

  picture.py OUT.png [MINUTES]

The panels, their places, titles, units and queries are those of the JSON. Needs matplotlib.
"""

import concurrent.futures
import contextlib
import math
import os
import random
import sys
import tempfile
import threading
import time

# The servers' programs are found as in tests.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TEST_SRCDIR", os.path.dirname(ROOT))
os.environ.setdefault("TEST_WORKSPACE", os.path.basename(ROOT))

import matplotlib  # noqa: E402
matplotlib.use("Agg")
from matplotlib import pyplot, ticker  # noqa: E402
from PIL import Image  # noqa: E402

from tests.observability import dashboard, monitoring  # noqa: E402
from tests.server import processes  # noqa: E402

REPLICAS = 3
PROMPTS = ("Once upon a time", "The little dog", "One day, Tom and Lily went to the park. " * 12,
           "Lily had a red ball. She liked to play with it. " * 40)
# Of Grafana's dark theme.
BACKGROUND, PANEL, EDGE, TEXT, FAINT = "#111217", "#181b1f", "#2c3235", "#d8d9da", "#8e8e8e"
PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0",
           "#37872d", "#fade2a", "#447ebc")
COLORS = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}


class Load:
    """Clients that come in waves, each with a call of its own kind."""

    def __init__(self, servers, minutes):
        self.servers = servers
        self.start = time.monotonic()
        self.length = 60 * minutes
        self.stop = threading.Event()

    def clients(self):
        """How many there are: a slow wave, and a rush in the second half."""
        at = (time.monotonic() - self.start) / self.length
        return 3 + 2.5 * (1 - math.cos(4 * math.pi * at)) + (14 if 0.6 < at < 0.72 else 0)

    def run(self, number):
        draw = random.Random(number)
        while not self.stop.is_set():
            if number >= self.clients():
                self.stop.wait(0.5)
                continue
            self.call(draw)
            self.stop.wait(draw.expovariate(1 / 0.3))

    def call(self, draw):
        server = draw.choice(self.servers)
        kind = draw.random()
        prompt, length = draw.choice(PROMPTS), int(draw.lognormvariate(4, 0.8)) + 1
        flags = ["--max_tokens=%d" % min(length, 600)]
        if kind < 0.04:
            flags = ["--temperature=-1"]
        elif kind < 0.1:
            flags = ["--max_tokens=600", "--ignore_eos", "--deadline=300ms"]
        elif kind < 0.4:
            flags.append("--ignore_eos")
        elif kind < 0.45:
            server.client("info")
            return
        server.client("complete", prompt, *flags)


def record(minutes, draw):
    """Runs the load and calls `draw` with the Prometheus, the start and the end."""
    with contextlib.ExitStack() as stack:
        flags = ("--model_name=demo", "--max_running=4", "--max_queue=64", "--threads=1",
                 "--drain_grace=1s")
        servers = [stack.enter_context(processes.RealServer("models/demo", *flags))
                   for _ in range(REPLICAS)]
        for server in servers:  # Nobody reads their log.
            threading.Thread(target=server.process.stderr.read, daemon=True).start()
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        prometheus = stack.enter_context(monitoring.Prometheus(
            folder, {"packrat-%d" % i: server.http_port for i, server in enumerate(servers)}, "2s"))
        load = Load(servers, minutes)
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            done = [pool.submit(load.run, number) for number in range(24)]
            time.sleep(60 * minutes)
            load.stop.set()
            for each in done:
                each.result()
        end = time.time()
        draw(prometheus, end - 60 * minutes + 10, end)


def number(value, unit):
    """As Grafana would write it."""
    if value is None or not math.isfinite(value):
        return "no data"
    if unit == "s":
        for size, name in ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if abs(value) >= size:
                return "%.3g %s" % (value / size, name)
        return "0 s"
    if unit == "bytes":
        for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= size:
                return "%.3g %s" % (value / size, name)
        return "%.0f B" % value
    if unit == "percentunit":
        return "%.3g %%" % (100 * value)
    text = "%.3g" % value if abs(value) < 1000 else "{:,.0f}".format(value)
    if unit in ("reqps", "cps"):
        return text + {"reqps": " req/s", "cps": " /s"}[unit]
    return text + " " + unit.split(":")[1] if unit.startswith("suffix:") else text


def box(figure, at, height):
    """Axes at a place of the grid; `height` is that of the whole grid."""
    gap = 0.12
    left, width = (at["x"] + gap) / 24, (at["w"] - 2 * gap) / 24
    bottom, tall = 1 - (at["y"] + at["h"] - gap) / height, (at["h"] - 2 * gap) / height
    frame = figure.add_axes([left, bottom, width, tall], facecolor=PANEL)
    frame.set_xticks([])
    frame.set_yticks([])
    for side in frame.spines.values():
        side.set_color(EDGE)
    return frame


def draw_stat(frame, panel, lines):
    unit = panel["fieldConfig"]["defaults"]["unit"]
    points = lines[0][1] if lines else []
    value = points[-1][1] if points else None
    color = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or (value is not None and value >= step["value"]):
            color = step["color"]
    if points:
        spark = frame.inset_axes([0, 0, 1, 0.35])
        spark.axis("off")
        times, values = zip(*points)
        spark.fill_between(times, values, color=COLORS[color], alpha=0.25, linewidth=0)
        spark.plot(times, values, color=COLORS[color], linewidth=0.8)
        spark.set_ylim(0, 1.05 * max(max(values), 1e-9))
        spark.margins(x=0)
    frame.text(0.5, 0.52, number(value, unit), color=COLORS[color], fontsize=17, weight="bold",
               ha="center", va="center", transform=frame.transAxes)


def draw_lines(frame, panel, lines, start, end):
    defaults = panel["fieldConfig"]["defaults"]
    custom = defaults["custom"]
    axes = frame.inset_axes([0.135, 0.235, 0.84, 0.625], facecolor=PANEL)
    axes.tick_params(colors=FAINT, labelsize=6.5, length=0)
    axes.grid(color=EDGE, linewidth=0.5)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_xlim(start, end)
    axes.xaxis.set_major_locator(ticker.MultipleLocator(60))
    axes.xaxis.set_major_formatter(lambda at, _: time.strftime("%H:%M", time.gmtime(at)))
    if custom["scaleDistribution"]["type"] == "log":
        axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: number(value, defaults["unit"]))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    below = {}
    for i, (name, points) in enumerate(lines):
        color = PALETTE[i % len(PALETTE)]
        times = [at for at, _ in points]
        bottoms = [below.get(at, 0) for at in times]
        stacked = custom["stacking"]["mode"] == "normal"
        values = [value + (bottom if stacked else 0)
                  for (_, value), bottom in zip(points, bottoms)]
        axes.plot(times, values, color=color, linewidth=1.1, label=name)
        if custom["scaleDistribution"]["type"] != "log":
            axes.fill_between(times, values, bottoms if stacked else 0, color=color,
                              alpha=custom["fillOpacity"] / 100, linewidth=0)
        if stacked:
            below.update(zip(times, values))
    if "min" in defaults:
        axes.set_ylim(bottom=defaults["min"], top=defaults.get("max"))
        if defaults["unit"] in ("bytes", "s"):
            # Ticks at powers of two, or at minutes.
            step = 60
            if defaults["unit"] == "bytes":
                step = 2**math.ceil(math.log2(max(axes.get_ylim()[1], 2) / 5))
            axes.yaxis.set_major_locator(ticker.MultipleLocator(step))
    # As many in a row as fit: about 72 letters, each line's mark taken for four of them.
    columns = max(1, 72 // (4 + max((len(name) for name, _ in lines), default=0)))
    frame.legend(*axes.get_legend_handles_labels(), loc="lower left", ncol=columns, fontsize=6.5,
                 frameon=False, labelcolor=TEXT, handlelength=1, columnspacing=1,
                 borderaxespad=0.1, handletextpad=0.4)


def query(panel, prometheus, start, end):
    lines = []
    for target in panel["targets"]:
        for labels, points in prometheus.query_range(dashboard.expand(target["expr"]), start, end, 2):
            points = [(at, value) for at, value in points if math.isfinite(value)]
            if points:
                lines.append((dashboard.legend(target, labels), points))
    return lines


def draw_dashboard(path, prometheus, start, end):
    board = dashboard.load(os.path.join(ROOT, dashboard.PATH))
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in board["panels"])
    figure = pyplot.figure(figsize=(16, 0.34 * height), facecolor=BACKGROUND)
    for panel in board["panels"]:
        at = panel["gridPos"]
        if panel["type"] == "row":
            figure.text((at["x"] + 0.15) / 24, 1 - (at["y"] + 0.6) / height, "▾ " + panel["title"],
                        color=TEXT, fontsize=10, weight="bold", va="center")
            continue
        frame = box(figure, at, height)
        frame.text(0.02, 0.97, panel["title"], color=TEXT, fontsize=8.5, va="top",
                   transform=frame.transAxes)
        lines = query(panel, prometheus, start, end)
        if panel["type"] == "stat":
            draw_stat(frame, panel, lines)
        else:
            draw_lines(frame, panel, lines, start, end)
    figure.savefig(path, dpi=100, facecolor=BACKGROUND)
    # A palette of 128 colors is a third of the size.
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def main():
    path, minutes = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5
    record(minutes, lambda *run: draw_dashboard(path, *run))
    print("%s: %d KB" % (path, os.path.getsize(path) // 1000))


if __name__ == "__main__":
    main()
