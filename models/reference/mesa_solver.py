"""The Mesa layer's test-time regression: o_t = (Hkk_t + diag(lambda))^-1 q_t @ Hkv_t.

Three ways: `exact` is the definition, token by token with a direct solve; `block` is the block form
of layers.md with a fixed number of conjugate gradient steps, parallel over the sequence and
differentiable, for training and for long texts. `options` says which one the layers use.
"""

import dataclasses

import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Options:
    exact: bool = False
    steps: int = 30  # conjugate gradient steps of the block form
    block: int = 64  # tokens per block


options = Options()


def mesa(q, k, v, beta, log_gamma, ridge):
    """q, k, v (B, H, T, D); beta, log_gamma (B, H, T); ridge (H, 1, D). Returns (B, H, T, D)."""
    # Autocast would round the solver's products to bfloat16.
    with torch.autocast(q.device.type, dtype=torch.bfloat16, enabled=False):
        if options.exact:
            return exact(q, k, v, beta, log_gamma, ridge)
        return block(q, k, v, beta, log_gamma, ridge)


def exact(q, k, v, beta, log_gamma, ridge):
    """Token by token in double precision, with torch.linalg.solve."""
    q, k, v, beta, gamma = (x.double() for x in (q, k, v, beta, log_gamma.exp()))
    B, H, T, D = q.shape
    hkk = q.new_zeros(B, H, D, D)
    hkv = q.new_zeros(B, H, D, D)
    ridge = torch.diag_embed(ridge[:, 0].double())
    outputs = []
    for t in range(T):
        decay = gamma[:, :, t, None, None]
        key = beta[:, :, t, None, None] * k[:, :, t, :, None]
        hkk = decay * hkk + key * k[:, :, t, None, :]
        hkv = decay * hkv + key * v[:, :, t, None, :]
        x = torch.linalg.solve(hkk + ridge, q[:, :, t, :, None])
        outputs.append((x.transpose(-1, -2) @ hkv)[..., 0, :])
    return torch.stack(outputs, 2).float()


def block(q, k, v, beta, log_gamma, ridge):
    """The block form. All tokens' systems are solved side by side."""
    T, C = q.shape[2], options.block
    padding = -T % C
    q, k, v = (F.pad(x, (0, 0, 0, padding)).unflatten(2, (-1, C)) for x in (q, k, v))
    beta, log_gamma = (F.pad(x, (0, padding)).unflatten(2, (-1, C)) for x in (beta, log_gamma))
    total = log_gamma.cumsum(-1)  # B, H, N, C
    # Differences s <= t only are exponentiated: they are never positive.
    later = torch.ones(C, C, dtype=torch.bool, device=q.device).triu(1)
    decay = (total[..., :, None] - total[..., None, :]).masked_fill(later, float("-inf")).exp()
    weights = decay * beta[..., None, :]  # what token s still weighs for token t
    states = _block_starts(torch.cat([k, v], -1), k, weights[..., -1, :], total[..., -1])
    hkk, hkv = states.chunk(2, -1)
    since_start = total.exp()[..., None]
    ridge = ridge[:, None]

    def apply_matrix(x, k, weights, since_start, hkk, ridge):
        inside = ((x @ k.transpose(-1, -2)) * weights) @ k
        return inside + since_start * (x @ hkk) + ridge * x

    parts = (k, weights, since_start, hkk, ridge)
    frozen = [p.detach() for p in parts]
    k0, weights0, since0, hkk0, ridge0 = frozen
    with torch.no_grad():
        diagonal = torch.diagonal(hkk0, dim1=-2, dim2=-1)[..., None, :]
        jacobi = 1 / (weights0 @ (k0 * k0) + since0 * diagonal + ridge0)
        x = _solve(lambda p: apply_matrix(p, *frozen), q.detach(), jacobi)
    # Implicit differentiation: d x = A^-1 (d q - dA x). The residual carries the derivatives of q
    # and A at a fixed x; _Solved multiplies their gradient by A^-1 and lets the value pass.
    residual = q - apply_matrix(x, *parts)
    x = _Solved.apply(residual, x, lambda g: _solve(
        lambda p: apply_matrix(p, *frozen), g, jacobi))
    o = ((x @ k.transpose(-1, -2)) * weights) @ v + since_start * (x @ hkv)
    return o.flatten(2, 3)[:, :, :T]


def _block_starts(kv, k, weights, log_decay):
    """States (B, H, N, D, 2 D) at the start of each block, from every block's own sum."""
    own = (k * weights[..., None]).transpose(-1, -2) @ kv
    N = log_decay.shape[-1]
    upto = log_decay.cumsum(-1)
    before = F.pad(upto, (1, 0))[..., :-1]  # log decay from the text's start to a block's start
    gap = before[..., :, None] - upto[..., None, :]
    hidden = torch.ones(N, N, dtype=torch.bool, device=k.device).triu(0)
    carry = gap.masked_fill(hidden, float("-inf")).exp()
    return (carry @ own.flatten(-2)).unflatten(-1, own.shape[-2:])


class _Solved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, solution, solve):
        ctx.solve = solve
        return solution.clone()

    @staticmethod
    def backward(ctx, grad):
        with torch.no_grad():
            return ctx.solve(grad), None, None


def _solve(apply_matrix, b, jacobi):
    """Conjugate gradients from x0 = b / diag(A), options.steps steps."""
    x = b * jacobi
    r = b - apply_matrix(x)
    p = r
    rr = (r * r).sum(-1, keepdim=True)
    for _ in range(options.steps):
        ap = apply_matrix(p)
        # The small constant keeps 0 / 0 of a solved (or padding) system at 0.
        alpha = rr / ((p * ap).sum(-1, keepdim=True) + 1e-30)
        x = torch.addcmul(x, alpha, p)
        r = torch.addcmul(r, alpha, ap, value=-1)
        rr_new = (r * r).sum(-1, keepdim=True)
        p = torch.addcmul(r, rr_new / (rr + 1e-30), p)
        rr = rr_new
    return x
