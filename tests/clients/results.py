"""The rows that `./dev clients` prints and keeps, each with the commit that it was taken at."""

import os

HEADER = "client\tversion\tcommit\tresult\tnote"


def row(name, packages, note):
    """`note` is what the client's script says; without it the run has failed. ./dev tells the commit."""
    version = ", ".join(packages) or "of Debian"
    return "\t".join((name, version, os.environ.get("PACKRAT_COMMIT", "unknown"), "well" if note else "FAILED",
                      note or ""))


def write(path, rows, order):
    """Into the file; what it has of other clients stays, and so does what it says of the machine (lines with #)."""
    remarks, kept = [], {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        remarks = [line for line in lines if line.startswith("#")]
        kept = {line.split("\t")[0]: line for line in lines}
    kept.update((line.split("\t")[0], line) for line in rows)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(remarks + [HEADER] + [kept[name] for name in order if name in kept]) + "\n")
