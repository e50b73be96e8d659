"""Writes a folder that the server loads: bf16 safetensors, config, tokenizer, generation defaults.

    python3 -m models.train.export --checkpoint RUN/checkpoint.pt --data DATA --output models/demo
"""

import argparse
import json
import os
import shutil

import torch

from models.reference import safetensors_io

GENERATION = {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.7,
              "top_p": 0.9}


def export(checkpoint_path, data, output):
    """Returns the bytes of model.safetensors."""
    state = torch.load(checkpoint_path, map_location="cpu")
    os.makedirs(output, exist_ok=True)
    tensors = {name: tensor.bfloat16() for name, tensor in state["model"].items()}
    path = os.path.join(output, "model.safetensors")
    safetensors_io.save(path, tensors, {"format": "pt"})
    config = dict(state["config"], torch_dtype="bfloat16")
    for name, content in (("config.json", config), ("generation_config.json", GENERATION),
                          ("tokenizer_config.json", {"add_bos_token": True})):
        with open(os.path.join(output, name), "w", encoding="utf-8") as f:
            json.dump(content, f, indent=2)
            f.write("\n")
    source = os.path.join(data, "tokenizer.model")
    shutil.copyfile(source, os.path.join(output, "tokenizer.model"))
    return os.path.getsize(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="folder with tokenizer.model")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    size = export(args.checkpoint, args.data, args.output)
    print(f"{args.output}: {size} bytes of weights")


if __name__ == "__main__":
    main()
