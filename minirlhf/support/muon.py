"""Muon (Jordan et al. 2024): momentum whose step is made orthogonal, for the matrices of a network. Unlike
torch.optim.Muon it computes in float32, and all matrices of a shape in one batched product, dealt out to ranks."""

import math
from collections import defaultdict

import torch

from . import distributed


class Muon(torch.optim.Optimizer):
    """matrices: parameters (rows, columns). stacked: parameters that stack several square matrices, as c_attn stacks
    query, key and value: each is made orthogonal by itself, which on the town learns copying from the prompt a third
    sooner. A step's elements are about as large as Adam's, 0.2 on average, for any shape."""

    def __init__(self, matrices, stacked=(), lr=0.02, momentum=0.8):
        groups = [dict(params=list(matrices), stacked=False), dict(params=list(stacked), stacked=True)]
        super().__init__([group for group in groups if group["params"]], dict(lr=lr, momentum=momentum))

    @torch.no_grad()
    def step(self):
        same_shape = defaultdict(list)  # shape -> (weights, the direction to make orthogonal, learning rate)
        for group in self.param_groups:
            for p in group["params"]:
                if p not in self.state:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(momentum, group["momentum"])
                parts = p.shape[0] // p.shape[1] if group["stacked"] else 1
                for weights, direction in zip(p.chunk(parts), nesterov.chunk(parts)):
                    if weights.shape[0] > weights.shape[1]:
                        weights, direction = weights.T, direction.T
                    same_shape[weights.shape].append((weights, direction, group["lr"]))
        for shape, matrices in same_shape.items():
            directions = torch.stack([direction for _, direction, _ in matrices])
            steps = distributed.all_gather(orthogonal(distributed.shard(directions))) * 0.2 * math.sqrt(max(shape))
            for (weights, _, lr), step in zip(matrices, steps):
                weights.sub_(step, alpha=lr)


class Both:
    """Several optimizers used as one: each has parameters of its own."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers

    @property
    def param_groups(self):
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self):
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self):
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states):
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def orthogonal(matrices, iterations=5):
    """The approximately nearest orthogonal matrices: most singular values become 0.7 to 1.2. matrices (N, rows,
    columns), with at least as many columns as rows. The Newton-Schulz iteration by a quintic whose coefficients (Jordan
    et al. 2024) raise small singular values fastest: each s becomes 3.4445 s - 4.775 s^3 + 2.0315 s^5."""
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x
