"""The mixers, differentiable, and parallel over the sequence where a model is trained by them.

Shapes: B sequences, T tokens, d model width, H heads of D channels. Every mixer takes the
normalised input (B, T, d) and returns (B, T, d). Projections follow autocast where the caller asks
for it; recurrences, softmaxes, norms and the Mesa solve are float32.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.reference import mesa_solver
from models.reference.scan import decaying_sum

_NEG = -1e30  # masks a score; finite, so that a row of nothing but masked scores makes no NaN


def rms_norm(x, weight, eps):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


def rotary_table(positions, head_dim, theta):
    """(cos, sin), each (len(positions), D), for the rotate-half convention."""
    half = torch.arange(0, head_dim, 2, dtype=torch.float64, device=positions.device) / head_dim
    angles = positions.double()[:, None] * theta ** -half
    angles = torch.cat([angles, angles], -1)
    return angles.cos().float(), angles.sin().float()


def rotate(x, table):
    """x (..., T, D); rotates by the table's angles."""
    cos, sin = table
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def linear(inputs, outputs, bias=False):
    return nn.Linear(inputs, outputs, bias=bias)


class Rat(nn.Module):
    """Recurrence inside a chunk, attention over the finished chunks and the running state."""

    def __init__(self, spec, d):
        super().__init__()
        self.spec, self.d = spec, d
        shared = spec.kv_heads * spec.head_dim
        self.in_proj = linear(d, 3 * d + 2 * shared)
        self.gate_bias = nn.Parameter(torch.zeros(d))
        self.out_proj = linear(d, d)

    def forward(self, h):
        s, d = self.spec, self.d
        B, T, _ = h.shape
        L, H, D = s.chunk_size, s.num_heads, s.head_dim
        chunks = -(-T // L)
        padding = chunks * L - T
        shared = s.kv_heads * D
        z, v, g, q, k = self.in_proj(h).split([d, d, d, shared, shared], -1)
        z = torch.sigmoid(z.float())
        gate = torch.sigmoid(g.float() + self.gate_bias)
        tiles = H // s.kv_heads  # head j uses group j mod G
        keys_values = torch.cat([k.float().repeat(1, 1, tiles), v.float()], -1)
        new = keys_values * (1 - gate).repeat(1, 1, 2)
        decay = gate.repeat(1, 1, 2)
        if padding:
            new, decay = F.pad(new, (0, 0, 0, padding)), F.pad(decay, (0, 0, 0, padding))
        states = decaying_sum(decay.view(B, chunks, L, 2 * d), new.view(B, chunks, L, 2 * d))
        states = states.reshape(B, chunks * L, 2, H, D).permute(2, 0, 3, 1, 4)  # 2, B, H, T, D
        position = torch.arange(chunks * L, device=h.device) // L
        table = rotary_table(position, D, s.rope_theta)
        k_bar, v_bar = rotate(states[0], table), states[1]
        q = F.pad(q.float(), (0, 0, 0, padding)).view(B, -1, s.kv_heads, D).transpose(1, 2)
        q = rotate(q, table).repeat(1, tiles, 1, 1) * D ** -0.5
        past = q @ k_bar[:, :, L - 1 :: L].transpose(-1, -2)  # B, H, T, chunks
        visible = torch.arange(chunks, device=h.device) < position[:, None]
        past = past.masked_fill(~visible, _NEG)
        own = (q * k_bar).sum(-1, keepdim=True)
        weights = torch.softmax(torch.cat([past, own], -1), -1)
        o = weights[..., :-1] @ v_bar[:, :, L - 1 :: L] + weights[..., -1:] * v_bar
        o = o.transpose(1, 2).reshape(B, -1, d)[:, :T]
        return self.out_proj(z * o)


class RatPlus(nn.Module):
    """A recurrence over the whole text, attention over a chosen part of its states."""

    def __init__(self, spec, d):
        super().__init__()
        self.spec = spec
        self.in_proj = linear(d, 5 * d)
        self.out_proj = linear(d, d)

    def forward(self, h):
        s = self.spec
        B, T, d = h.shape
        o, q, k, v, g = (part.float() for part in self.in_proj(h).split(d, -1))
        gate = torch.sigmoid(g).repeat(1, 1, 2)
        states = decaying_sum(gate, (1 - gate) * torch.cat([k, v], -1))
        k_bar, v_bar = (x.view(B, T, s.num_heads, s.head_dim).transpose(1, 2)
                        for x in states.chunk(2, -1))
        at = torch.arange(T, device=h.device)
        table = rotary_table(at, s.head_dim, s.rope_theta)
        q = rotate(q.view(B, T, s.num_heads, s.head_dim).transpose(1, 2), table)
        scores = q @ rotate(k_bar, table).transpose(-1, -2) * s.head_dim ** -0.5
        seen = (at[:, None] - at <= s.window) | (at < s.sinks)
        if s.dilation > 0:
            seen = seen | ((at + 1) % s.dilation == 0)
        seen = seen & (at <= at[:, None])
        a = torch.softmax(scores.masked_fill(~seen, _NEG), -1) @ v_bar
        return self.out_proj(torch.sigmoid(o) * a.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """Causal attention with grouped keys, full or over the last `window` tokens."""

    def __init__(self, spec, d):
        super().__init__()
        self.spec = spec
        width, kv_width = spec.num_heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.q_proj = linear(d, width, spec.qkv_bias)
        self.k_proj = linear(d, kv_width, spec.qkv_bias)
        self.v_proj = linear(d, kv_width, spec.qkv_bias)
        self.o_proj = linear(width, d)

    def forward(self, h):
        s = self.spec
        B, T, _ = h.shape
        table = rotary_table(torch.arange(T, device=h.device), s.head_dim, s.rope_theta)

        def heads(x, count):
            return x.float().view(B, T, count, s.head_dim).transpose(1, 2)

        q = rotate(heads(self.q_proj(h), s.num_heads), table) * s.head_dim ** -0.5
        k = rotate(heads(self.k_proj(h), s.kv_heads), table)
        v = heads(self.v_proj(h), s.kv_heads)
        # Query head j uses key head j / (H / Hkv): queries of one key head lie together.
        q = q.reshape(B, s.kv_heads, -1, T, s.head_dim)
        k, v = k[:, :, None], v[:, :, None]
        windowed = s.window is not None and s.window < T
        o = _blocked(q, k, v, s.window) if windowed else _full(q, k, v)
        return self.o_proj(o.reshape(B, s.num_heads, T, s.head_dim).transpose(1, 2).flatten(2))


def _full(q, k, v):
    T = q.shape[-2]
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    return torch.softmax((q @ k.transpose(-1, -2)).masked_fill(future, _NEG), -1) @ v


def _blocked(q, k, v, window):
    """Blocks of `window` queries see their own block and the one before: O(T * window)."""
    T, W = q.shape[-2], window
    padding = -T % W

    def blocks(x):
        return F.pad(x, (0, 0, 0, padding)).unflatten(-2, (-1, W))

    def with_previous(x):
        x = blocks(x)
        return torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0))[..., :-1, :, :], x], -2)

    query = torch.arange(W, device=q.device)[:, None] + W
    key = torch.arange(2 * W, device=q.device)
    hidden = (key > query) | (key <= query - W)
    scores = blocks(q) @ with_previous(k).transpose(-1, -2)  # ..., blocks, W, 2 W
    hidden = hidden.expand(scores.shape[-3:]).clone()
    hidden[0, :, :W] = True  # nothing stands before the first block
    o = torch.softmax(scores.masked_fill(hidden, _NEG), -1) @ with_previous(v)
    return o.flatten(-3, -2)[..., :T, :]


class ShortConv(nn.Module):
    """Causal depthwise convolution, current token at the last tap, then silu unless told not to."""

    def __init__(self, channels, size, bias, silu=True):
        super().__init__()
        self.silu = silu
        self.weight = nn.Parameter(torch.zeros(channels, 1, size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x):
        size = self.weight.shape[-1]
        padded = F.pad(x.float(), (0, 0, size - 1, 0))
        taps = [padded[:, i : i + x.shape[1]] * self.weight[:, 0, i] for i in range(size)]
        out = sum(taps[1:], taps[0])
        out = out if self.bias is None else out + self.bias
        return F.silu(out) if self.silu else out


class GatedConv(nn.Module):
    """A short convolution between two gates."""

    def __init__(self, spec, d):
        super().__init__()
        self.in_proj = linear(d, 3 * d, spec.conv_bias)
        self.conv = ShortConv(d, spec.conv_size, spec.conv_bias, silu=False)
        self.out_proj = linear(d, d, spec.conv_bias)

    def forward(self, h):
        in_gate, out_gate, x = self.in_proj(h).chunk(3, -1)
        return self.out_proj(out_gate.float() * self.conv(in_gate.float() * x.float()))


class RgLruGates(nn.Module):
    """The parameters of the recurrence, under the names of transformers."""

    def __init__(self, heads, dim):
        super().__init__()
        self.recurrent_param = nn.Parameter(torch.zeros(heads * dim))
        self.input_gate_weight = nn.Parameter(torch.zeros(heads, dim, dim))
        self.input_gate_bias = nn.Parameter(torch.zeros(heads, dim))
        self.recurrent_gate_weight = nn.Parameter(torch.zeros(heads, dim, dim))
        self.recurrent_gate_bias = nn.Parameter(torch.zeros(heads, dim))


class RgLru(nn.Module):
    """The real-gated linear recurrent unit, token by token as kernels/rg_lru.h states it."""

    def __init__(self, spec, d):
        super().__init__()
        self.spec = spec
        width = spec.num_heads * spec.head_dim
        self.linear_x = linear(d, width, True)
        self.linear_y = linear(d, width, True)
        self.linear_out = linear(width, d, True)
        self.conv_1d = ShortConv(width, spec.conv_size, True, silu=False)
        self.rg_lru = RgLruGates(spec.num_heads, spec.head_dim)

    def forward(self, h):
        p = self.rg_lru
        x = self.conv_1d(self.linear_x(h))
        heads = x.unflatten(-1, (self.spec.num_heads, -1))

        def gate(weight, bias):
            return torch.sigmoid(torch.einsum("bthi,hij->bthj", heads, weight) + bias).flatten(2)

        gated = x * gate(p.input_gate_weight, p.input_gate_bias)
        recurrent = gate(p.recurrent_gate_weight, p.recurrent_gate_bias)
        log_a = -8 * recurrent * F.softplus(p.recurrent_param)
        added = gated * torch.sqrt(-torch.expm1(2 * log_a))
        state, rows = gated[:, 0], []
        for t in range(h.shape[1]):
            if t > 0:
                state = log_a[:, t].exp() * state + added[:, t]
            rows.append(state)
        return self.linear_out(torch.stack(rows, 1) * F.gelu(self.linear_y(h), approximate="tanh"))


def unit(x):
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + 1e-6)


class Mesa(nn.Module):
    def __init__(self, spec, d, eps):
        super().__init__()
        self.spec, self.eps = spec, eps
        width = spec.num_heads * spec.head_dim
        self.q_proj = linear(d, width)
        self.k_proj = linear(d, width)
        self.v_proj = linear(d, width)
        self.o_proj = linear(width, d)
        self.a_proj = linear(d, spec.num_heads, True)
        self.b_proj = linear(d, spec.num_heads, True)
        if spec.output_gate:
            self.g_proj = linear(d, width)
        self.q_conv1d = ShortConv(width, spec.conv_size, spec.conv_bias)
        self.k_conv1d = ShortConv(width, spec.conv_size, spec.conv_bias)
        self.lambda_params = nn.Parameter(torch.zeros(width))
        self.o_norm = RmsNorm(spec.head_dim, eps)

    def forward(self, h):
        s = self.spec
        B, T, _ = h.shape

        def heads(x):
            return x.float().view(B, T, s.num_heads, s.head_dim).transpose(1, 2)

        q = unit(heads(self.q_conv1d(self.q_proj(h))))
        k = unit(heads(self.k_conv1d(self.k_proj(h))))
        v = heads(self.v_proj(h))
        beta = torch.sigmoid(self.b_proj(h).float()).transpose(1, 2)
        log_gamma = F.logsigmoid(self.a_proj(h).float()).transpose(1, 2)
        ridge = F.softplus(self.lambda_params) + s.lambda_lower_bound
        o = mesa_solver.mesa(q, k, v, beta, log_gamma, ridge.view(s.num_heads, 1, s.head_dim))
        o = self.o_norm(o).transpose(1, 2).flatten(2)
        if s.output_gate:
            o = o * F.silu(self.g_proj(h).float())
        return self.o_proj(o)


class GatedDelta(nn.Module):
    """The gated delta rule, token by token as kernels/gated_delta.h states it, in double precision."""

    def __init__(self, spec, d, eps):
        super().__init__()
        self.spec = spec
        keys, values = spec.kv_heads * spec.key_dim, spec.num_heads * spec.head_dim
        self.widths = [keys, keys, values]
        self.in_proj_qkv = linear(d, 2 * keys + values)
        self.in_proj_z = linear(d, values)
        self.in_proj_b = linear(d, spec.num_heads)
        self.in_proj_a = linear(d, spec.num_heads)
        self.conv1d = ShortConv(2 * keys + values, spec.conv_size, False)
        self.A_log = nn.Parameter(torch.zeros(spec.num_heads))
        self.dt_bias = nn.Parameter(torch.zeros(spec.num_heads))
        self.norm = RmsNorm(spec.head_dim, eps)
        self.out_proj = linear(values, d)

    def forward(self, h):
        s = self.spec
        q, k, v = self.conv1d(self.in_proj_qkv(h)).double().split(self.widths, -1)
        shared = s.num_heads // s.kv_heads  # value head j uses key head j / shared
        q = unit(q.unflatten(-1, (s.kv_heads, -1))).repeat_interleave(shared, 2) * s.key_dim ** -0.5
        k = unit(k.unflatten(-1, (s.kv_heads, -1))).repeat_interleave(shared, 2)
        v = v.unflatten(-1, (s.num_heads, -1))
        beta = torch.sigmoid(self.in_proj_b(h).double())
        log_decay = -self.A_log.double().exp() * F.softplus(self.in_proj_a(h) + self.dt_bias).double()
        state = q.new_zeros(h.shape[0], s.num_heads, s.key_dim, s.head_dim)
        rows = []
        for t in range(h.shape[1]):
            state = state * log_decay[:, t, :, None, None].exp()
            read = torch.einsum("bhe,bhed->bhd", k[:, t], state)
            corrected = beta[:, t, :, None] * (v[:, t] - read)
            state = state + k[:, t, :, :, None] * corrected[:, :, None]
            rows.append(torch.einsum("bhe,bhed->bhd", q[:, t], state))
        gate = F.silu(self.in_proj_z(h).float()).unflatten(-1, (s.num_heads, -1))
        return self.out_proj((self.norm(torch.stack(rows, 1)) * gate).flatten(2))


class Mamba2(nn.Module):
    """Mamba-2, token by token as kernels/mamba2.h states it, in double precision."""

    def __init__(self, spec, d, eps):
        super().__init__()
        self.spec, self.eps = spec, eps
        values, keys = spec.num_heads * spec.head_dim, spec.kv_heads * spec.key_dim
        self.widths = [values, values + 2 * keys, spec.num_heads]
        self.in_proj = linear(d, sum(self.widths), spec.in_bias)
        self.conv1d = ShortConv(values + 2 * keys, spec.conv_size, spec.conv_bias)
        self.A_log = nn.Parameter(torch.zeros(spec.num_heads))
        self.D = nn.Parameter(torch.zeros(spec.num_heads))
        self.dt_bias = nn.Parameter(torch.zeros(spec.num_heads))
        if spec.norm != "none":
            self.norm = RmsNorm(values, eps)
        self.out_proj = linear(values, d)

    def finish(self, y, z):
        s = self.spec
        if s.norm == "none":
            return y * F.silu(z)
        if s.norm == "after_gate":
            y = y * F.silu(z)
        parts = y.unflatten(-1, (s.norm_groups, -1))
        y = rms_norm(parts, self.norm.weight.view(s.norm_groups, -1), self.eps).flatten(-2)
        return y * F.silu(z) if s.norm == "before_gate" else y

    def forward(self, h):
        s = self.spec
        z, xbc, dt = self.in_proj(h).split(self.widths, -1)
        values, keys = self.widths[0], s.kv_heads * s.key_dim
        x, b, c = self.conv1d(xbc).double().split([values, keys, keys], -1)
        x = x.unflatten(-1, (s.num_heads, -1))
        shared = s.num_heads // s.kv_heads  # head j uses group j / shared
        b = b.unflatten(-1, (s.kv_heads, -1)).repeat_interleave(shared, 2)
        c = c.unflatten(-1, (s.kv_heads, -1)).repeat_interleave(shared, 2)
        dt = F.softplus((dt + self.dt_bias).double()).clamp(*s.step_limits)
        decay = (-self.A_log.double().exp() * dt).exp()
        state = x.new_zeros(h.shape[0], s.num_heads, s.key_dim, s.head_dim)
        rows = []
        for t in range(h.shape[1]):
            u = dt[:, t, :, None] * x[:, t]
            state = state * decay[:, t, :, None, None] + b[:, t, :, :, None] * u[:, :, None]
            y = torch.einsum("bhn,bhnd->bhd", c[:, t], state) + self.D.double()[:, None] * x[:, t]
            rows.append(y.flatten(1))
        y = self.finish(torch.stack(rows, 1), z)
        return self.out_proj(y.to(self.out_proj.weight.dtype))
