"""What reference.py times: a RAT model in PyTorch, and one step of Mesa in PyTorch and Triton."""

import math

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

CHUNK = 16


def plain_attention(query, keys, values, attn_mask=None):
    scores = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    return scores.softmax(-1) @ values


def plain_rms_norm(x, shape, weight, eps):
    del shape
    return (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


# Older versions have neither; they serve to test this file.
sdpa = getattr(F, "scaled_dot_product_attention", plain_attention)
fused_rms_norm = getattr(F, "rms_norm", plain_rms_norm)


def rms_norm(x, weight):
    return fused_rms_norm(x, (x.shape[-1],), weight, 1e-6)


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class RatModel:
    """RAT with SwiGLU and tied embeddings, one decoding step of all sequences at one position.

    Caches are static: (batch, heads, chunks + 1, channels); the running chunk's rotated state is
    kept at its own chunk's place, so that one masked attention covers everything.
    """

    def __init__(self, bench, layers, width, heads, groups, inner, vocabulary, batch, position):
        self.heads, self.groups, self.dim = heads, groups, width // heads
        self.width, self.batch = width, batch
        kind = {"device": bench.device, "dtype": bench.dtype}
        shared = groups * self.dim

        def linear(out, inputs):
            return torch.randn(out, inputs, **kind) / math.sqrt(inputs)

        self.embedding = torch.randn(vocabulary, width, **kind) / math.sqrt(width)
        self.final_norm = torch.ones(width, **kind)
        places = position // CHUNK + 1
        self.layers = []
        for _ in range(layers):
            cache = torch.randn(2, batch, heads, places, self.dim, **kind)
            self.layers.append({
                "norm": torch.ones(width, **kind), "in": linear(3 * width + 2 * shared, width),
                "bias": torch.randn(width, device=bench.device), "out": linear(width, width),
                "norm2": torch.ones(width, **kind), "gate_up": linear(2 * inner, width),
                "down": linear(width, inner), "k": cache[0], "v": cache[1],
                "running": torch.zeros(2, batch, width, device=bench.device)})
        self.tokens = torch.randint(vocabulary, (batch,), device=bench.device)
        self.position = torch.full((1,), position, device=bench.device)
        half = torch.arange(0, self.dim, 2, device=bench.device) / self.dim
        self.frequencies = torch.cat([10000.0**-half, 10000.0**-half])
        self.places = torch.arange(places, device=bench.device)

    def mixer(self, layer, h, chunk, cos, sin, mask):
        width, shared = self.width, self.groups * self.dim
        z, v, g, q, k = F.linear(h, layer["in"]).split([width, width, width, shared, shared], -1)
        gate = torch.sigmoid(g.float() + layer["bias"])
        tiles = self.heads // self.groups
        new = torch.stack([k.repeat(1, tiles), v]).float()
        old = layer["running"] * (self.position % CHUNK != 0)
        running = gate * old + (1 - gate) * new
        layer["running"].copy_(running)
        heads = running.view(2, self.batch, self.heads, 1, self.dim)
        key = rotate(heads[0], cos, sin)
        layer["k"].index_copy_(2, chunk, key.to(layer["k"].dtype))
        layer["v"].index_copy_(2, chunk, heads[1].to(layer["v"].dtype))
        query = rotate(q.repeat(1, tiles).view(self.batch, self.heads, 1, self.dim).float(), cos, sin)
        out = sdpa(query.to(layer["k"].dtype), layer["k"], layer["v"], attn_mask=mask)
        return F.linear(torch.sigmoid(z) * out.reshape(self.batch, width), layer["out"])

    def step(self):
        chunk = self.position // CHUNK
        angles = chunk * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        mask = (self.places <= chunk)[None, None, None, :]
        x = self.embedding[self.tokens]
        for layer in self.layers:
            x = x + self.mixer(layer, rms_norm(x, layer["norm"]), chunk, cos, sin, mask)
            gate, up = F.linear(rms_norm(x, layer["norm2"]), layer["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        logits = F.linear(rms_norm(x, self.final_norm), self.embedding)
        self.tokens.copy_(logits.argmax(-1))
        return logits


if triton is not None:

    @triton.jit
    def mesa_step_kernel(q, k, v, decay, beta, ridge, hkk_in, hkv_in, hkk_out, hkv_out, out,
                         heads: tl.constexpr, dim: tl.constexpr, steps: tl.constexpr):
        """One token of one head: update both matrices, `steps` conjugate gradients, read out.

        Written from the equations (arXiv 2506.05233), in the form that updates at every token.
        """
        head = tl.program_id(0)
        channel = tl.arange(0, dim)
        square = head * dim * dim + channel[:, None] * dim + channel[None, :]
        query = tl.load(q + head * dim + channel)
        key = tl.load(k + head * dim + channel)
        value = tl.load(v + head * dim + channel)
        g, b = tl.load(decay + head), tl.load(beta + head)
        lamb = tl.load(ridge + (head % heads) * dim + channel)
        matrix = g * tl.load(hkk_in + square) + b * key[:, None] * key[None, :]
        tl.store(hkk_out + square, matrix)
        diagonal = tl.sum(tl.where(channel[:, None] == channel[None, :], matrix, 0.0), 1)
        x = query / (diagonal + lamb)
        r = query - tl.sum(matrix * x[None, :], 1) - lamb * x
        p = r
        delta = tl.sum(r * r, 0)
        for _ in range(steps):
            ap = tl.sum(matrix * p[None, :], 1) + lamb * p
            alpha = delta / (tl.sum(p * ap, 0) + 1e-20)
            x += alpha * p
            r -= alpha * ap
            new = tl.sum(r * r, 0)
            p = r + new / (delta + 1e-20) * p
            delta = new
        mixed = g * tl.load(hkv_in + square) + b * key[:, None] * value[None, :]
        tl.store(hkv_out + square, mixed)
        tl.store(out + head * dim + channel, tl.sum(mixed * x[:, None], 0))


def mesa_step_torch(q, k, v, decay, beta, ridge, hkk, hkv, steps):
    """The same in PyTorch. q, k, v (..., D); decay, beta (...); hkk, hkv (..., D, D)."""
    hkk = decay[..., None, None] * hkk + beta[..., None, None] * k[..., :, None] * k[..., None, :]
    hkv = decay[..., None, None] * hkv + beta[..., None, None] * k[..., :, None] * v[..., None, :]
    x = q / (torch.diagonal(hkk, dim1=-2, dim2=-1) + ridge)

    def apply(p):
        return (hkk @ p[..., None])[..., 0] + ridge * p

    r = q - apply(x)
    p, delta = r, (r * r).sum(-1, keepdim=True)
    for _ in range(steps):
        ap = apply(p)
        alpha = delta / ((p * ap).sum(-1, keepdim=True) + 1e-20)
        x, r = x + alpha * p, r - alpha * ap
        new = (r * r).sum(-1, keepdim=True)
        p, delta = r + new / (delta + 1e-20) * p, new
    return (hkv.transpose(-1, -2) @ x[..., None])[..., 0], hkk, hkv


def mesa_operands(bench, batch, heads, dim):
    kind = {"device": bench.device, "dtype": torch.float32}
    q, k, v = (F.normalize(torch.randn(batch, heads, dim, **kind), dim=-1) for _ in range(3))
    gate, beta = (torch.rand(batch, heads, **kind) * 0.2 + 0.75 for _ in range(2))
    ridge = torch.rand(heads, dim, **kind) + 0.25
    keys = F.normalize(torch.randn(batch, heads, 48, dim, **kind), dim=-1)
    return q, k, v, gate, beta, ridge, keys.transpose(-1, -2) @ keys
