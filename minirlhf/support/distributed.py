"""Data parallelism, by torch.distributed. With one process, functions return what they are given.

torchrun starts N processes ("ranks"), each with all networks. Each rank computes the gradients of its share of a batch,
DDP sums them over the ranks, and every rank takes the same step. Losses divide by the size of the whole batch, not of
the share, so the sums are those of one process, except for dropout, which every rank draws for itself."""

import os
import socket
import sys
from contextlib import ExitStack, suppress
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .clock import waits
from .errors import InputError, require
from .processes import end_with


def start(device, minutes=30.0):
    """Joins the process group if torchrun started this process; on CUDA each rank takes a GPU of its own. minutes: how
    long a rank waits for others before the run ends."""
    if "RANK" not in os.environ or dist.is_initialized():
        return
    address = check_environment()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())  # torchrun, which may be killed
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        require(local <= gpus, f"--nproc_per_node {local}: this machine has {gpus} GPUs; take {gpus}")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if "TORCHELASTIC_RUN_ID" not in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        print(f"waiting for {os.environ['WORLD_SIZE']} processes to meet at {address}", flush=True)
    options = {"timeout": timedelta(minutes=minutes)}
    if device == "cuda":
        options["device_id"] = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # After a restart the store still has the addresses of the old processes. A prefix for each start hides them.
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        options |= dict(store=store, rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    try:
        dist.init_process_group("nccl" if device == "cuda" else "gloo", **options)
    except dist.DistError as error:
        line = str(error).split("\n")[0]
        raise InputError(f"environment: {address}: the processes cannot meet there ({line}); choose another") from None


def check_environment():
    """The address at which processes meet, "host:port". InputError if torchrun's environment is not complete."""
    given, advice = os.environ, "unset RANK, or start by torchrun"
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        require(given.get(name, "").isdecimal(), f"environment: RANK is set, and {name} is not a number; {advice}")
    require(given.get("MASTER_ADDR"), f"environment: RANK is set, and MASTER_ADDR is not; {advice}")
    beyond = f"environment: RANK {given['RANK']} is not below WORLD_SIZE {given['WORLD_SIZE']}; {advice}"
    require(int(given["RANK"]) < int(given["WORLD_SIZE"]), beyond)
    require(int(given["MASTER_PORT"]) < 2**16, f"environment: MASTER_PORT {given['MASTER_PORT']} is no port; {advice}")
    try:
        socket.getaddrinfo(given["MASTER_ADDR"], int(given["MASTER_PORT"]))
    except (OSError, OverflowError, UnicodeError) as error:
        where = f"MASTER_ADDR {given['MASTER_ADDR']}, MASTER_PORT {given['MASTER_PORT']}"
        raise InputError(f"environment: {where}: no such address ({error}); {advice}") from None
    return f"{given['MASTER_ADDR']}:{given['MASTER_PORT']}"


def finish():
    """Waits for all ranks, then destroys the process group and ends this process at once: DDP keeps gloo's threads
    alive, and while Python takes itself apart they now and then abort a process that has saved everything."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or None
                stream.flush()
        os._exit(0)


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier():
    if dist.is_initialized():
        dist.barrier()


def from_rank_0(function):
    """function() of rank 0, on all ranks. If it raises InputError, all ranks raise it."""
    if world_size() == 1:
        return function()
    outcome = [None, None]
    if rank() == 0:
        try:
            outcome = [function(), None]
        except InputError as error:
            outcome = [None, str(error)]
    dist.broadcast_object_list(outcome)
    require(outcome[1] is None, outcome[1])
    return outcome[0]


def of_all_ranks(value):
    """The values (any objects that can be pickled) of all ranks, as a list."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


def print0(*words):
    """Prints on rank 0."""
    if rank() == 0:
        print(*words, flush=True)


def require_divisible(config, *names):
    """Raises InputError for a flag whose value is not divisible by the world size, and names the nearest that is."""
    n = world_size()
    for name in names:
        size = getattr(config, name)
        nearest = f"{size - size % n} or {size - size % n + n}" if size > n else f"{n}"
        require(size % n == 0, f"--{name} {size} cannot be shared out to {n} processes; take {nearest}")


def shard(items):
    """This rank's share of a list or tensor: every N-th item."""
    return items[rank() :: world_size()]


def all_gather(x):
    """The inverse of shard: (B / N, ...) to all (B, ...). Other dimensions are zero-padded to the longest rank's."""
    if world_size() == 1:
        return x
    waits()
    shape = torch.tensor(x.shape, device=x.device)
    dist.all_reduce(shape, dist.ReduceOp.MAX)
    padded = x.new_zeros(shape.tolist())
    padded[tuple(slice(n) for n in x.shape)] = x
    parts = [torch.empty_like(padded) for _ in range(world_size())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)  # item i is on rank i % N


def all_reduce(*numbers):
    """Sums of numbers over all ranks, as a list of floats: the same on every rank, NaN if any rank has a NaN."""
    if world_size() == 1:
        return list(numbers)
    waits()
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    sums = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(sums)
    return sums.tolist()


def seed_of(*numbers):
    """A seed for torch that differs with the numbers and the rank."""
    return int(np.random.SeedSequence((*numbers, rank())).generate_state(1, np.uint64)[0])


def wrap(model):
    """The model in DDP: after a forward through the wrapped model, backward sums the gradients over the ranks."""
    if not dist.is_initialized():
        return model
    # As a view of its bucket, a gradient needs no memory of its own, except during gradient accumulation.
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(None, sum_gradients)
    # DDP rebuilds its buckets in the forward after its first backward, and all ranks must take part. Two dummy passes
    # do it now, uncompiled: no rank waits later for one with fewer micro-batches, and resumed runs sum in that order.
    one = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    with torch.compiler.set_stance("force_eager"):
        for _ in range(2):
            wrapped(one).sum().backward()
    wrapped.zero_grad()
    return wrapped


def sum_gradients(_, bucket):
    """Communication hook: sums, where DDP's default averages. Losses divide by the size of the whole batch."""
    waits()
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0])


def no_sync(*models):
    """Context manager: DDP's no_sync for several models. A later backward also sums the gradients of those inside."""
    stack = ExitStack()
    for model in models:
        if isinstance(model, DistributedDataParallel):
            stack.enter_context(model.no_sync())
    return stack
