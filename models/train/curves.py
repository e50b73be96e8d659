"""Draws a run's curves, of training and by kind of held-out document, as an SVG picture.

    python3 -m models.train.curves --log RUN/log.jsonl --output curves.svg

Also reads what train.py prints; --tokens_a_step (batch times length) then gives the axis tokens.
"""

import argparse
import math

from models.train import files, run_log
from models.train.files import Mistake

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 130, 40, 50  # margins
# Told apart by colour-blind eyes as well.
_COLOURS = ("#999999", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")


def curves(records):
    """({name: [(x, bits per byte)]}, what x is): tokens where all records have them, else steps."""
    by = "tokens" if all("tokens" in r for r in records if "bits_per_byte" in r) else "step"
    lines = {}
    for record in records:
        bits = record.get("bits_per_byte")
        if record["event"] == "train":
            lines.setdefault("training", []).append((record[by], bits))
        elif record["event"] == "held_out":
            for kind, value in bits.items():
                lines.setdefault(f"held out: {kind}", []).append((record[by], value))
    return lines, by


def svg(lines, by, title):
    """The picture, as text."""
    points = [p for line in lines.values() for p in line]
    if not points:
        raise Mistake("nothing to draw: the log has no line of training yet")
    right = max(x for x, _ in points) or 1
    low = min(y for _, y in points)
    # The first steps would flatten all that follows.
    high = min(max(y for _, y in points), 2 * low)
    y_step = _nice((high - low) / 12 or 0.1)
    bottom, top = math.floor(low / y_step) * y_step, math.ceil(high / y_step) * y_step
    if bottom == top:
        top += y_step

    def at_x(x):
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / right

    def at_y(y):
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (y - bottom) / (top - bottom)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
             f'<clipPath id="plot"><rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH - _LEFT - _RIGHT}" '
             f'height="{_HEIGHT - _TOP - _BOTTOM}"/></clipPath>',
             _text(_LEFT, 20, title, size=14)]
    for i in range(round((top - bottom) / y_step) + 1):
        y = bottom + i * y_step
        parts.append(f'<path d="M{_LEFT} {at_y(y):.1f}H{_WIDTH - _RIGHT}" stroke="#dddddd"/>')
        parts.append(_text(_LEFT - 8, at_y(y) + 4, f"{y:.4g}", "end"))
    x_step = _nice(right / 8)
    for i in range(int(right / x_step) + 1):
        parts.append(_text(at_x(i * x_step), _HEIGHT - _BOTTOM + 18, _count(i * x_step), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 12, by, "middle"))
    parts.append(f'<text transform="translate(16 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)" '
                 'text-anchor="middle">bits per byte</text>')
    labels = []
    for (name, line), colour in zip(lines.items(), _COLOURS * len(lines)):
        path = " ".join(f"{at_x(x):.1f},{at_y(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width='
                     f'"{1 if name == "training" else 2}" clip-path="url(#plot)"/>')
        labels.append((at_y(line[-1][1]), f"{name} {line[-1][1]:.3f}", colour))
    previous = -math.inf
    for y, label, colour in sorted(labels):
        previous = max(y + 4, previous + 14)  # labels of lines that meet stand below each other
        parts.append(_text(_WIDTH - _RIGHT + 6, previous, label, colour=colour, size=11))
    return "\n".join(parts + ["</svg>\n"])


def _text(x, y, text, anchor="start", colour="#333333", size=12):
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" '
            f'font-size="{size}">{escaped}</text>')


def _nice(step):
    """1, 2 or 5 times a power of ten, not under `step`."""
    power = 10 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _count(value):
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--log", required=True, help="RUN/log.jsonl, or the text that was printed")
    parser.add_argument("--output", required=True, help="SVG file")
    parser.add_argument("--title", default="Bits per byte while training")
    parser.add_argument("--tokens_a_step", type=int, default=0)
    args = parser.parse_args()
    lines, by = curves(run_log.read(args.log, args.tokens_a_step))
    files.write_text(args.output, svg(lines, by, args.title))
    print(f"{args.output}: " + ", ".join(f"{name} {line[-1][1]:.3f}"
                                         for name, line in lines.items()))


if __name__ == "__main__":
    files.run_main(main)
