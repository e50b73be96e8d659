"""Trains full attention, RAT, Mesa and the hybrid alike, and measures what each costs and wins.

    python3 -m models.train.compare --base models/train/config.json --data DATA \\
        --text validation.txt --output COMPARE --steps 900 [flags of train.py]

The variants have the base config's shape with another `layer_types`; the width of the feed-forward
is chosen so that all have the base's number of parameters. All see the same batches from the same
seed. Each is trained in COMPARE/VARIANT (resumable: the same command goes on), exported to
COMPARE/VARIANT/model, and measured on the server's own engine. The table stands in
COMPARE/compare.md. With --piece_minutes it leaves with exit code 75 as train.py does.
"""

import argparse
import json
import math
import os
import subprocess
import sys

from models.reference import families
from models.reference.model import Model
from models.train import checkpoint, export, files, served
from models.train.files import Mistake
from models.train.train import EXIT_PIECE, read_model

VARIANTS = ("attention", "rat", "mesa", "hybrid")
_WIDTH_STEP = 16  # of the feed-forward
_CONTEXT = 4096  # tokens, of the state that is reported


def parameters(config):
    return sum(p.numel() for p in Model(families.parse_config(config)).parameters())


def configs(base):
    """{variant: config}, with the base's number of parameters up to a step of the width."""
    for kind in VARIANTS[:3]:
        if kind not in base:
            raise Mistake(f"the base config lacks the sizes of \"{kind}\"")
    kinds = set(base["layer_types"]) | set(VARIANTS) - {"hybrid"}
    target, count = parameters(base), len(base["layer_types"])
    result = {}
    for variant in VARIANTS:
        types = base["layer_types"] if variant == "hybrid" else [variant] * count
        config = dict(base, layer_types=types)
        for kind in kinds - set(types):
            config.pop(kind, None)
        # Three matrices of a layer have this width on one side.
        width = base["intermediate_size"]
        a_step = 3 * count * base["hidden_size"] * _WIDTH_STEP
        width += _WIDTH_STEP * round((target - parameters(config)) / a_step)
        if width < _WIDTH_STEP:
            raise Mistake(f"{variant}: its layers alone have more parameters than the base")
        result[variant] = dict(config, intermediate_size=width)
    return result


def train(folder, config, arguments):
    """Trains, or goes on, or finds that all is done. Returns whether it is done."""
    files.make_folder(folder)
    path = os.path.join(folder, "config.json")
    files.write_text(path, json.dumps(config, indent=2) + "\n")
    code = subprocess.run([sys.executable, "-W", "ignore", "-m", "models.train.train", "--config",
                           path, "--output", folder, *arguments], check=False).returncode
    if code not in (0, EXIT_PIECE):
        raise SystemExit(code if code > 0 else 128 - code)  # it has said why
    return code == 0


def measure(binaries, folder, data, documents, bench):
    """The variant's numbers, as {name: value}; the trained model is exported to folder/model."""
    state = checkpoint.load(os.path.join(folder, "checkpoint.pt"))
    model = os.path.join(folder, "model")
    export.export(os.path.join(folder, "checkpoint.pt"), data, model)
    result = {"parameters": parameters(state["config"]),
              "width": state["config"]["intermediate_size"], "step": state["step"],
              "tokens": state["tokens"]}
    result["bits"], result["bytes"] = served.score(binaries, model, documents)
    with served.Server(binaries, model) as server:
        result["state_bytes"] = server.state_bytes(_CONTEXT)
        one, many = (server.json("bench", f"--concurrency={concurrency}",
                                 f"--requests={bench['rounds'] * concurrency}",
                                 f"--prompt_tokens={bench['prompt_tokens']}",
                                 f"--max_tokens={bench['max_tokens']}", "--seed=1")
                     for concurrency in (1, bench["concurrency"]))
    # Medians of calls, since another process may take the cores for a while.
    result["prompt"] = bench["prompt_tokens"] * _per_second(one["time_to_first_token_ms"]["p50"])
    result["decode"] = _per_second(one["time_per_output_token_ms"]["p50"])
    result["throughput"] = many["output_tokens_per_second"]
    return result


def _per_second(milliseconds):
    # Zero where a call was so short that one message carried all of it.
    return 1000 / milliseconds if milliseconds else math.inf


def table(measured, bench):
    lines = [f"| layers | parameters | feed-forward | bits per byte | state at {_CONTEXT} tokens | "
             "prompt, tokens/s | decoding, tokens/s | "
             f"{bench['concurrency']} callers, tokens/s |", "|---|---|---|---|---|---|---|---|"]
    for variant, m in measured.items():
        lines.append(f"| {variant} | {m['parameters'] / 1e6:.2f} M | {m['width']} | "
                     f"{m['bits']:.4f} | {m['state_bytes'] / 1024:,.0f} KB | {m['prompt']:,.0f} | "
                     f"{m['decode']:,.0f} | {m['throughput']:,.0f} |")
    any_one = next(iter(measured.values()))
    lines.append("")
    lines.append(
        f"Each trained for {any_one['step']} steps, {any_one['tokens'] / 1e6:.2f} million tokens. "
        f"Bits per byte of {any_one['bytes']} bytes that none was trained on. Speeds of the server "
        f"on calls of {bench['prompt_tokens']} and {bench['max_tokens']} tokens, medians; of the "
        "callers together, what they were sent, their prompts included in the time.")
    return "\n".join(lines) + "\n"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="Everything else goes to models/train/train.py, e.g. --batch 4 --length 1024.")
    parser.add_argument("--base", required=True, help="config.json of the hybrid")
    parser.add_argument("--data", required=True, help="folder made by prepare.py")
    parser.add_argument("--text", required=True, help="to score, e.g. validation.txt")
    parser.add_argument("--count", type=int, help="documents of it; all unless given")
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=8, help="callers at a time")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each caller")
    parser.add_argument("--prompt_tokens", type=int, default=2048)
    parser.add_argument("--max_tokens", type=int, default=128, help="of a timed call")
    served.add_arguments(parser)
    args, rest = parser.parse_known_args()
    if args.steps < 1:
        parser.error("--steps: not 1 or more")
    return args, rest


def main():
    args, rest = parse_arguments()
    binaries = served.Binaries(args.bin)
    documents = served.read_text(args.text, count=args.count)
    base, _ = read_model(args.base)
    variants = configs(base)
    for variant, config in variants.items():
        print(f"{variant}: {parameters(config) / 1e6:.3f} M parameters", flush=True)
        if not train(os.path.join(args.output, variant), config,
                     ["--data", args.data, "--steps", str(args.steps), *rest]):
            return EXIT_PIECE
    bench = {name: getattr(args, name)
             for name in ("concurrency", "rounds", "prompt_tokens", "max_tokens")}
    measured = {variant: measure(binaries, os.path.join(args.output, variant), args.data, documents,
                                 bench) for variant in variants}
    text = table(measured, bench)
    files.write_text(os.path.join(args.output, "compare.md"), text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    files.run_main(main)
