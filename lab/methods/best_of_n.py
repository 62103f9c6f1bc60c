"""Best-of-n (Stiennon et al. 2020; Nakano et al. 2021): sample n answers to a prompt, and give the one that the reward
model scores highest. Nothing is trained; each answer costs n times as much.

python -m lab.methods.best_of_n --policy runs/toy/rl_start --reward_model runs/toy/rm \\
    --prompts runs/toy/town/prompts_test.jsonl --n 16 --max_response 26 --out best.jsonl
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import generate, in_chunks, response_scores, uniforms
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import Text, check_fields, command, require_positive
from minirlhf.support.device import pick_device
from minirlhf.support.files import write_lines
from minirlhf.support.progress import progress
from minirlhf.support.records import load_prompts


@dataclass(frozen=True, kw_only=True)
class Config:
    policy: str  # checkpoint that answers
    reward_model: str  # checkpoint that chooses
    prompts: tuple[str, ...]  # files of prompts
    out: str  # file to write: a prompt, the best response and its score in each line, as demonstrations are
    n: int = 16  # answers to each prompt
    max_response: int = 512  # maximum tokens in an answer
    seed: int = 0  # random seed
    device: Text = "auto"  # cpu, cuda, mps, or auto: the fastest there is

    def __post_init__(self):
        check_fields(self)
        require_positive(self, "n", "max_response")


def main(config):
    tokenizer, device = load_tokenizer(config.policy), pick_device(config.device)
    policy = load_model(config.policy, GPT, tokenizer).eval().to(device)
    reward_model = load_model(config.reward_model, RewardModel, tokenizer).eval().to(device)
    n_ctx = min(policy.config.n_ctx, reward_model.config.n_ctx)
    prompts = load_prompts(config.prompts, tokenizer, n_ctx, config.max_response)
    best, scores = best_of_n(policy, reward_model, prompts, config, tokenizer)
    rows = [dict(prompt=tokenizer.decode(x), response=y, score=r) for x, y, r in zip(prompts, best, scores.max(1))]
    write_lines(config.out, rows)
    mean, chosen = scores.mean(), scores.max(1).mean()
    print(f"{config.out}: {len(rows)} answers; mean score {chosen:.2f}, of all samples {mean:.2f}")
    print(f"KL from the policy: at most {kl_bound(config.n):.2f} nats")


def best_of_n(policy, reward_model, prompts, config, tokenizer):
    """The best of n answers to each of P prompts (lists of token ids) as texts, and the scores of all (P, n)."""
    texts, scores = [], []
    with torch.no_grad():
        for i, _ in progress(range(config.n), config.out):
            noise = uniforms((config.seed, i), len(prompts), config.max_response)
            responses, _ = generate(policy, prompts, noise, tokenizer.eos, tokenizer.pad)
            texts.append(responses.texts(tokenizer))
            scores.append(in_chunks(response_scores, reward_model, responses).cpu().numpy())
    scores = np.stack(scores, 1)
    return [texts[i][row] for row, i in enumerate(scores.argmax(1))], scores


def kl_bound(n):
    """log n - (n - 1) / n, in nats: the KL of best-of-n if no two answers are the same, and at most this otherwise
    (Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n


if __name__ == "__main__":
    command(main, Config)
