"""One optimizer step: learning rate, clipping, step, zeroed gradients."""

import torch

from .distributed import world_size


def adam(parameters, lr, shard=False, weight_decay=0.0):
    """Adam with the paper's betas, for all its models (App. C). shard: each rank keeps the moments of a part of the
    parameters, makes their steps, and sends them to the others (ZeRO's first stage, Rajbhandari et al. 2020).
    weight_decay: of matrices, apart from the gradient (AdamW, Loshchilov & Hutter 2019)."""
    own = dict(lr=lr, betas=(0.9, 0.95), fused=True)
    if weight_decay:
        parameters = list(parameters)
        matrices, vectors = ([p for p in parameters if (p.ndim > 1) == two] for two in (True, False))
        parameters = [dict(params=matrices, weight_decay=weight_decay), dict(params=vectors, weight_decay=0.0)]
        own["decoupled_weight_decay"] = True
    if shard and world_size() > 1:
        from torch.distributed.optim import ZeroRedundancyOptimizer

        return ZeroRedundancyOptimizer(parameters, torch.optim.Adam, **own)
    return torch.optim.Adam(parameters, **own)


def drop_copies(*optimizers):
    """After a state was saved or loaded: lets go of the copies that a ZeroRedundancyOptimizer keeps of it, which are
    all ranks' moments on the one that saved, and a second copy of its own moments on each that loaded."""
    for optimizer in optimizers:
        if hasattr(optimizer, "_all_state_dicts"):
            optimizer._all_state_dicts = []
            optimizer.state.clear()


def scale_lr(optimizer, factor):
    """Sets every learning rate to `factor` times its initial value, the peak, which the first call stores."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("peak_lr", group["lr"]) * factor


def take_step(network, optimizer, max_grad_norm):
    """Clips the gradients' norm (ours: not in the paper), takes the step, and zeroes the gradients. The norm before is
    optimizer.grad_norm afterwards, which Run.log reads."""
    optimizer.grad_norm = torch.nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad()
