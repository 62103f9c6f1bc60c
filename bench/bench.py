"""Times this project's work on random models of named shapes, and prints one JSON line.

    python bench/bench.py ppo toy          episodes per second of a whole PPO iteration

One PPO iteration: a rollout of B episodes in which no row stops early, scores, log-probs and values by four networks
of one size, one inner epoch of minibatches with policy and value network both trained. fp32, no pretraining mix.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

import train_ppo
from minirlhf.model import GPT, GPTConfig, RewardModel
from minirlhf.rollout import generate, uniforms

#           vocab ctx layers heads width  B  prompt response minibatch
SHAPES = {
    "toy": (1024, 128, 4, 4, 128, 64, 24, 32, 8),
    "gpt2": (50257, 256, 12, 12, 768, 8, 64, 64, 8),
}


def time_ppo(shape, iterations):
    vocab, n_ctx, n_layer, n_head, n_embd, batch, prompt_length, response, minibatch = shape
    model_config = GPTConfig(vocab, n_ctx, n_layer, n_head, n_embd)
    networks = train_ppo.Networks(*(cls(model_config).eval() for cls in (GPT, GPT, RewardModel, RewardModel, GPT)))
    config = train_ppo.Config(
        policy="", reward_model="", prompts=(), out="", ptx_coef=0.0, batch_size=batch, minibatch_size=minibatch,
        episodes=batch, max_response=response, lr=1e-5, value_lr=1e-5,
    )  # fmt: skip
    optimizers = train_ppo.make_optimizers(networks, config)
    rng, seconds = np.random.default_rng(0), []
    for iteration in range(iterations + 2):
        prompts = rng.integers(0, vocab, (batch, prompt_length)).tolist()
        start = time.perf_counter()
        noise = uniforms((0, iteration), range(batch), response)
        rollout = generate(networks.policy, prompts, noise, eos=-1, pad=vocab)
        rolled = time.perf_counter()
        episodes = train_ppo.judge_episodes(networks, rollout, config)
        judged = time.perf_counter()
        for rows in torch.from_numpy(rng.permutation(batch)).split(minibatch):
            train_ppo.update(networks, optimizers, episodes, rows, [], vocab, config)
        train_ppo.statistics(episodes, config, eos=-1)
        end = time.perf_counter()
        seconds.append((end - start, rolled - start, judged - rolled, end - judged))
    whole, *parts = (statistics.median(column) for column in zip(*seconds[2:]))
    shares = dict(zip(("rollout", "scoring", "updates"), (round(part / whole, 3) for part in parts)))
    return {"seconds_per_iteration": whole, "episodes_per_second": batch / whole, "shares": shares}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["ppo"])
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    figures = time_ppo(SHAPES[args.shape], args.iterations)
    print(json.dumps({"work": args.work, "shape": args.shape, "threads": args.threads, **figures}))


if __name__ == "__main__":
    main()
