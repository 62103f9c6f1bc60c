"""Micro-batches of a step, and the step itself."""

import pytest
import torch
from torch.distributed.optim import ZeroRedundancyOptimizer

from minirlhf.support import accumulation, distributed
from minirlhf.support.accumulation import micro_batches
from minirlhf.support.muon import Both
from minirlhf.support.optim import adam, drop_copies, scale_lr, take_step

LENGTHS = [3, 9, 4, 4, 8, 2, 7]


def test_every_item_comes_once_in_micro_batches_that_fit():
    parts = list(micro_batches("abcdefg", LENGTHS, 12))
    assert sorted(sum(parts, [])) == list("abcdefg") and len(parts) > 3
    length = dict(zip("abcdefg", LENGTHS))
    assert all(len(part) * max(length[item] for item in part) <= 12 for part in parts)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_batch_without_leaving_anything_out(monkeypatch, world):
    seen = []
    for rank in range(world):
        monkeypatch.setattr(accumulation, "shard", lambda items, rank=rank: items[rank::world])
        seen += sum(micro_batches("abcdefg", LENGTHS, 12), [])
    assert sorted(seen) == list("abcdefg")


def test_a_process_without_a_share_takes_part_with_an_empty_micro_batch(monkeypatch):
    monkeypatch.setattr(accumulation, "shard", lambda items: items[7:])
    assert list(micro_batches("abcdefg", LENGTHS, 12)) == [[]]


def test_gradients_are_summed_over_processes_in_the_last_micro_batch_alone(monkeypatch):
    """Those of an unfinished network not even there."""
    held, inside = [], []

    class Holding:
        def __init__(self, *models):
            self.models = models

        def __enter__(self):
            inside.append(self.models)

        def __exit__(self, *error):
            inside.pop()

    monkeypatch.setattr(accumulation, "no_sync", Holding)
    for _ in micro_batches("abcdefg", LENGTHS, 12, "policy", "value", sync_later=["policy"]):
        held.append({model for models in inside for model in models})
    assert all(models == {"policy", "value"} for models in held[:-1]) and held[-1] == {"policy"}
    assert distributed.no_sync is not Holding


def weights(*values):
    parameter = torch.nn.Parameter(torch.tensor(values))
    module = torch.nn.ParameterList([parameter])
    return module, parameter


def test_a_learning_rate_is_a_factor_of_its_peak_also_after_a_resume():
    module, _ = weights(1.0)
    first, second = adam(module.parameters(), 0.5), adam(module.parameters(), 0.5)
    scale_lr(first, 0.5)
    scale_lr(first, 0.1)
    assert first.param_groups[0]["lr"] == pytest.approx(0.05)
    second.load_state_dict(first.state_dict())
    scale_lr(second, 0.2)
    assert second.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_step_clips_the_norm_moves_the_weights_and_forgets_the_gradients():
    module, parameter = weights(0.0, 0.0)
    parameter.grad = torch.tensor([30.0, 40.0])
    take_step(module, torch.optim.SGD(module.parameters(), lr=1.0), max_grad_norm=5.0)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-3.0, -4.0]), rtol=1e-5, atol=0)
    assert parameter.grad is None or not parameter.grad.any()


def test_two_optimizers_as_one_step_scale_and_resume_both():
    (a, p), (b, q) = weights(1.0), weights(2.0)
    both = Both(torch.optim.SGD(a.parameters(), lr=1.0), torch.optim.SGD(b.parameters(), lr=0.1))
    scale_lr(both, 0.5)
    assert [group["lr"] for group in both.param_groups] == pytest.approx([0.5, 0.05])
    p.grad, q.grad = torch.tensor([1.0]), torch.tensor([1.0])
    both.step()
    assert (p.item(), q.item()) == pytest.approx((0.5, 1.95))
    both.zero_grad()
    other = Both(torch.optim.SGD(a.parameters(), lr=9.0), torch.optim.SGD(b.parameters(), lr=9.0))
    other.load_state_dict(both.state_dict())
    assert [group["lr"] for group in other.param_groups] == pytest.approx([0.5, 0.05])


def test_an_optimizer_that_is_shared_out_lets_go_of_what_it_copied_for_a_state():
    """And goes on as before: torch's keeps all ranks' moments after a save, and its own twice after a load."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        plain, shared = (torch.nn.Linear(3, 2), torch.nn.Linear(3, 2))
        shared.load_state_dict(plain.state_dict())
        one, other = adam(plain.parameters(), 0.1), ZeroRedundancyOptimizer(
            shared.parameters(), torch.optim.Adam, lr=0.1, betas=(0.9, 0.95), fused=True
        )  # fmt: skip
        for step in range(4):
            for network, optimizer in ((plain, one), (shared, other)):
                network(torch.full((1, 3), 1.0 + step)).square().sum().backward()
                take_step(network, optimizer, 1.0)
            if step in (0, 2):
                other.consolidate_state_dict(0)
                state = other.state_dict()
                drop_copies(one, other)
                assert not other._all_state_dicts and not other.state and len(one.state) == 2
            if step == 2:
                other.load_state_dict(state)
                assert other.state
                drop_copies(other)
                assert not other.state
        assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), shared.parameters()))
    finally:
        torch.distributed.destroy_process_group()
