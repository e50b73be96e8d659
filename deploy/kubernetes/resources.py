#!/usr/bin/env python3
"""Writes the kustomize patch of a Deployment's resources, for a model on CPUs and the flags of its server.

    resources.py --server=PROGRAM [--cpus=N] -- --model=DIR [flags of the server]

The numbers are the server's own: what it takes at the start, for --max_running sequences of --max_context tokens unless
--state_bytes says less. Standard library only.
"""

import argparse
import json
import subprocess
import sys

MIB = 1 << 20
STEP = 16  # MiB

PATCH = """\
# By ./dev k8s-resources: weights {weights} MiB, scratch {scratch}, state {state}, process {process},
# grammars {grammars}; the rest for messages and for the pages of the program.
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
          limits: {{cpu: "{cpus}", memory: {memory}Mi}}
"""


def main():
    parser = argparse.ArgumentParser(description="resources of the Deployment, for a model on CPUs")
    parser.add_argument("--server", required=True, help="packrat_server")
    parser.add_argument("--cpus", type=int, default=2, help="CPUs, and threads of the model")
    parser.add_argument("flags", nargs="*", help="flags of the server, after --")
    options = parser.parse_args()
    # Whatever this machine has: the pod is elsewhere. Room for kept states beside those that run is
    # whatever a larger limit leaves.
    planned = subprocess.run([options.server, "--plan=json", "--device=cpu", "--threads=%d" % options.cpus,
                              "--memory_limit=1TiB", "--cache_sequences=0", *options.flags], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, encoding="utf-8", check=False)
    plan = json.loads(planned.stdout) if planned.stdout else {"fits": False, "message": planned.stderr.strip()}
    if not plan["fits"]:
        sys.exit("resources.py: " + plan["message"])
    memory = plan["memory"]
    sys.stdout.write(PATCH.format(
        cpus=options.cpus, memory=-(-memory["request_bytes"] // (STEP * MIB)) * STEP,
        **{part: memory[{"weights": "weight", "grammars": "grammar"}.get(part, part) + "_bytes"] // MIB
           for part in ("weights", "scratch", "state", "process", "grammars")}))


if __name__ == "__main__":
    main()
