"""Data parallelism: the only file that uses torch.distributed. With one process every function is a no-op.

torchrun starts N processes ("ranks"), each with a whole copy of the networks. Each rank computes the gradients of its
share of a batch, DDP sums them over the ranks, and every rank takes the same step. Losses divide by the size of the
whole batch, not of the share: the sums over ranks are what one process would have computed. Dropout is the exception,
since every rank draws its own.
"""

import os
import threading
import time
from contextlib import ExitStack, nullcontext

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .errors import require


def start(device):
    """Joins the process group if torchrun started this process; on CUDA each rank takes a GPU of its own."""
    if "RANK" not in os.environ or dist.is_initialized():
        return
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        number = os.environ.get(name, "").isdecimal()
        require(number, f"environment: RANK is set, and {name} is no number; unset RANK, or start by torchrun")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())  # torchrun, which may be killed
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        require(local <= gpus, f"--nproc_per_node {local}: this machine has {gpus} GPUs; take {gpus}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend, how = "nccl" if device == "cuda" else "gloo", {}
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # After a restart processes meet in the same store, which still has the addresses of those that are gone. With a
        # prefix for each start they are not found.
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        how["store"] = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        how |= dict(rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    dist.init_process_group(backend, **how)


def end_with(parent):
    """Ends this process soon after its parent process has ended, for whatever reason: two runs must not write to one
    folder. parent: the parent's process id."""

    def follow():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def finish():
    """Barrier, then destroys the process group."""
    barrier()
    if dist.is_initialized():
        dist.destroy_process_group()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier():
    if dist.is_initialized():
        dist.barrier()


def print0(*words):
    """Prints on rank 0."""
    if rank() == 0:
        print(*words, flush=True)


def require_divisible(config, *names):
    """Raises InputError for a flag whose value is not divisible by the world size, and names the nearest that is."""
    for name in names:
        size, n = getattr(config, name), world_size()
        below = size // n * n
        nearest = f"{below} or {below + n}" if below else f"{n}"
        require(size % n == 0, f"--{name} {size} cannot be shared out to {n} processes; take {nearest}")


def shard(items):
    """This rank's share of a list or tensor: every N-th item."""
    return items[rank() :: world_size()]


def all_gather(x):
    """The inverse of shard: each rank brings (B / N, ...), and gets all (B, ...). Where other dimensions differ between
    ranks, they are padded with zeros to the longest."""
    if world_size() == 1:
        return x
    shape = torch.tensor(x.shape, device=x.device)
    dist.all_reduce(shape, dist.ReduceOp.MAX)
    padded = x.new_zeros(shape.tolist())
    padded[tuple(slice(n) for n in x.shape)] = x
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)  # item i lies on rank i % N


def all_reduce(*numbers):
    """Sums of numbers over all ranks, as a list of floats: the same on every rank, NaN if any rank has a NaN."""
    if world_size() == 1:
        return list(numbers)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def seed_of(*numbers):
    """A seed for torch that differs with the numbers and the rank."""
    return int(np.random.SeedSequence((*numbers, rank())).generate_state(1, np.uint64)[0])


def wrap(model):
    """The model in DDP: after a forward through what this returns, backward sums the gradients over the ranks."""
    if not dist.is_initialized():
        return model
    # A gradient lies in its bucket and needs no memory of its own, but while an accumulation holds it.
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(None, _sum)
    # DDP lays gradients out anew in the forward after its first backward, where ranks wait for each other. Two that
    # change nothing, now: no rank waits where another has fewer micro-batches, and the order of summation is the same
    # from the first step on, wherever a resumed run starts. Not compiled: no batch has this shape.
    one = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    with torch.compiler.set_stance("force_eager"):
        for _ in range(2):
            wrapped(one).sum().backward()
    wrapped.zero_grad()
    return wrapped


def _sum(_, bucket):
    """DDP's own would average. Losses here divide by the whole batch, so gradients are to be summed."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0])


def no_sync(*models):
    """Context manager: DDP's no_sync for several models. Gradients of a backward inside stay local, and are summed over
    ranks with those of a later backward."""
    stack = ExitStack()
    for model in models:
        stack.enter_context(model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext())
    return stack
