"""Times this project's work on random models of named shapes, against what the machine can do and against the peers.

    python -m tools.bench ppo toy              a PPO iteration, episodes per second
    python -m tools.bench generate gpt2        sampling responses, tokens per second
    python -m tools.bench sft gpt2             a training step of the language model, tokens per second
    python -m tools.bench rm toy               a training step of the reward model on pairs, tokens per second
    python -m tools.bench sft gpt2 --peer      ... and transformers', in turn with ours, and the ratio
    python -m tools.bench sft gpt2 --ranks 2   ... and that of two processes that share the threads, in turn

Prints one JSON line. The machine's rates are measured in the same run: a product of two 2048 x 2048 matrices in the
work's precision, and a copy of 256 MB. `share` is the time that the work's arithmetic would take at that rate, 2N per
token and forward, 6N per token trained, and attention, divided by the time it took. --peer times transformers'
generate and GPT-2. A PPO iteration is a rollout of B episodes in which no row stops early, scores by four networks of
one size, and one inner epoch in which policy and value network learn; no pretraining mix. `ratio` is how many times as
fast ours is as the peer, and with --ranks the processes together as one. `peak_gigabytes` is the most memory that a PPO
iteration took, `formula_gigabytes` what docs/scaling.md's formula says.
"""

import importlib.util
import json
import multiprocessing
import os
import resource
import socket
import statistics
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

import train_ppo
import train_rm
from minirlhf.data import collate
from minirlhf.losses import ranking_loss, sft_loss
from minirlhf.model import GPT, GPTConfig, RewardModel
from minirlhf.rollout import generate, response_logps, uniforms
from minirlhf.support import distributed
from minirlhf.support.accumulation import pieces
from minirlhf.support.config import command, require_choice, require_positive
from minirlhf.support.cuda_graph import decode_by_graph
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import InputError
from minirlhf.support.optim import adam, take_step
from minirlhf.support.records import Ranking, Sequence
from minirlhf.support.sampling import decode

#           vocab ctx layers heads width  B  prompt response minibatch
SHAPES = {
    "toy": (1024, 128, 4, 4, 128, 64, 24, 32, 8),
    "gpt2": (50257, 256, 12, 12, 768, 8, 64, 64, 8),
    "gpt2-wide": (50257, 512, 12, 12, 768, 64, 128, 128, 8),
}


class Shape:
    def __init__(self, name):
        self.vocab, *sizes, self.batch, self.prompt, self.response, self.minibatch = SHAPES[name]
        self.config = GPTConfig(self.vocab, *sizes)
        self.length = self.prompt + self.response

    def flops(self, tokens, length, read, vocab=0):
        """Of a forward over `tokens` tokens in sequences of `length`, of which `read` go on after the last attention,
        to logits over a `vocab` or to a scalar."""
        D, L = self.config.n_embd, self.config.n_layer
        matrices = 12 * L * tokens - 9 * (tokens - read)
        return 2 * matrices * D * D + 2 * read * vocab * D + 2 * tokens * L * D * length

    def ppo_bytes(self):
        """What a PPO iteration in float32 holds at the most: docs/scaling.md's formula."""
        D, L, rows = self.config.n_embd, self.config.n_layer, max(1, 16384 // self.length)
        held = 44 * sum(p.numel() for p in GPT(self.config).parameters())
        logits = 12 * self.vocab * self.response
        learning = self.minibatch * (68 * D * L * self.length + logits)
        return held + max(learning, min(rows, self.batch) * logits)


# --- ours: each returns a function that does the work once, what it handles in units, and its arithmetic -------------


def sft(shape, options):
    model = place(GPT(shape.config), options).train()
    optimizer = adam(model.parameters(), 1e-5)
    rng = np.random.default_rng(0)
    batch = shape.batch * options.accumulate
    rows = [Sequence(rng.integers(0, shape.vocab, shape.length + 1), 1) for _ in range(batch)]
    learner = distributed.wrap(model)
    lengths, most = [s.length for s in rows], shape.batch * (shape.length + 1) // distributed.world_size()

    def step():
        for part in pieces(rows, lengths, most, learner):
            responses = collate(part, shape.vocab, options.device)
            loss = sft_loss(response_logps(learner, responses), responses.mask, total=batch)
            loss.backward()
        take_step(model, optimizer, 1.0)
        return loss.item()

    tokens = batch * shape.length
    return step, {"tokens": tokens}, 3 * shape.flops(tokens, shape.length, tokens, shape.vocab)


def rm(shape, options):
    model = place(RewardModel(shape.config), options).train()
    optimizer = adam(model.parameters(), 1e-5)
    rng = np.random.default_rng(0)
    rows = [Sequence(rng.integers(0, shape.vocab, shape.length), 1) for _ in range(shape.batch)]
    pairs = [Ranking(list(pair), [1, 2]) for pair in zip(rows[::2], rows[1::2])]

    def step():
        loss = ranking_loss(*train_rm.score_rankings(model, pairs, shape.vocab))
        loss.backward()
        take_step(model, optimizer, 1.0)
        return loss.item()

    tokens = shape.batch * shape.length
    return step, {"tokens": tokens}, 3 * shape.flops(tokens, shape.length, shape.batch)


def rollout(shape, model, turn, graph):
    prompts = np.random.default_rng(turn).integers(0, shape.vocab, (shape.batch, shape.prompt)).tolist()
    noise = uniforms((0, turn), range(shape.batch), shape.response)
    mine = distributed.shard(prompts), distributed.shard(noise)
    return generate(model, *mine, eos=-1, pad=shape.vocab, decode=decode_by_graph if graph else decode)


def generation(shape, options):
    model = place(GPT(shape.config), options).eval()
    tokens = shape.batch * shape.response
    flops = shape.flops(shape.batch * shape.length, shape.length, tokens, shape.vocab)
    return lambda: rollout(shape, model, 0, options.graph)[0].tokens.cpu(), {"tokens": tokens}, flops


def ppo(shape, options):
    kinds = (GPT, GPT, RewardModel, RewardModel, GPT)
    networks = train_ppo.Networks(*(place(kind(shape.config), options).eval() for kind in kinds))
    config = train_ppo.Config(
        policy="", reward_model="", prompts=(), out="", ptx_coef=0.0, batch_size=shape.batch, episodes=shape.batch,
        minibatch_size=shape.minibatch, max_response=shape.response, lr=1e-5, value_lr=1e-5,
    )  # fmt: skip
    optimizers = train_ppo.make_optimizers(networks, config)
    learners = networks._replace(policy=distributed.wrap(networks.policy), value=distributed.wrap(networks.value))
    turn = iter(range(10**9))

    def step():
        i = next(turn)
        episodes = train_ppo.judge_episodes(networks, *rollout(shape, networks.policy, i, options.graph), config)
        for rows in torch.from_numpy(np.random.default_rng(i).permutation(shape.batch)).split(shape.minibatch):
            train_ppo.update(learners, optimizers, episodes, rows, [], shape.vocab, config)
        return train_ppo.statistics(episodes, config, eos=-1)

    tokens, read = shape.batch * shape.length, shape.batch * shape.response
    policy, value = shape.flops(tokens, shape.length, read, shape.vocab), shape.flops(tokens, shape.length, read)
    score = shape.flops(tokens, shape.length, shape.batch)
    # rollout, reference, policy's forward and backward; value's forward, and with backward; the reward model's
    return step, {"episodes": shape.batch}, (1 + 1 + 3) * policy + (1 + 3) * value + score


# --- theirs ----------------------------------------------------------------------------------------------------------


def their_config(shape):
    from transformers import GPT2Config

    ours = shape.config
    return GPT2Config(
        vocab_size=ours.n_vocab, n_positions=ours.n_ctx, n_layer=ours.n_layer, n_head=ours.n_head, n_embd=ours.n_embd,
        num_labels=1, bos_token_id=0, eos_token_id=0, pad_token_id=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip


def their_training(shape, options):
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel(their_config(shape)).to(options.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(shape.vocab, (shape.batch, shape.length), device=options.device)

    def step():
        with torch.autocast(options.device, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            loss = model(tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def their_generation(shape, options):
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel(their_config(shape)).eval().to(options.device)
    model = model.bfloat16() if options.dtype == "bfloat16" else model
    tokens = torch.randint(3, shape.vocab, (shape.batch, shape.prompt), device=options.device)
    length = dict(max_new_tokens=shape.response, min_new_tokens=shape.response)
    all_real = torch.ones_like(tokens)
    return lambda: model.generate(
        tokens, attention_mask=all_real, do_sample=True, top_k=0, pad_token_id=1, **length
    ).cpu()


# work -> ours, and transformers'
WORK = {"sft": (sft, their_training), "rm": (rm, None), "generate": (generation, their_generation), "ppo": (ppo, None)}


# --- the clock -------------------------------------------------------------------------------------------------------


def seconds_of(step, device):
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def serve(connection, make, options, environment):
    """Somebody else's work in a process of its own: threads of two libraries in one process wait for each other's."""
    os.environ.update(environment)
    distributed.start(options.device)
    torch.set_num_threads(options.threads // distributed.world_size())
    torch.manual_seed(0)
    step = make(Shape(options.shape), options)
    step = step[0] if isinstance(step, tuple) else step
    try:
        while True:
            connection.send(None)
            connection.recv()
            connection.send(seconds_of(step, options.device))
    except OSError:  # ours has all it wants
        pass


def others(make, options, environments):
    """Starts a process for each environment; returns a function that has all do their work once, and the seconds that
    the last of them took."""
    context, connections = multiprocessing.get_context("spawn"), []
    for environment in environments:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, make, options, environment), daemon=True).start()
        connections.append(ours)

    def seconds():
        for connection in connections:
            connection.recv()
        for connection in connections:
            connection.send(None)
        return max([connection.recv() for connection in connections])

    return seconds


def ranks(number):
    """What torchrun would put into the environments of so many processes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(number), LOCAL_WORLD_SIZE=str(number))
    return [shared | dict(RANK=str(i), LOCAL_RANK=str(i)) for i in range(number)]


def peak_bytes(device):
    """The most memory this process has held: of the GPU's if it works there."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def machine(options):
    """Operations per second of a matrix product, and bytes per second of a copy, read and written."""
    dtype = getattr(torch, options.dtype)
    a, b = (torch.randn(2048, 2048, device=options.device, dtype=dtype) for _ in range(2))
    memory = torch.empty(2**26, device=options.device)
    product = min(seconds_of(lambda: a @ b, options.device) for _ in range(10))
    copy = min(seconds_of(lambda: memory.clone(), options.device) for _ in range(10))
    return 2 * 2048**3 / product, 2 * memory.nbytes / copy


@dataclass(frozen=True)
class Config:
    work: str  # what is timed: sft, rm, generate or ppo
    shape: str  # how large it is: toy, gpt2 or gpt2-wide
    peer: bool = False  # time transformers' too, in turn
    ranks: int = 1  # time so many processes, too, sharing --threads
    accumulate: int = 1  # sft: the batch as many times, in parts
    iterations: int = 6  # how many are timed, after two that are not
    threads: int = 2  # of the CPU
    device: str = "cpu"  # cpu or cuda
    dtype: str = "float32"  # float32 or bfloat16
    compile: bool = False  # by torch.compile, ours only
    graph: bool = False  # sampling by CUDA graphs, ours only

    def __post_init__(self):
        require_positive(self, "ranks", "accumulate", "iterations", "threads")
        for name, choices in dict(
            work=WORK, shape=SHAPES, device=("cpu", "cuda"), dtype=("float32", "bfloat16")
        ).items():
            require_choice(self, name, choices)
        if self.peer and not WORK[self.work][1]:
            raise InputError(f"--peer: {self.work} has no peer")
        if self.graph and self.device != "cuda":
            raise InputError("--graph needs --device cuda")
        if self.peer and self.ranks > 1:
            raise InputError("--peer and --ranks: one at a time")
        if self.accumulate > 1 and (self.peer or self.work != "sft"):
            raise InputError("--accumulate is for sft, without --peer")
        if self.peer and not importlib.util.find_spec("transformers"):
            raise InputError("--peer needs transformers: pip install transformers")


def main(options):
    pick_device(options.device)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    make, make_theirs = WORK[options.work]
    before = peak_bytes(options.device)
    step, units, flops = make(Shape(options.shape), options)
    timers = [lambda: seconds_of(step, options.device)]
    if options.peer:
        timers.append(others(make_theirs, options, [{}]))
    if options.ranks > 1:
        timers.append(others(make, options, ranks(options.ranks)))
    times = [[timer() for timer in timers] for _ in range(options.iterations + 2)][2:]
    peak = peak_bytes(options.device) - before
    rate, bandwidth = machine(options)
    ours, *theirs = (statistics.median(column) for column in zip(*times))
    figures = {"seconds": ours} | {f"{name}_per_second": n / ours for name, n in units.items()}
    figures |= {"share": flops / rate / ours, "gflops": rate / 1e9, "gigabytes_per_second": bandwidth / 1e9}
    if options.work == "ppo":
        figures |= {"peak_gigabytes": peak / 1e9, "formula_gigabytes": Shape(options.shape).ppo_bytes() / 1e9}
    for median in theirs:
        ratios = [them / us if options.peer else us / them for us, them in times]
        name = "peer" if options.peer else "ranks"
        figures |= {f"{name}_seconds": median, "ratio": statistics.median(ratios), "ratios": [min(ratios), max(ratios)]}
    print(json.dumps({k: v for k, v in vars(options).items() if k != "peer"} | figures))


if __name__ == "__main__":
    command(main, Config, "work", "shape")
