#!/usr/bin/env python3
"""Checks what the house rules say about sources, given the root of the repository and its files.

- server -> runtime -> models -> kernels: a lower folder never includes a higher one, and none of them
  includes tests/.
- Only server/ (and tests/) knows gRPC, Prometheus, HTTP and the wire contract.
- server/generation knows the messages of the contract, and no transport.
- Two classes of namespace packrat have two names: a program with both would take the functions of one
  for those of the other, and nothing would say so.
- Nobody uses absl::Mutex (not built for ThreadSanitizer here) or absl/log (this Abseil has none).
- Python scripts compile.

Files beyond about 400 lines are reported, not refused.
"""

import os
import re
import sys

LAYERS = ["kernels", "models", "runtime", "server", "tests"]
CPP = (".h", ".cc", ".cu", ".cuh")
LONG = 400
NETWORK = re.compile(r"^(grpc|grpcpp|prometheus|google/protobuf|proto)/|^boost/(asio|beast)[/.]")
TRANSPORT = re.compile(r"^(grpc|grpcpp|server/grpc|server/http|server/net)/|^boost/(asio|beast)[/.]|\.grpc\.pb\.h$")
FORBIDDEN = re.compile(r"^absl/(synchronization/|log/)")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
NAMESPACE = re.compile(r"^(?:namespace ([\w:]*) ?\{|\}  // (?:anonymous )?namespace)")
CLASS = re.compile(r"^(?:class|struct|union)\b(?: \w+\([^)]*\))? (\w+)(?: final)?(?: \{| :)")


def check_cpp(path, text):
    """Yields (line number, message) for each broken rule."""
    folder = path.split("/")[0]
    for number, line in enumerate(text.splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        included = match.group(1)
        if FORBIDDEN.match(included):
            yield number, "%s: use std::mutex and no absl/log" % included
        if folder not in LAYERS:
            continue
        top = included.split("/")[0]
        if top in LAYERS and LAYERS.index(top) > LAYERS.index(folder):
            yield number, "%s/ is below %s/ and must not include %s" % (folder, top, included)
        if NETWORK.match(included) and folder not in ("server", "tests"):
            yield number, "only server/ may include %s" % included
        if TRANSPORT.search(included) and path.startswith("server/generation/"):
            yield number, "server/generation knows no transport and must not include %s" % included


def classes(path, text):
    """Yields (line number, name) of the classes that namespace packrat itself has, tests' excepted."""
    if not path.endswith(CPP) or path.split("/")[0] not in LAYERS[:-1]:
        return
    inside = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := NAMESPACE.match(line):
            inside = inside[:-1] if line[0] == "}" else inside + [match.group(1)]
        if (match := CLASS.match(line)) and inside == ["packrat"]:
            yield number, match.group(1)


def check_file(path, text):
    if path.endswith(CPP):
        yield from check_cpp(path, text)
    if path.endswith(".py"):
        try:
            compile(text, path, "exec")
        except SyntaxError as error:
            yield error.lineno or 0, error.msg


def main(root, paths):
    problems = 0
    lengths = []
    places = {}
    for path in paths:
        if not path.endswith(CPP + (".py", ".proto", ".bzl")):
            continue
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read()
        lines = text.count("\n")
        if lines > LONG:
            lengths.append((lines, path))
        for number, message in check_file(path, text):
            print("%s:%d: %s" % (path, number, message))
            problems += 1
        for number, name in classes(path, text):
            place = "%s:%d" % (path, number)
            if places.setdefault(name, place) != place:
                print("%s: %s has another class %s" % (place, places[name], name))
                problems += 1
    for lines, path in sorted(lengths, reverse=True):
        print("note: %s has %d lines" % (path, lines))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
