"""Run by hand: models of the published sizes (1.3 billion parameters, bfloat16, random weights).

    python3 -m tests.convert.big rat --scratch /var/tmp/big [--packrat bazel-bin/.../packrat]
    python3 -m tests.convert.big mesa_net --scratch /var/tmp/big --packrat .../packrat

`rat`: writes a checkpoint as the authors' trainer does, converts it in a process of its own, prints
that process's time and peak memory, and compares every tensor. `mesa_net`: writes a folder as
flash-linear-attention does. With --packrat, computes the logits of a few tokens. Needs 6 GB of disk
under the scratch folder, which it makes and removes, and 6 GB of memory of its own.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time

LIMIT_MIB = 4096


def run(*command):
    """Seconds and peak MiB of a child process.

    A child's peak counts what its parent held when it was started, so that everything large is
    done in children, and this process never imports torch.
    """
    start = time.monotonic()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{command[:3]} failed: {child.returncode}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def step(name, *arguments):
    run(sys.executable, "-m", "tests.convert.big_steps", name, *arguments)


def logits(packrat, folder, scratch):
    tokens, out = (os.path.join(scratch, f"{n}.safetensors") for n in ("tokens", "logits"))
    step("tokens", tokens)
    seconds, peak = run(packrat, "logits", "--model", folder, "--tokens", tokens, "--output", out)
    print(f"packrat logits: {seconds:.1f} s, peak {peak:.0f} MiB", flush=True)
    step("check_logits", out)


def rat(args):
    checkpoint, folder = (os.path.join(args.scratch, n) for n in ("rat.pth", "rat"))
    step("write_rat", checkpoint)
    seconds, peak = run(sys.executable, "-m", "models.convert.rat", "--checkpoint", checkpoint,
                        "--output", folder, "--shard_mib", "1024")
    print(f"conversion: {seconds:.1f} s, peak {peak:.0f} MiB", flush=True)
    if peak >= LIMIT_MIB:
        sys.exit(f"more than {LIMIT_MIB} MiB")
    os.remove(checkpoint)
    step("compare_rat", folder)
    if args.packrat:
        logits(args.packrat, folder, args.scratch)


def mesa_net(args):
    folder = os.path.join(args.scratch, "mesa_net")
    step("write_mesa_net", folder)
    if args.packrat:
        logits(args.packrat, folder, args.scratch)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=("rat", "mesa_net"))
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--packrat", help="the command-line client")
    args = parser.parse_args()
    os.mkdir(args.scratch)
    try:
        {"rat": rat, "mesa_net": mesa_net}[args.model](args)
    finally:
        shutil.rmtree(args.scratch)


if __name__ == "__main__":
    main()
