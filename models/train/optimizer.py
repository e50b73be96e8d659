"""Muon for the matrices inside the layers, AdamW for everything else.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found with
five Newton-Schulz steps. Matrices of one shape are orthogonalised in one batch.
"""

import collections
import math

import torch

_MATRIX_ENDINGS = ("in_proj.weight", "out_proj.weight", "q_proj.weight", "k_proj.weight",
                   "v_proj.weight", "o_proj.weight", "g_proj.weight", "up_proj.weight",
                   "gate_proj.weight", "down_proj.weight")


def orthogonalise(matrices):
    """matrices (n, rows, columns): singular values pushed to about one."""
    x = matrices.bfloat16()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.transpose(-1, -2)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(5):
        a = x @ x.transpose(-1, -2)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x if wide else x.transpose(-1, -2)).float()


class Muon:
    def __init__(self, named, momentum=0.95, weight_decay=0.02):
        self.params = dict(named)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.buffers = {name: torch.zeros_like(p) for name, p in self.params.items()}

    @torch.no_grad()
    def step(self, lr):
        groups = collections.defaultdict(list)
        for name, p in self.params.items():
            groups[tuple(p.shape)].append(name)
        for shape, names in groups.items():
            updates = []
            for name in names:
                grad, buffer = self.params[name].grad, self.buffers[name]
                buffer.lerp_(grad, 1 - self.momentum)
                updates.append(grad.lerp(buffer, self.momentum))  # Nesterov
            # Root mean square of an update is then the same for every shape.
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for name, update in zip(names, orthogonalise(torch.stack(updates))):
                p = self.params[name]
                p.mul_(1 - lr * self.weight_decay).add_(update, alpha=-lr * scale)


class Optimizer:
    """Both optimizers behind one step(); `scale` in 0..1 is the schedule's factor."""

    def __init__(self, model, muon_lr, adam_lr):
        named = list(model.named_parameters())
        matrices = [(n, p) for n, p in named if n.endswith(_MATRIX_ENDINGS)]
        rest = [p for n, p in named if not n.endswith(_MATRIX_ENDINGS)]
        self.muon_lr, self.adam_lr = muon_lr, adam_lr
        self.parameters = [p for _, p in named]
        self.muon = Muon(matrices)
        self.adam = torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0)

    def step(self, scale):
        """Returns the gradient's norm before clipping; where it is not finite, nothing changes."""
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0))
        if not math.isfinite(norm):
            return norm
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * scale
        self.adam.step()
        self.muon.step(self.muon_lr * scale)
        self.adam.zero_grad(set_to_none=True)
        for p in self.muon.params.values():
            p.grad = None
        return norm

    def state(self):
        return {"muon": self.muon.buffers, "adam": self.adam.state_dict()}

    def load_state(self, state):
        for name, buffer in state["muon"].items():
            self.muon.buffers[name].copy_(buffer)
        self.adam.load_state_dict(state["adam"])
