"""The layer stack of these families, as a torch module with the packrat family's names."""

import json
import os

import torch
import torch.nn.functional as F
from torch import nn

from models.reference import families, safetensors_io
from models.reference.layers import (
    Attention, GatedConv, GatedDelta, Mamba2, Mesa, Rat, RatPlus, RgLru, RmsNorm, linear)


class FeedForward(nn.Module):
    def __init__(self, d, hidden, kind, experts=None):
        super().__init__()
        self.up_proj = linear(d, hidden)
        self.down_proj = linear(hidden, d)
        self.gate_proj = linear(d, hidden) if kind == "swiglu" else None
        self.spec = experts
        if experts is not None:
            self.router = linear(d, experts.num_experts, experts.bias)
            self.experts = nn.ModuleList(
                FeedForward(d, experts.width, "swiglu") for _ in range(experts.num_experts))

    def forward(self, u):
        up = self.up_proj(u)
        if self.gate_proj is None:
            out = self.down_proj(F.gelu(up))
        else:
            out = self.down_proj(F.silu(self.gate_proj(u)) * up)
        return out if self.spec is None else out + self.mixture(u)

    def mixture(self, u):
        """Every expert for every token, then those that the router chooses."""
        logits = F.linear(u, self.router.weight)
        scores = logits.softmax(-1) if self.spec.score == "softmax" else logits.sigmoid()
        keys = scores if self.router.bias is None else scores + self.router.bias
        chosen = keys.topk(self.spec.num_chosen, -1).indices
        shares = scores.gather(-1, chosen)
        if self.spec.normalize:
            shares = shares / shares.sum(-1, keepdim=True)
        made = torch.stack([expert(u) for expert in self.experts], -2)
        made = made.gather(-2, chosen[..., None].expand(*chosen.shape, u.shape[-1]))
        return self.spec.scale * (shares[..., None] * made).sum(-2)


class Block(nn.Module):
    def __init__(self, spec, layer):
        super().__init__()
        d, eps = spec.hidden_size, spec.norm_eps
        self.mixer_norm = RmsNorm(d, eps)
        self.mlp_norm = RmsNorm(d, eps)
        if layer.kind == "rat":
            self.mixer = Rat(layer, d)
        elif layer.kind == "rat_plus":
            self.mixer = RatPlus(layer, d)
        elif layer.kind == "attention":
            self.mixer = Attention(layer, d)
        elif layer.kind == "gated_delta_net":
            self.mixer = GatedDelta(layer, d, eps)
        elif layer.kind == "mamba2":
            self.mixer = Mamba2(layer, d, eps)
        elif layer.kind == "rg_lru":
            self.mixer = RgLru(layer, d)
        elif layer.kind == "short_conv":
            self.mixer = GatedConv(layer, d)
        else:
            self.mixer = Mesa(layer, d, eps)
        self.mlp = FeedForward(d, spec.intermediate_size, spec.ffn, spec.experts)

    def forward(self, x):
        x = x + self.mixer(self.mixer_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Backbone(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.embeddings = nn.Embedding(spec.vocab_size, spec.hidden_size)
        self.layers = nn.ModuleList(Block(spec, layer) for layer in spec.layers)
        self.norm = RmsNorm(spec.hidden_size, spec.norm_eps)

    def forward(self, ids):
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Model(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        self.model = Backbone(spec)
        self.lm_head = None if spec.tie else linear(spec.hidden_size, spec.vocab_size)

    def forward(self, ids):
        """ids (B, T) integers; returns logits (B, T, vocab)."""
        hidden = self.model(ids)
        head = self.model.embeddings if self.lm_head is None else self.lm_head
        return F.linear(hidden, head.weight)


def load_model(folder):
    """Returns (model, config) of a folder with config.json and safetensors; float32, eval mode."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    model = Model(families.parse_config(config))
    tensors = families.to_internal(config, safetensors_io.load_folder(folder))
    missing = sorted(set(model.state_dict()) - set(tensors))
    surplus = sorted(set(tensors) - set(model.state_dict()))
    if missing or surplus:
        raise ValueError(f"{folder}: missing tensors {missing}, surplus tensors {surplus}")
    model.load_state_dict(tensors)
    return model.eval(), config
