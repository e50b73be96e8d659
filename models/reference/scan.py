"""h_t = decay_t * h_{t-1} + new_t from zero, along the second-last axis, elementwise."""

import torch


class _DecayingSum(torch.autograd.Function):
    """Both directions are one pass of multiply-adds; nothing is divided, so nothing overflows."""

    @staticmethod
    def forward(ctx, decay, new):
        states = torch.empty_like(new)
        states[..., 0, :] = new[..., 0, :]
        for t in range(1, new.shape[-2]):
            torch.addcmul(new[..., t, :], decay[..., t, :], states[..., t - 1, :],
                          out=states[..., t, :])
        ctx.save_for_backward(decay, states)
        return states

    @staticmethod
    def backward(ctx, grad):
        decay, states = ctx.saved_tensors
        grad_new = torch.empty_like(states)
        last = states.shape[-2] - 1
        grad_new[..., last, :] = grad[..., last, :]
        for t in range(last - 1, -1, -1):
            torch.addcmul(grad[..., t, :], decay[..., t + 1, :], grad_new[..., t + 1, :],
                          out=grad_new[..., t, :])
        grad_decay = torch.zeros_like(states)
        grad_decay[..., 1:, :] = grad_new[..., 1:, :] * states[..., :-1, :]
        return grad_decay, grad_new


def decaying_sum(decay, new):
    """decay, new: (..., T, channels) float32. Returns the states, same shape."""
    return _DecayingSum.apply(decay, new)
