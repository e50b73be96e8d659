#!/usr/bin/env python3
"""Writes the kustomize patch of a Deployment's resources for a model and the flags of its server.

    resources.py --server=PROGRAM [--cpus=N] [--gpus=N] -- --model=DIR [flags of the server]

The server is started for a moment, on free ports, and asked what it holds: weights, room for state, scratch. It must
find the memory that the pod is to have: run it on a machine like the pod's. Standard library only.
"""

import argparse
import json
import re
import subprocess
import sys
import urllib.request

MIB = 1 << 20
# Code and libraries, gRPC's buffers, and what the allocator keeps: measured with the bundled model under 64
# streams of 900 tokens, 65 MB beside weights, state and scratch.
REST = 128 * MIB
STEP = 64 * MIB

PATCH = """\
# By resources.py: {reason}.
apiVersion: apps/v1
kind: Deployment
metadata: {{name: packrat}}
spec:
  template:
    spec:
      containers:
      - name: server
        resources:
          requests: {{cpu: "{cpus}", memory: {memory}Mi}}
          limits: {{cpu: "{cpus}", memory: {memory}Mi{gpus}}}
"""


def samples(text):
    """The sum of each metric over its labels."""
    sums = {}
    for name, value in re.findall(r"^([a-z_]+)(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE):
        sums[name] = sums.get(name, 0) + float(value)
    return sums


def ask(server, flags):
    """The metrics of a server that is ready, and the name of its device."""
    process = subprocess.Popen([server, *flags, "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0",
                                "--log_format=json"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               encoding="utf-8")
    port, fault = None, "it says nothing"
    try:
        for said in process.stderr:
            try:
                line = json.loads(said)
            except ValueError:
                fault = said.strip()  # A wrong flag is told before there is a log.
                continue
            port, fault = line.get("http_port", port), line.get("error", fault)
            if line.get("message") == "ready":
                with urllib.request.urlopen("http://127.0.0.1:%s/metrics" % port) as page:
                    return samples(page.read().decode()), line["device"]
    finally:
        process.kill()
        process.communicate()
    sys.exit("resources.py: the server does not start: " + fault)


def host_memory(metrics, device):
    """Bytes of the machine's own memory, and what they are made of."""
    weights, scratch = metrics["packrat_weight_bytes"], metrics["packrat_scratch_bytes"]
    state = metrics["packrat_state_capacity_bytes"]
    if device.startswith("cpu"):
        return weights + state + scratch + REST, "weights %d MiB, state %d, scratch %d, the rest %d" % tuple(
            part // MIB for part in (weights, state, scratch, REST))
    # They lie in the GPU's memory. What the driver takes of the machine's is there when the server is ready.
    resident = metrics["packrat_process_resident_memory_bytes"]
    return resident + 4 * REST, "resident on the machine %d MiB, the rest %d; on the GPU %d" % tuple(
        part // MIB for part in (resident, 4 * REST, weights + state + scratch))


def main():
    parser = argparse.ArgumentParser(description="resources of the Deployment, for a model")
    parser.add_argument("--server", required=True, help="packrat_server")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="flags of the server, after --")
    options = parser.parse_args()
    metrics, device = ask(options.server, options.flags)
    memory, reason = host_memory(metrics, device)
    sys.stdout.write(PATCH.format(reason=reason, cpus=options.cpus, memory=int(-(-memory // STEP)) * STEP // MIB,
                                  gpus=", nvidia.com/gpu: %d" % options.gpus if options.gpus else ""))


if __name__ == "__main__":
    main()
