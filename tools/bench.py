"""Benchmarks: times training steps and sampling on random models, and compares them with the machine's peak rate.

    python -m tools.bench ppo small            a PPO iteration, episodes per second
    python -m tools.bench generate gpt2        sampling responses, tokens per second
    python -m tools.bench sft gpt2             a training step of the language model, tokens per second
    python -m tools.bench rm small             a training step of the reward model on pairs, tokens per second
    torchrun --nproc_per_node 2 -m tools.bench sft gpt2 --threads 1         the same batch, by two processes

Prints one JSON line. The same run measures the machine's rates: `gflops` by a product of two 2048 x 2048 matrices,
`gigabytes_per_second` by a copy of 256 MB. `share` is the achieved fraction of that FLOP rate, counting 2N FLOPs per
token in a forward, 6N per token trained, and attention. A PPO iteration is a rollout of B episodes in which no row
stops early, scores by four networks of one size, and one inner epoch of policy and value network.
"""

import json
import statistics
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
from minirlhf.support.config import Text, command, require_choice, require_positive
from minirlhf.support.cuda_graph import decode_by_graph
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import require
from minirlhf.support.optim import adam, take_step
from minirlhf.support.records import Ranking, Sequence
from minirlhf.support.sampling import decode

#           vocab ctx layers heads width  B  prompt response minibatch
SHAPES = {
    "small": (1024, 128, 4, 4, 128, 64, 24, 32, 8),
    "gpt2": (50257, 256, 12, 12, 768, 8, 64, 64, 8),
    "gpt2-wide": (50257, 512, 12, 12, 768, 64, 128, 128, 8),
}


class Shape:
    def __init__(self, name):
        self.vocab, *sizes, self.batch, self.prompt, self.response, self.minibatch = SHAPES[name]
        self.config = GPTConfig(self.vocab, *sizes)
        self.length = self.prompt + self.response

    def flops(self, tokens, length, read, vocab=0):
        """FLOPs of a forward over `tokens` tokens in sequences of `length`; `read` of them are computed beyond the last
        attention, to logits over a `vocab` or to a scalar."""
        D, L = self.config.n_embd, self.config.n_layer
        matrices = 12 * L * tokens - 9 * (tokens - read)
        return 2 * matrices * D * D + 2 * read * vocab * D + 2 * tokens * L * D * length


# --- the work: each function returns (a function that does it once, {unit: how many it handles}, its FLOPs) ----------


def sft(shape, options):
    model = place(GPT(shape.config), options).train()
    optimizer = adam(model.parameters(), 1e-5)
    rng = np.random.default_rng(0)
    rows = [Sequence(rng.integers(0, shape.vocab, shape.length + 1), 1) for _ in range(shape.batch)]
    learner = distributed.wrap(model)

    def step():
        responses = collate(distributed.shard(rows), shape.vocab, options.device)
        loss = sft_loss(response_logps(learner, responses), responses.mask, total=shape.batch)
        loss.backward()
        take_step(model, optimizer, 1.0)
        return loss.item()

    tokens = shape.batch * shape.length
    return step, {"tokens": tokens}, 3 * shape.flops(tokens, shape.length, tokens, shape.vocab)


def rm(shape, options):
    model = place(RewardModel(shape.config), options).train()
    optimizer = adam(model.parameters(), 1e-5)
    rng = np.random.default_rng(0)
    rows = [Sequence(rng.integers(0, shape.vocab, shape.length), 1) for _ in range(shape.batch)]
    pairs = [Ranking(list(pair), [1, 2]) for pair in zip(rows[::2], rows[1::2])]
    learner = distributed.wrap(model)

    def step():
        scores = train_rm.score_rankings(learner, distributed.shard(pairs), shape.vocab)
        loss = ranking_loss(*scores, total=len(pairs))
        loss.backward()
        take_step(model, optimizer, 1.0)
        return loss.item()

    tokens = shape.batch * shape.length
    return step, {"tokens": tokens}, 3 * shape.flops(tokens, shape.length, shape.batch)


def rollout(shape, model, turn, graph):
    prompts = np.random.default_rng(turn).integers(0, shape.vocab, (shape.batch, shape.prompt)).tolist()
    noise = uniforms((0, turn), shape.batch, shape.response)
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
        episodes = train_ppo.judge_episodes(
            networks, *rollout(shape, networks.policy, i, options.graph), config, eos=-1
        )
        for rows in torch.from_numpy(np.random.default_rng(i).permutation(shape.batch)).split(shape.minibatch):
            train_ppo.update(learners, optimizers, episodes, rows, [], shape.vocab, config)
        return train_ppo.episode_metrics(episodes, config, eos=-1)

    tokens, read = shape.batch * shape.length, shape.batch * shape.response
    policy, value = shape.flops(tokens, shape.length, read, shape.vocab), shape.flops(tokens, shape.length, read)
    score = shape.flops(tokens, shape.length, shape.batch)
    # policy: rollout, reference, and 3 for forward with backward; value: a forward, and 3; the reward model's forward
    return step, {"episodes": shape.batch}, (1 + 1 + 3) * policy + (1 + 3) * value + score


WORK = {"sft": sft, "rm": rm, "generate": generation, "ppo": ppo}


# --- timing ----------------------------------------------------------------------------------------------------------


def seconds_of(step, device):
    start = time.perf_counter()
    step()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def machine(options):
    """(FLOPs per second of a matrix product, bytes per second of a copy, read and written)."""
    dtype = getattr(torch, options.dtype)
    a, b = (torch.randn(2048, 2048, device=options.device, dtype=dtype) for _ in range(2))
    memory = torch.empty(2**26, device=options.device)
    product = min(seconds_of(lambda: a @ b, options.device) for _ in range(10))
    copy = min(seconds_of(lambda: memory.clone(), options.device) for _ in range(10))
    return 2 * 2048**3 / product, 2 * memory.nbytes / copy


@dataclass(frozen=True)
class Config:
    work: Text  # what is timed: sft, rm, generate or ppo
    shape: Text  # size of the model and the batch: small, gpt2 or gpt2-wide
    iterations: int = 6  # number of timed iterations, after two for warming up
    threads: int = 2  # of each process
    device: Text = "cpu"  # cpu or cuda
    dtype: Text = "float32"  # float32 or bfloat16
    compile: bool = False  # use torch.compile
    graph: bool = False  # sample with CUDA graphs

    def __post_init__(self):
        require_positive(self, "iterations", "threads")
        require_choice(self, "work", WORK)
        require_choice(self, "shape", SHAPES)
        require_choice(self, "device", ("cpu", "cuda"))
        require_choice(self, "dtype", ("float32", "bfloat16"))
        require(self.device == "cuda" or not self.graph, "--graph needs --device cuda")


def main(options):
    distributed.start(pick_device(options.device))
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    step, units, flops = WORK[options.work](Shape(options.shape), options)
    seconds = statistics.median([seconds_of(step, options.device) for _ in range(options.iterations + 2)][2:])
    rate, bandwidth = machine(options)
    figures = {"seconds": seconds} | {f"{name}_per_second": n / seconds for name, n in units.items()}
    rate *= distributed.world_size()
    figures |= {"share": flops / rate / seconds, "gflops": rate / 1e9, "gigabytes_per_second": bandwidth / 1e9}
    distributed.print0(json.dumps(vars(options) | figures))
    distributed.finish()


if __name__ == "__main__":
    command(main, Config, "work", "shape")
