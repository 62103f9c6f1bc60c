"""Muon's step is orthogonal, of a size that no shape changes, and torch's own."""

import copy

import pytest
import torch

import tiny
from minirlhf.model import GPT
from minirlhf.support.muon import Muon, orthogonal


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 16), (16, 64)])
def test_singular_values_are_about_1_and_directions_those_of_the_gradient(shape):
    """The directions: U and V of the gradient's own decomposition, whatever its singular values."""
    gradient = random(3, *shape)
    U, spread, Vh = torch.linalg.svd(gradient, full_matrices=False)
    inside = U.mT @ orthogonal(gradient) @ Vh.mT  # diagonal, if U and V are still the directions
    values = inside.diagonal(dim1=1, dim2=2)
    large = spread > 0.05 * spread.max()
    assert values[large].min() > 0.6 and values[large].max() < 1.3
    torch.testing.assert_close(inside, torch.diag_embed(values), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(16, 16), (16, 64), (64, 16)])
def test_three_steps_are_torchs_own_but_for_bfloat16s_digits(shape):
    ours, theirs = (torch.nn.Parameter(random(*shape)) for _ in range(2))
    mine = Muon([ours], lr=0.1, momentum=0.8)
    torchs = torch.optim.Muon([theirs], lr=0.1, momentum=0.8, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        ours.grad, theirs.grad = (random(*shape, seed=step + 1) for _ in range(2))
        mine.step()
        torchs.step()
    change, expected = ours - random(*shape), theirs - random(*shape)
    assert (change - expected).norm() < 0.03 * expected.norm()


def test_query_key_and_value_are_made_orthogonal_each_by_itself():
    """Three stacked squares take the steps that each would take alone."""
    stacked = torch.nn.Parameter(random(48, 16))
    alone = [torch.nn.Parameter(part.clone()) for part in stacked.detach().chunk(3)]
    gradient = random(48, 16, seed=1) * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(16)[:, None]
    stacked.grad = gradient
    Muon([], [stacked], lr=0.1).step()
    for part, one, slope in zip(stacked.detach().chunk(3), alone, gradient.chunk(3)):
        one.grad = slope
        Muon([one], lr=0.1).step()
        torch.testing.assert_close(part, one.detach())


def test_a_steps_elements_are_of_one_size_whatever_the_shape():
    """0.2 on average, as Adam's usually are."""
    for shape in ((16, 16), (16, 64), (64, 16), (128, 512)):
        p = torch.nn.Parameter(torch.zeros(*shape))
        p.grad = random(*shape)
        Muon([p], lr=1.0).step()
        assert p.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.15)


def test_matrices_of_a_batch_take_the_steps_that_they_would_take_alone():
    model = tiny.make(GPT, 50)
    other = copy.deepcopy(model)
    for one in (model, other):
        matrices = [p for p in one.transformer.h.parameters() if p.ndim == 2]
        for i, p in enumerate(matrices):
            p.grad = random(*p.shape, seed=i)
        for group in [matrices] if one is model else [[p] for p in matrices]:
            Muon(group, lr=0.1).step()
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b)


def test_what_its_state_holds_lets_it_go_on():
    p, q = (torch.nn.Parameter(random(16, 16)) for _ in range(2))
    first, second = Muon([p]), Muon([q])
    for step in range(4):
        p.grad, q.grad = random(16, 16, seed=step), random(16, 16, seed=step)
        first.step()
        if step == 2:
            third = Muon([q])
            third.load_state_dict(second.state_dict())
            second = third
        second.step()
    assert torch.equal(p, q)
