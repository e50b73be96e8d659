#!/usr/bin/env python3
"""The kernels as the compiler made them: registers, spills, blocks of a multiprocessor, and what binds the loops.

    gpu_report.py NAME.sm_90.cubin...

Blocks are those that registers and threads allow, and shared memory where occupancy.py knows it. Threads are those
of __launch_bounds__ (else "?"). Ends with 1 if a kernel breaks a rule of hot_loops.py or occupancy.py.
"""

import os
import re
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../.."))

from tests.bench.gpu import hot_loops, occupancy, sass  # noqa: E402 pylint: disable=wrong-import-position

# Of each architecture: a card, its multiprocessors, their clock in GHz, the memory's TB/s (as published). Four warps
# of a multiprocessor issue an instruction in each cycle.
MACHINES = {
    "sm_80": ("A100", 108, 1.41, 2.04),
    "sm_90": ("H200", 132, 1.755, 4.8),
    "sm_100": ("B200", 148, 1.85, 8.0),
    "sm_120": ("RTX PRO 6000", 188, 2.4, 1.79),
}


def issue_share(arch, per_byte):
    """Of the instructions that the card can issue, those it would have to at its memory's full speed."""
    _, multiprocessors, clock, bandwidth = MACHINES[arch]
    return per_byte * bandwidth * 1e12 / (multiprocessors * 4 * clock * 1e9)


def row(arch, source, name, kernel):
    rule, blocks = occupancy.rule_of(name), "?"
    if kernel.threads:
        blocks = occupancy.blocks(arch, kernel.registers, kernel.threads, rule.shared if rule else 0)
    local = sum(i.is_local for i in kernel.instructions)
    loop = rounds = loads = share = "-"
    found = hot_loops.loops(name, kernel)
    if hot_loops.wanted(name) is not None and found:
        longest = max(found, key=lambda x: x[1] - x[0])
        code = kernel.code(longest)
        loop, loads = len(code), sass.wide_loads_of_a_block(code)
        rounds = " + ".join(map(str, kernel.rounds(longest))) or "-"
    per_byte = hot_loops.instructions_per_byte(name, kernel)
    if per_byte is not None:
        share = f"{issue_share(arch, per_byte):.0%}".replace("%", " %")
    return (f"| {source} | `{name}` | {kernel.threads or '?'} | {kernel.registers} | {local or '-'} "
            f"| {kernel.stack or '-'} | {blocks} | {loop} | {rounds} | {loads} | {share} |")


def report(nvdisasm, cubins):
    """Prints a table for each architecture; returns what is wrong."""
    faults = []
    by_arch = {}
    for cubin in cubins:
        source, arch = re.fullmatch(r"(\w+)\.(sm_\d+)\.cubin", os.path.basename(cubin)).groups()
        by_arch.setdefault(arch, []).append((source, cubin))
    for arch in sorted(by_arch, key=lambda a: int(a[3:])):
        card, multiprocessors, clock, bandwidth = MACHINES[arch]
        print(f"\n{arch}, issue as on a {card} ({multiprocessors} multiprocessors at {clock} GHz, "
              f"{bandwidth} TB/s):\n")
        print("| file | kernel | threads | registers | local | stack | blocks | loop | rounds | loads | issue |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        for source, cubin in sorted(by_arch[arch]):
            kernels = sass.read(nvdisasm, cubin)
            for name in sorted(kernels):
                print(row(arch, source + ".cu", name, kernels[name]))
                found = hot_loops.faults(name, kernels[name]) + occupancy.faults(arch, name, kernels[name])
                faults += [f"{arch}: {fault}" for fault in found]
            sys.stdout.flush()
    return faults


def main():
    nvdisasm = sass.find_nvdisasm()
    if nvdisasm is None:
        sys.exit("no nvdisasm, neither in the CUDA toolkit nor among the tests' packages (./dev deps test)")
    faults = report(nvdisasm, sys.argv[1:])
    print(f"\n{len(faults)} faults.")
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
