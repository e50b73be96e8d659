"""The steps of big.py that need PyTorch: python3 -m tests.convert.big_steps STEP PATH."""

import json
import os
import sys

import torch

from models.reference import safetensors_io
from tests.convert import checkpoints
from tests.convert.served_test import FLA

RAT = checkpoints.shapes(["rat"] * 24, d=2048, head_dim=128, groups=2, ffn=8192, wide=8192,
                         vocab=32000)
MESA_NET = {**FLA, "hidden_size": 2048, "num_heads": 16, "head_dim": 128, "num_hidden_layers": 24,
            "vocab_size": 32000}


def write_rat(path):
    state = checkpoints.random_state(RAT, torch.bfloat16)
    parameters = sum(tensor.numel() for tensor in state.values())
    state["head.lm_head.weight"] = state["embedding.wte.weight"]  # Tied, as the authors save it.
    checkpoints.save(path, state, checkpoints.PREFIX)
    print(f"checkpoint: {os.path.getsize(path)} bytes, {len(RAT)} tensors, {parameters} parameters")


def compare_rat(folder):
    state = checkpoints.random_state(RAT, torch.bfloat16)
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors"):
            for name, tensor in safetensors_io.load(os.path.join(folder, file)).items():
                if not torch.equal(tensor, state.pop(name)):
                    sys.exit(f"{name} differs")
    if state:
        sys.exit(f"missing: {list(state)}")
    print("every tensor is as it was")


def mesa_net_shapes(c):
    """One dictionary of shapes for each shard."""
    d, width = c["hidden_size"], c["num_heads"] * c["head_dim"]
    ffn = -(-int(d * c["hidden_ratio"] * 2 / 3) // 256) * 256
    mixer = {**{f"{n}_proj.weight": (width, d) for n in "qkvg"}, "o_proj.weight": (d, width),
             **{f"{n}_proj.weight": (c["num_heads"], d) for n in "ab"},
             **{f"{n}_proj.bias": (c["num_heads"],) for n in "ab"},
             **{f"{n}_conv1d.weight": (width, 1, c["conv_size"]) for n in "qk"},
             "lambda_params": (width,), "o_norm.weight": (c["head_dim"],)}
    layer = {**{f"attn.{n}": shape for n, shape in mixer.items()},
             "attn_norm.weight": (d,), "mlp_norm.weight": (d,), "mlp.gate_proj.weight": (ffn, d),
             "mlp.up_proj.weight": (ffn, d), "mlp.down_proj.weight": (d, ffn)}
    yield {"model.embeddings.weight": (c["vocab_size"], d), "model.norm.weight": (d,),
           "lm_head.weight": (c["vocab_size"], d)}
    for i in range(c["num_hidden_layers"]):
        yield {f"model.layers.{i}.{n}": shape for n, shape in layer.items()}


def write_mesa_net(folder):
    os.mkdir(folder)
    weight_map, parts = {}, list(mesa_net_shapes(MESA_NET))
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        tensors = checkpoints.random_state(part, torch.bfloat16, seed=i)
        safetensors_io.save(os.path.join(folder, file), tensors, {"format": "pt"})
        weight_map.update({name: file for name in tensors})
    for name, content in (("config.json", MESA_NET),
                          ("model.safetensors.index.json", {"weight_map": weight_map})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(content, f)
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    print(f"folder: {size} bytes, {len(weight_map)} tensors")


def tokens(path):
    ids = torch.arange(1, 9, dtype=torch.int32)[None]
    safetensors_io.save(path, {"input_ids": ids})


def check_logits(path):
    values = safetensors_io.load(path)["logits"]
    if values.shape != (1, 8, 32000) or not torch.isfinite(values).all():
        sys.exit(f"logits {values}")
    print(f"logits are finite, their standard deviation is {values.std():.3f}")


if __name__ == "__main__":
    {f.__name__: f for f in (write_rat, compare_rat, write_mesa_net, tokens,
                             check_logits)}[sys.argv[1]](sys.argv[2])
