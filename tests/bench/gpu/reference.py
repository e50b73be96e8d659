#!/usr/bin/env python3
"""What others reach on the same card: PyTorch with CUDA graphs, and public kernels where installed.

Rows as in gpu_bench's bench.jsonl. With --ours=FILE the ratios of its rows to these are added.

    python3 reference.py --out=reference.jsonl --ours=bench.jsonl --budget=120

Runs on a bare machine with PyTorch and Triton; on the CPU with --tiny, to test this file.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch

from yardsticks import RatModel, mesa_operands, mesa_step_torch, sdpa, triton

if triton is not None:
    from yardsticks import mesa_step_kernel
try:
    from fla.ops.mesa_net import mesa_net_decoding_one_step as fla_mesa
except Exception:  # pylint: disable=broad-except  # Whatever is wrong with it, it is not there.
    fla_mesa = None
try:
    from flash_attn import flash_attn_with_kvcache
except Exception:  # pylint: disable=broad-except
    flash_attn_with_kvcache = None


class OutOfTime(Exception):
    pass


class Bench:
    def __init__(self, options):
        self.options = options
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.deadline = time.monotonic() + options.budget
        self.rows = []
        self.file = open(options.out, "w", encoding="utf-8")

    def add(self, **row):
        self.rows.append(row)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        figure = row.get("error") or f"{row['figure']:.4g} {row['unit']}"
        print(f"{row['section']} / {row['name']} / {row['shape']}: {figure}", file=sys.stderr)

    def run(self, name, shape, amount, unit, make, note=""):
        """A row of make(), which returns a function to time and the number of launches in it."""
        row = {"section": "reference", "name": name, "shape": shape, "note": note}
        try:
            if time.monotonic() > self.deadline:
                raise OutOfTime("not run: out of time")
            call, launches = make()
            seconds = self.time(call) / launches
            self.add(**row, seconds=seconds, figure=amount / seconds, unit=unit)
        except Exception as error:  # pylint: disable=broad-except  # The next row may work.
            self.add(**row, error=f"{type(error).__name__}: {error}"[:300])
        finally:
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def time(self, call):
        """Median seconds of call(), replayed as a CUDA graph where there is a device."""
        if self.device == "cpu":
            call()
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        seconds, stop = [], min(time.monotonic() + 1.0, self.deadline + 1.0)
        for i in range(102):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            if i >= 2:
                seconds.append(begin.elapsed_time(end) / 1e3)
            if i >= 8 and time.monotonic() > stop:
                break
        return statistics.median(seconds)


def models(bench):
    tiny = bench.options.tiny
    sizes = (2, 64, 4, 2, 96, 96) if tiny else (24, 2048, 16, 2, 5632, 32000)
    position = 47 if tiny else 4095
    for batch in (2,) if tiny else (1, 64):
        for compiled in (False, True):
            def make(batch=batch, compiled=compiled):
                model = RatModel(bench, *sizes, batch, position)
                step = torch.compile(model.step) if compiled else model.step
                return step, 1

            if compiled and (tiny or bench.options.no_compile):
                continue
            bench.run("RAT 1.3B decode, PyTorch with a CUDA graph" + (", compiled" if compiled else ""),
                      f"batch {batch}, position {position + 1}", batch, "tokens/s", make)


def attention(bench):
    """Full attention, 16 key heads of 128: a chain over copies that overflow the second cache."""
    tiny = bench.options.tiny
    heads, dim = (2, 16) if tiny else (16, 128)
    points = ((2, 48),) if tiny else ((1, 4096), (64, 4096), (64, 16384), (512, 4096))
    ways = {"full attention decode, torch SDPA": None}
    if flash_attn_with_kvcache is not None and bench.device == "cuda":
        ways["full attention decode, flash_attn"] = flash_attn_with_kvcache
    for name, flash in ways.items():
        for batch, position in points:
            bytes_each = 2 * heads * dim * position * batch * (2 if bench.dtype != torch.float32 else 4)
            copies = max(1, min(24, math.ceil(200e6 / bytes_each)))

            def make(batch=batch, position=position, copies=copies, flash=flash):
                shape = (batch, position, heads, dim) if flash else (batch, heads, position, dim)
                kind = {"device": bench.device, "dtype": bench.dtype}
                caches = [torch.randn(2, *shape, **kind) for _ in range(copies)]
                one = (batch, 1, heads, dim) if flash else (batch, heads, 1, dim)
                query = torch.randn(*one, **kind)

                def call():
                    for cache in caches:
                        if flash:
                            flash(query, cache[0], cache[1])
                        else:
                            sdpa(query, cache[0], cache[1])

                return call, copies

            bench.run(name, f"batch {batch}, position {position}", bytes_each / 1e9, "GB/s", make)


def mesa(bench):
    tiny = bench.options.tiny
    heads, dim = (2, 16) if tiny else (16, 128)
    for batch in (2,) if tiny else (1, 64, 256):
        q, k, v, gate, beta, ridge, hkk = mesa_operands(bench, batch, heads, dim)
        bytes_each = batch * heads * dim * dim * 4 * 4  # Both matrices read and written.
        layers = 24 if bytes_each * 24 < 60e9 else 8

        def states(hkk=hkk, layers=layers):
            return [(hkk.clone(), torch.randn_like(hkk)) for _ in range(layers)]

        def make_fla(batch=batch, q=q, k=k, v=v, gate=gate, beta=beta, ridge=ridge, states=states):
            caches, log = states(), gate.log()

            def call():
                for i, (a, b) in enumerate(caches):
                    _, a, b = fla_mesa(q, k, v, log, ridge, beta, a, b, 30)
                    if bench.device == "cpu":
                        caches[i] = (a, b)

            return call, len(caches)

        def make_triton(batch=batch, q=q, k=k, v=v, gate=gate, beta=beta, ridge=ridge,
                        states=states):
            caches, out = states(), torch.empty_like(q)

            def call():
                for a, b in caches:
                    mesa_step_kernel[(batch * heads,)](q, k, v, gate, beta, ridge, a, b, a, b, out,
                                                       heads, dim, 30, num_warps=8)

            return call, len(caches)

        def make_torch(q=q, k=k, v=v, gate=gate, beta=beta, ridge=ridge, states=states):
            caches = states()

            def call():
                for a, b in caches:
                    _, new_a, new_b = mesa_step_torch(q, k, v, gate, beta, ridge, a, b, 30)
                    a.copy_(new_a)
                    b.copy_(new_b)

            return call, len(caches)

        shape, note = f"batch {batch}", f"30 steps, float32, {layers} layers"
        if fla_mesa is not None and bench.device == "cuda":
            bench.run("mesa decode, flash-linear-attention", shape, bytes_each / 1e9, "GB/s",
                      make_fla, note)
        if triton is not None and bench.device == "cuda":
            bench.run("mesa decode, Triton from the equations", shape, bytes_each / 1e9, "GB/s",
                      make_triton, note)
        if tiny or batch == 64:
            bench.run("mesa decode, PyTorch", shape, bytes_each / 1e9, "GB/s", make_torch, note)


# (our section, start of our row's name, starts of the references' names, the aim)
RATIOS = [
    ("model", "decode", ["RAT 1.3B decode"], "5 or more at batch 1 and 64"),
    ("mesa", "mesa decode, 16 heads of 128, bf16, state float32", ["mesa decode"],
     "3 or more against flash-linear-attention"),
    ("rat", "rat decode", ["full attention decode"], "one layer: 9 to 12 at 4K"),
    ("attention", "full attention decode", ["full attention decode"], ""),
]


def ratios(bench, path):
    """Time of the fastest reference over ours, for equal shapes; and our RAT over our attention."""
    with open(path, encoding="utf-8") as file:
        ours = [json.loads(line) for line in file]
    ours = [row for row in ours if row.get("seconds") and not row.get("predicted")]
    theirs = [row for row in bench.rows if row.get("seconds")]
    for section, name, others, aim in RATIOS:
        for row in ours:
            if row["section"] != section or not row["name"].startswith(name):
                continue
            equal = [r for r in theirs if r["shape"] == row["shape"]
                     and any(r["name"].startswith(o) for o in others)]
            for other in equal:
                bench.add(section="ratio", name=f"{other['name']} / {section}: {row['name']}",
                          shape=row["shape"], figure=other["seconds"] / row["seconds"],
                          unit="times", note=aim)
    layers = {(r["name"].split()[0], r["shape"]): r["seconds"] for r in ours
              if r["section"] == "layers"}
    for (name, shape), seconds in layers.items():
        if name == "rat" and ("full", shape) in layers:
            bench.add(section="ratio", name="full attention layer / rat layer, both ours",
                      shape=shape, figure=layers["full", shape] / seconds, unit="times",
                      note="9 at 4K, aim at 12")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="reference.jsonl")
    parser.add_argument("--ours", help="bench.jsonl of gpu_bench, for the ratios")
    parser.add_argument("--budget", type=float, default=120, help="seconds")
    parser.add_argument("--tiny", action="store_true", help="shapes for a test on the CPU")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.tiny:
        print("no CUDA device", file=sys.stderr)
        return 3
    bench = Bench(options)
    name = torch.cuda.get_device_name() if bench.device == "cuda" else "CPU"
    bench.add(section="reference", name="software", shape=name, figure=0.0, unit="",
              note=f"torch {torch.__version__}, triton {getattr(triton, '__version__', 'none')}, "
              f"flash-linear-attention {'yes' if fla_mesa else 'no'}, "
              f"flash_attn {'yes' if flash_attn_with_kvcache else 'no'}")
    with torch.no_grad():
        attention(bench)
        mesa(bench)
        models(bench)
    if options.ours:
        ratios(bench, options.ours)
    return 0


if __name__ == "__main__":
    sys.exit(main())
