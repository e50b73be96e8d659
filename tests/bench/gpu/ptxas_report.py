#!/usr/bin/env python3
"""What the compiler says of every kernel: registers, spills, stack, shared memory, blocks for each
multiprocessor.

    python3 tests/bench/gpu/ptxas_report.py [--arch=sm_90] [--nvcc=PATH] [FILE.cu...]

Blocks are those that registers and threads allow. Threads are those of __launch_bounds__ (else "?").
Dynamic shared memory is asked for at launch and stands in no compiler's report. Ends with 1 if a
kernel spills.
"""

import argparse
import glob
import os
import re
import subprocess
import sys
import tempfile

REGISTERS, THREADS, BLOCKS = 65536, 2048, 32  # Of a multiprocessor of compute capability 8.0 or 9.0.


def parse_ptxas(text):
    """{mangled name: {registers, spill_stores, spill_loads, stack, shared}}"""
    kernels, name = {}, None
    for line in text.splitlines():
        match = re.search(r"(?:Compiling entry function|Function properties for) '?([\w$]+)'?", line)
        if match:
            name = match.group(1)
        elif name:
            match = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, "
                              r"(\d+) bytes spill loads", line)
            if match:
                stack, stores, loads = map(int, match.groups())
                kernels.setdefault(name, {}).update(stack=stack, spill_stores=stores,
                                                    spill_loads=loads)
            match = re.search(r"Used (\d+) registers", line)
            if match:
                shared = re.search(r"(\d+) bytes smem", line)
                kernels.setdefault(name, {}).update(registers=int(match.group(1)),
                                                    shared=int(shared.group(1)) if shared else 0)
                name = None
    return {n: k for n, k in kernels.items() if "registers" in k}  # Functions that stayed functions.


def parse_ptx(text):
    """{mangled name: threads of a block, at most}"""
    threads, name = {}, None
    for line in text.splitlines():
        match = re.match(r"\s*(?:\.visible|\.weak)?\s*\.entry\s+([\w$]+)", line)
        if match:
            name = match.group(1)
        match = re.match(r"\s*\.maxntid\s+(\d+)(?:,\s*(\d+),\s*(\d+))?", line)
        if match and name:
            threads[name] = int(match[1]) * int(match[2] or 1) * int(match[3] or 1)
    return threads


def blocks_per_multiprocessor(registers, threads):
    warps = -(-threads // 32)
    # Registers are given to a warp 256 at a time.
    by_registers = REGISTERS // (-(-registers * 32 // 256) * 256 * warps)
    return min(by_registers, THREADS // (warps * 32), BLOCKS)


def demangle(names):
    run = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                         check=True)
    return dict(zip(names, run.stdout.splitlines()))


def short(name):
    """Without the namespaces and the parameters."""
    depth, end = 0, len(name)
    for i, character in enumerate(name):
        if character in "<(":
            if character == "(" and depth == 0 and not name[i:].startswith("(anonymous"):
                end = i
                break
            depth += 1
        elif character in ">)":
            depth -= 1
    name = name[:end].removeprefix("void ")
    for part in ("packrat::gpu::", "packrat::", "(anonymous namespace)::"):
        name = name.replace(part, "")
    return name.replace("__nv_bfloat16", "bf16")


def compile_one(nvcc, arch, source):
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.splitext(os.path.basename(source))[0]
        common = [nvcc, "-x", "cu", source, "-std=c++17", "-O3", "-DNDEBUG", "-fmad=false",
                  "--expt-relaxed-constexpr", "-I.",
                  f"-gencode=arch={arch.replace('sm_', 'compute_')},code={arch}"]
        run = subprocess.run(common + ["-cubin", "-Xptxas", "-v", "--keep", "--keep-dir", folder,
                                       "-o", os.path.join(folder, "out.cubin")],
                             capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"{source} did not compile:\n{run.stderr}")
        ptx = ""
        for path in glob.glob(os.path.join(folder, base + "*.ptx")):
            with open(path, encoding="utf-8", errors="replace") as file:
                ptx += file.read()
        return parse_ptxas(run.stderr + run.stdout), parse_ptx(ptx)


def table(source, kernels, threads):
    rows, spills = [], 0
    names = demangle(list(kernels)) if kernels else {}
    for mangled, k in kernels.items():
        n = threads.get(mangled)
        blocks = blocks_per_multiprocessor(k["registers"], n) if n else "?"
        spilled = k.get("spill_stores", 0) + k.get("spill_loads", 0)
        spills += spilled > 0
        rows.append(f"| {os.path.basename(source)} | `{short(names[mangled])}` | {n or '?'} "
                    f"| {k['registers']} | {spilled or '-'} | {k.get('stack', 0) or '-'} "
                    f"| {k['shared'] or '-'} | {blocks} |")
    return sorted(rows), spills


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--nvcc", default=os.environ.get("CUDA_PATH", "/usr/local/cuda") + "/bin/nvcc")
    parser.add_argument("sources", nargs="*", help="default: kernels/*.cu")
    options = parser.parse_args()
    if not os.path.exists(options.nvcc):
        sys.exit(f"no CUDA toolkit: {options.nvcc} does not exist; set CUDA_PATH")
    print(f"{options.arch}: registers and static shared memory in bytes as ptxas reports them.\n")
    print("| file | kernel | threads | registers | spilled bytes | stack | shared | blocks |")
    print("|---|---|---|---|---|---|---|---|")
    spills = 0
    for source in options.sources or sorted(glob.glob("kernels/*.cu")):
        rows, spilled = table(source, *compile_one(options.nvcc, options.arch, source))
        if rows:
            print("\n".join(rows), flush=True)
        spills += spilled
    print(f"\n{spills} kernels spill.")
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main())
