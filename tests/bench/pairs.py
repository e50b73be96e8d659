#!/usr/bin/env python3
"""Builds of tests/bench:pace_bench in alternation, since machines change from minute to minute.

  python3 tests/bench/pairs.py MODEL_DIR BINARY BINARY... [--seconds=120]

Each binary holds the model by itself. Prints the median milliseconds of each, and the median over the
rounds of its time over the first one's and over that of the one before it. Give a binary twice to see
how far apart the same code is.
"""

import argparse
import os
import statistics
import subprocess
import time

WORK = ["decode 1", "decode 8", "decode 32", "prompt 512"]


class Build:
    def __init__(self, binary, model):
        self.name = os.path.basename(binary)
        self.process = subprocess.Popen([os.path.abspath(binary), model], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def seconds(self, work):
        print(work, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())


def measure(builds, seconds):
    """The seconds of each build for each kind of work, round by round."""
    took = {work: [[] for _ in builds] for work in WORK}
    end = time.monotonic() + seconds
    order = list(enumerate(builds))
    while time.monotonic() < end or not took[WORK[-1]][0]:
        for work in WORK:
            for i, build in order:
                took[work][i].append(build.seconds(work))
        order.reverse()
    return took


def ratio(times, base):
    return statistics.median(t / b for t, b in zip(times, base))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("binaries", nargs="+")
    parser.add_argument("--seconds", type=float, default=120)
    args = parser.parse_args()
    builds = [Build(binary, args.model) for binary in args.binaries]
    for work in WORK:
        for build in builds:
            build.seconds(work)  # Not counted: what is used for the first time.
    print("work\tbuild\tms\tover the first\tover the one before\trounds")
    for work, times in measure(builds, args.seconds).items():
        for i, build in enumerate(builds):
            print(f"{work}\t{build.name}\t{1e3 * statistics.median(times[i]):.3f}\t"
                  f"{ratio(times[i], times[0]):.3f}\t{ratio(times[i], times[max(i - 1, 0)]):.3f}\t"
                  f"{len(times[i])}")


if __name__ == "__main__":
    main()
