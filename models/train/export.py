"""Writes a folder that the server loads: bf16 safetensors, config, tokenizer, generation defaults.

    python3 -m models.train.export --checkpoint RUN/checkpoint.pt --data DATA --output models/demo

What the folder held before stays as it was if the disk fills. Sampling defaults are those that
models/train/sampling.py recommends; --temperature and --top_p change them.
"""

import argparse
import contextlib
import json
import os

from models.reference import safetensors_io
from models.train import checkpoint, files
from models.train.data import load_tokenizer
from models.train.files import Mistake

GENERATION = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.9,
              "top_p": 0.9}


def export(checkpoint_path, data, output, generation=None):
    """Returns the bytes of model.safetensors."""
    state = checkpoint.load(checkpoint_path)
    pieces = load_tokenizer(data).get_piece_size()
    if pieces > state["config"]["vocab_size"]:
        raise Mistake(f"{data}: a tokenizer of {pieces} pieces, but the checkpoint's vocab_size is "
                      f"{state['config']['vocab_size']}")
    with open(os.path.join(data, "tokenizer.model"), "rb") as f:
        tokenizer = f.read()
    tensors = {name: tensor.bfloat16() for name, tensor in state["model"].items()}
    files.make_folder(output)
    path = os.path.join(output, "model.safetensors")
    # All are written before the first takes its place: a full disk leaves no mixture.
    with contextlib.ExitStack() as stack:
        for name, content in (("config.json", dict(state["config"], torch_dtype="bfloat16")),
                              ("generation_config.json", dict(GENERATION, **(generation or {}))),
                              ("tokenizer_config.json", {"add_bos_token": True})):
            file = stack.enter_context(files.replacing(os.path.join(output, name)))
            file.write(json.dumps(content, indent=2).encode("utf-8") + b"\n")
            file.flush()
        file = stack.enter_context(files.replacing(os.path.join(output, "tokenizer.model")))
        file.write(tokenizer)
        file.flush()
        safetensors_io.save(stack.enter_context(files.replaced_by(path)), tensors, {"format": "pt"})
    return os.path.getsize(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="folder with tokenizer.model")
    parser.add_argument("--output", required=True)
    parser.add_argument("--temperature", type=float, default=GENERATION["temperature"])
    parser.add_argument("--top_p", type=float, default=GENERATION["top_p"])
    args = parser.parse_args()
    size = export(args.checkpoint, args.data, args.output,
                  {"temperature": args.temperature, "top_p": args.top_p})
    print(f"{args.output}: {size} bytes of weights")


if __name__ == "__main__":
    files.run_main(main)
