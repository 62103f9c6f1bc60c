"""Muon (Jordan et al. 2024): momentum whose step is made orthogonal, for the matrices of a network. Unlike
torch.optim.Muon it computes in float32, and all matrices of a shape in one batched product. Matrices are dealt out to
ranks: each keeps the momentum of its own, makes their steps, and all get all steps."""

import math
from collections import defaultdict

import torch

from . import distributed


class Muon(torch.optim.Optimizer):
    """matrices: parameters (rows, columns). stacked: parameters that stack several square matrices, as c_attn stacks
    query, key and value: each is made orthogonal by itself, which on the town learns copying from the prompt a third
    sooner. A step's elements are about as large as Adam's, 0.2 on average, for any shape. weight_decay: a step also
    takes the learning rate times this share of each matrix."""

    def __init__(self, matrices, stacked=(), lr=0.02, momentum=0.8, weight_decay=0.0):
        groups = [dict(params=list(matrices), stacked=False), dict(params=list(stacked), stacked=True)]
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay)
        super().__init__([group for group in groups if group["params"]], defaults)

    def matrices(self):
        """{shape: [(its group, its parameter, its rows there)]} of all matrices; every N-th is this rank's."""
        same_shape = defaultdict(list)
        for group in self.param_groups:
            for p in group["params"]:
                height = p.shape[1] if group["stacked"] else p.shape[0]
                for first in range(0, p.shape[0], height):
                    shape = min(height, p.shape[1]), max(height, p.shape[1])
                    same_shape[shape].append((group, p, slice(first, first + height)))
        return same_shape

    @torch.no_grad()
    def step(self):
        for shape, matrices in self.matrices().items():
            directions = [self.direction(*matrix) for matrix in distributed.shard(matrices)]
            mine = orthogonal(torch.stack(directions)) if directions else matrices[0][1].new_zeros((0, *shape))
            steps = distributed.all_gather(mine) * 0.2 * math.sqrt(max(shape))
            for (group, p, rows), step in zip(matrices, steps):
                wide(p[rows]).mul_(1 - group["lr"] * group["weight_decay"]).sub_(step, alpha=group["lr"])

    def direction(self, group, p, rows):
        """What is made orthogonal: the gradient, mixed with its momentum (Nesterov's)."""
        momenta, gradient = self.state[p].setdefault("momenta", {}), wide(p.grad[rows])
        momentum = momenta.setdefault(rows.start, torch.zeros_like(gradient))
        return gradient.lerp(momentum.lerp_(gradient, 1 - group["momentum"]), group["momentum"])

    def consolidate_state_dict(self, to=0):
        """Gathers the momenta of all ranks on rank `to`, for its next state_dict(). All ranks call it."""
        for shape, matrices in self.matrices().items():
            mine = [self.state[p]["momenta"][rows.start] for _, p, rows in distributed.shard(matrices)]
            mine = torch.stack(mine) if mine else matrices[0][1].new_zeros((0, *shape))
            for (_, p, rows), momentum in zip(matrices, distributed.all_gather(mine)):
                if distributed.rank() == to:
                    self.state[p].setdefault("momenta", {}).setdefault(rows.start, momentum.clone())

    def state_dict(self):
        state = super().state_dict()  # names the tensors
        state["state"] = {i: {"momenta": dict(own["momenta"])} for i, own in state["state"].items()}
        self.keep_mine()
        return state

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.keep_mine()

    def keep_mine(self):
        """Forgets the momenta of matrices that are other ranks'."""
        for matrices in self.matrices().values():
            for i, (_, p, rows) in enumerate(matrices):
                if i % distributed.world_size() != distributed.rank() and p in self.state:
                    self.state[p]["momenta"].pop(rows.start, None)


def wide(matrix):
    """The matrix, transposed if it has more rows than columns."""
    return matrix.T if matrix.shape[0] > matrix.shape[1] else matrix


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
