"""One optimizer step: learning rate, clipping, step, zeroed gradients."""

import torch


def adam(parameters, lr):
    """Adam with the paper's betas, for all its models (App. C)."""
    return torch.optim.Adam(parameters, lr=lr, betas=(0.9, 0.95), fused=True)


def scale_lr(optimizer, factor):
    """Sets every learning rate to `factor` times its initial value, the peak, which the first call stores."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor


def take_step(network, optimizer, max_grad_norm):
    """Clips the gradients' norm (ours: not in the paper), takes the step, and zeroes the gradients."""
    torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
