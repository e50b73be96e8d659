"""Initial weights."""

import math

import torch


@torch.no_grad()
def initialise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        leaf = name.rsplit("mixer.", 1)[-1]
        if name.endswith("embeddings.weight") or name == "lm_head.weight":
            p.normal_(0, 0.03, generator=generator)
        elif name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight")):
            p.zero_()  # every layer begins as the identity
        elif leaf in ("a_proj.weight", "b_proj.weight"):
            p.zero_()
        elif leaf == "a_proj.bias":  # heads remember about 6 to 150 tokens
            p.copy_(torch.linspace(1.6, 5.0, p.numel()))
        elif leaf == "b_proj.bias":
            p.zero_()
        elif leaf == "gate_bias":  # channels remember about 1 to 16 tokens of a chunk
            p.copy_(torch.linspace(-2.0, 2.7, p.numel()))
        elif leaf == "lambda_params":
            p.fill_(0.1)
        elif leaf.endswith("conv1d.weight"):  # mostly the current token
            p.normal_(0, 0.1, generator=generator)
            p[..., -1] += 1.0
        elif name.endswith(".bias"):
            p.zero_()
        elif p.dim() == 2:
            p.normal_(0, 1 / math.sqrt(p.shape[1]), generator=generator)
        # norms stay at one
