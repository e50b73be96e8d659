"""Bits per byte against the Mesa solver's tolerance and its limit of steps.

    python3 -m models.train.solver_quality --model models/demo --text validation.txt --count 8

Scored by the served engine (`packrat logits`). The steps of a solve are those that the server
reports for generated text. Prints Markdown.
"""

import argparse

from models.train import files, served

TOLERANCES = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
STEPS = (1, 2, 3, 4, 6, 8, 16, 32, 64)
_NO_LIMIT, _FINEST = "1024", "1e-7"


def steps_of(binaries, model, tolerance, limit):
    """Mean steps of a solve while the server continues an empty text."""
    with served.Server(binaries, model, f"--cg_tolerance={tolerance}",
                       f"--cg_max_steps={limit}") as server:
        tokens = min(200, server.json("info")["limits"]["max_context"] - 1)
        usage = server.json("complete", "--token_ids=1", f"--max_tokens={tokens}", "--ignore_eos",
                            "--seed=1")["finished"]["usage"]
    return int(usage["solver_steps"]) / max(1, int(usage["solver_solves"]))


def rows(binaries, model, documents, settings):
    """[(tolerance, limit, bits per byte, steps of a solve)]"""
    return [(tolerance, limit,
             served.score(binaries, model, documents, ("--cg_tolerance", tolerance,
                                                       "--cg_max_steps", str(limit)))[0],
             steps_of(binaries, model, tolerance, limit)) for tolerance, limit in settings]


def table(measured, best):
    lines = ["| tolerance | step limit | bits per byte | more than the exact solve | steps a solve |",
             "|---|---|---|---|---|"]
    for tolerance, limit, value, steps in measured:
        lines.append(f"| {tolerance} | {limit} | {value:.5f} | {value - best:+.5f} | {steps:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--count", type=int, help="documents; all of them unless given")
    served.add_arguments(parser)
    args = parser.parse_args()
    binaries = served.Binaries(args.bin)
    documents = served.read_text(args.text, count=args.count)
    settings = [(tolerance, _NO_LIMIT) for tolerance in TOLERANCES]
    settings += [(_FINEST, str(limit)) for limit in STEPS]
    best = served.score(binaries, args.model, documents,
                        ("--cg_tolerance", _FINEST, "--cg_max_steps", _NO_LIMIT))[0]
    print(f"{len(documents)} documents; solved to {_FINEST}: {best:.5f} bits per byte.\n")
    print(table(rows(binaries, args.model, documents, settings), best))


if __name__ == "__main__":
    files.run_main(main)
