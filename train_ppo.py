"""Step 3 of InstructGPT: PPO against the reward model, and PPO-ptx (Ouyang et al. 2022, section 3.5, App. C.3, C.4).

    python train_ppo.py --policy runs/rl_start --reward_model runs/rm --prompts prompts.jsonl \\
        --documents web.jsonl --out runs/ppo_ptx        (--ptx_coef 0 and no documents: plain PPO)
    torchrun --nproc_per_node 8 train_ppo.py ...        (the same flags: batches are the whole's)

A bandit: a prompt comes, the policy answers once, the reward model scores, the episode ends. The objective (eq. 2):

    E_{(x, y) ~ pi} [ r(x, y) - beta log(pi(y|x) / pi_ref(y|x)) ]  +  gamma E_{x ~ documents} [ log pi(x) ]

Four networks: the policy; its frozen start, the KL's reference; the frozen reward model; the value network, which
starts as a copy of the reward model. The policy's running average is what a run leaves as its model. Not in the
paper, hence ours: lambda, whitened advantages, the clipped value loss, clipped gradients, losses as means per token,
and which of the swept learning rates is the default.
"""

import copy
import itertools
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from minirlhf import data, distributed
from minirlhf.checkpoint import drop_states, load_model, load_state, load_tokenizer, save_model, save_state, start_run
from minirlhf.config import parse, require, run
from minirlhf.device import DTYPES, pick_device, place
from minirlhf.files import Metrics
from minirlhf.losses import (
    ema_update,
    gae,
    masked_mean,
    policy_loss,
    ptx_loss,
    shaped_rewards,
    value_loss,
    warmup_lr,
    whiten,
)  # fmt: skip
from minirlhf.model import GPT, RewardModel
from minirlhf.progress import draw_curves, progress
from minirlhf.rollout import (
    Rollout,
    generate,
    in_chunks,
    response_logps,
    response_values,
    scores,
    target_logps,
    uniforms,
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    policy: str  # checkpoint that RL starts from, and the KL's reference: SFT with pretraining data mixed in
    reward_model: str  # checkpoint of the reward model; the value network starts as its copy
    prompts: tuple[str, ...]  # files of prompts
    out: str  # folder for checkpoints, metrics.jsonl, curves.png
    documents: tuple[str, ...] = ()  # files of pretraining documents, for PPO-ptx
    ptx_coef: float = 27.8  # gamma, weight of the pretraining loss (paper: 27.8); 0 is plain PPO
    documents_per_episode: float = 8.0  # pretraining sequences per episode (paper: 8)
    document_tokens: int | None = None  # length of a pretraining sequence; the context's unless given (paper: 2048)
    episodes: int = 256_000  # prompts answered in all (paper: 256k)
    batch_size: int = 512  # episodes in an iteration (paper: 512)
    minibatch_size: int = 64  # episodes in an optimizer step (paper: 64)
    inner_epochs: int = 1  # passes over the episodes of an iteration (paper: 1)
    max_response: int = 512  # tokens of a response at the most (paper: 1k of a context of 2k)
    kl_coef: float = 0.02  # beta, the per-token KL penalty (paper: 0.02)
    lr: float = 8.05e-6  # policy's peak, constant after the warmup (paper: swept; above it PPO without ptx diverged)
    value_lr: float = 9e-6  # value network's, constant (paper: 9e-6)
    warmup: int = 10  # iterations from a tenth of the policy's learning rate to all of it (paper: 10)
    clip: float = 0.2  # the ratio's clip range (paper: 0.2)
    value_clip: float = 0.2  # the value's clip range (ours)
    gae_gamma: float = 1.0  # discount (paper: 1)
    gae_lambda: float = 0.95  # GAE's lambda (ours)
    ema_decay: float = 0.992  # of the averaged weights, which are what is saved as model.pt (paper: 0.992)
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm (ours)
    rollout_batch_size: int = 128  # episodes that a process samples at once; keys and values of more need more memory
    max_tokens: int = 16384  # tokens in one forward of a process; larger minibatches accumulate gradients
    save_every: int = 50  # iterations between the states that --resume goes on from
    resume: bool = False  # go on from the newest state in --out, if there is one
    seed: int = 0  # of prompts, sampling, minibatches and documents
    device: str = "auto"  # cpu, cuda, mps, or auto: the fastest there is
    dtype: str = "auto"  # of matrix products: float32, bfloat16, or auto: bfloat16 on CUDA
    compile: bool = False  # by torch.compile: starts slower, runs faster on a GPU
    recompute: bool = False  # activations in backward instead of keeping them: less memory, a third slower
    graph: bool = False  # replay each sampling step as one CUDA graph, so that the GPU does not wait for launches

    def __post_init__(self):
        cuda = not self.graph or pick_device(self.device) == "cuda"
        require(cuda, "--graph replays CUDA graphs, and this is no CUDA device; leave the flag out")
        require(self.dtype in DTYPES, f"--dtype {self.dtype}: choose {', '.join(DTYPES)}")
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        positive = "episodes batch_size minibatch_size inner_epochs max_response lr value_lr warmup clip value_clip"
        for name in f"{positive} max_grad_norm rollout_batch_size max_tokens save_every".split():
            require(getattr(self, name) > 0, f"--{name} {getattr(self, name)}: must be above 0")
        for name in ("ptx_coef", "kl_coef", "documents_per_episode"):
            require(getattr(self, name) >= 0, f"--{name} {getattr(self, name)}: must not be negative")
        for name in ("gae_gamma", "gae_lambda", "ema_decay"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: must lie between 0 and 1")
        for whole, part in (("episodes", "batch_size"), ("batch_size", "minibatch_size")):
            a, b = getattr(self, whole), getattr(self, part)
            require(a % b == 0, f"--{whole} {a} is not divisible by --{part} {b}; take {max(b, a // b * b)}")
        needed = self.ptx_coef == 0 or self.documents
        require(needed, f"--ptx_coef {self.ptx_coef} needs --documents to learn from; --ptx_coef 0 is plain PPO")
        per_step = self.minibatch_size * self.documents_per_episode
        whole = self.ptx_coef == 0 or (per_step > 0.5 and abs(per_step - round(per_step)) < 1e-6)
        message = f"--documents_per_episode {self.documents_per_episode}: {per_step:g} a minibatch of "
        require(whole, f"{message}{self.minibatch_size}; must be a whole number, 1 at least")


class Networks(NamedTuple):
    policy: GPT
    reference: GPT
    reward_model: RewardModel
    value: RewardModel
    ema: GPT


class Episodes(NamedTuple):
    """What an iteration learns from. B episodes, R response tokens at most; (B, R) unless noted."""

    rollout: Rollout
    scores: torch.Tensor  # (B,) the reward model's
    ref_logp: torch.Tensor
    values: torch.Tensor
    advantages: torch.Tensor  # whitened
    returns: torch.Tensor


def main(argv):
    config = parse(Config, argv, __doc__)
    distributed.start(pick_device(config.device))
    distributed.require_divisible(batch_size=config.batch_size, minibatch_size=config.minibatch_size)
    tokenizer = load_tokenizer(config.policy)
    networks = load_networks(config, tokenizer)
    prompts, documents = load_data(config, tokenizer, networks)
    if start_run(config):
        train(config, Networks(*(place(network, config) for network in networks)), tokenizer, prompts, documents)
    distributed.finish()


def train(config, networks, tokenizer, prompts, documents):
    optimizers, metrics = make_optimizers(networks, config), Metrics(config.out, good=config.policy)
    parts = dict(policy=networks.policy, value=networks.value, ema=networks.ema)
    parts |= dict(policy_optimizer=optimizers[0], value_optimizer=optimizers[1])
    first = load_state(config.out, parts, metrics)
    per_step = round(config.minibatch_size * config.documents_per_episode) if config.ptx_coef else 0  # documents
    steps = config.inner_epochs * config.batch_size // config.minibatch_size  # in an iteration
    still = config.ema_decay ** (config.episodes // config.batch_size * steps)
    if still > 0.5:
        distributed.say(f"{config.out}: a short run, {still:.0%} of its average will be the start; lower --ema_decay")
    prompt_order = endless(len(prompts), first * config.batch_size, (config.seed, 0, 1))
    document_order = endless(len(documents), first * steps * per_step, (config.seed, 0, 2))
    learners = networks._replace(policy=distributed.wrap(networks.policy), value=distributed.wrap(networks.value))

    for iteration, _ in progress(range(config.episodes // config.batch_size), config.out, first):
        start = time.perf_counter()
        optimizers[0].param_groups[0]["lr"] = config.lr * warmup_lr(iteration, config.warmup)

        # 1. The policy answers a batch of prompts, each rank its share of them.
        batch = [prompts[next(prompt_order)] for _ in range(config.batch_size)]
        noise = uniforms((config.seed, iteration), range(config.batch_size), config.max_response)
        mine = distributed.shard(batch), distributed.shard(noise)
        how = dict(rows=config.rollout_batch_size, graph=config.graph)
        rollout = generate(networks.policy, *mine, tokenizer.eos, tokenizer.pad, **how)

        # 2. The reward model scores, the reference makes drifting cost, the value network makes advantages. Whatever is
        #    averaged over the batch needs all of it, and all ranks get all episodes.
        episodes = judge_episodes(networks, rollout, config)

        # 3. One pass over the episodes in random minibatches; documents come along in PPO-ptx.
        losses, rng = [], np.random.default_rng((config.seed, iteration, 3))
        for _ in range(config.inner_epochs):
            for rows in torch.from_numpy(rng.permutation(config.batch_size)).split(config.minibatch_size):
                extra = [documents[next(document_order)] for _ in range(per_step)]
                rows = rows.to(episodes.scores.device)
                losses.append(update(learners, optimizers, episodes, rows, extra, tokenizer.pad, config))
                metrics.check(iteration, **losses[-1])

        row = {name: float(np.mean([step[name] for step in losses])) for name in losses[0]}
        row |= statistics(episodes, config, tokenizer.eos) | {"episodes": (iteration + 1) * config.batch_size}
        metrics.write(step=iteration, **row, episodes_per_second=config.batch_size / (time.perf_counter() - start))
        if (iteration + 1) % config.save_every == 0:
            metrics.good = save_state(config.out, iteration + 1, parts)

    curves = {"score": "RM score", "kl": "KL to the reference (nats)", "value_loss": "value loss"}
    draw_curves(config.out, curves | ({"ptx_loss": "pretraining loss"} if config.ptx_coef else {}), config.out)
    save_model(f"{config.out}/policy.pt", networks.policy, tokenizer)
    save_model(f"{config.out}/value.pt", networks.value, tokenizer)
    save_model(f"{config.out}/model.pt", networks.ema, tokenizer)
    drop_states(config.out)


def load_networks(config, tokenizer):
    """All five on the CPU, in evaluation mode for good: dropout would make the ratio's two sides two networks."""
    policy = load_model(config.policy, GPT, tokenizer).eval()
    reward_model = load_model(config.reward_model, RewardModel, tokenizer).eval()
    frozen = [copy.deepcopy(policy).requires_grad_(False) for _ in range(2)]
    value = copy.deepcopy(reward_model)
    return Networks(policy, frozen[0], reward_model.requires_grad_(False), value, frozen[1])


def load_data(config, tokenizer, networks):
    """Prompts as token lists, documents as Sequences."""
    n_ctx = min(networks.policy.config.n_ctx, networks.reward_model.config.n_ctx)
    prompts = data.load_prompts(config.prompts, tokenizer, n_ctx, config.max_response)
    if config.ptx_coef == 0:
        return prompts, []
    context = networks.policy.config.n_ctx
    length = config.document_tokens or context
    require(0 < length <= context, f"--document_tokens {length}: must lie between 1 and the context, {context}")
    records = [record for path in config.documents for record in data.read(path, "document")]
    return prompts, data.pack(records, tokenizer, length)


def endless(n, start, seed):
    """0 .. n - 1 in random order, again and again, each once before any comes twice; without the first `start`."""
    for cycle in itertools.count(start // n):
        yield from np.random.default_rng((*seed, cycle)).permutation(n)[start % n :]
        start = 0


def make_optimizers(networks, config):
    """Adam for the policy and for the value network, with the paper's betas."""
    rates = ((networks.policy, config.lr), (networks.value, config.value_lr))
    return [torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.95), fused=True) for model, lr in rates]


def judge_episodes(networks, rollout, config):
    """Scores, KL-shaped rewards, advantages and returns of a batch of episodes: the whole batch's, on every rank, where
    `rollout` is a rank's own."""
    scored = in_chunks(scores, networks.reward_model, rollout, config.max_tokens)
    ref_logp = in_chunks(response_logps, networks.reference, rollout, config.max_tokens)
    values = in_chunks(response_values, networks.value, rollout, config.max_tokens)
    scored, ref_logp, values, *rollout = map(distributed.all_gather, (scored, ref_logp, values, *rollout))
    rollout = Rollout(*rollout)
    rewards = shaped_rewards(scored, rollout.logp, ref_logp, rollout.mask, config.kl_coef)
    advantages, returns = gae(rewards, values, rollout.mask, config.gae_gamma, config.gae_lambda)
    return Episodes(rollout, scored, ref_logp, values, whiten(advantages, rollout.mask), returns)


def update(networks, optimizers, episodes, rows, documents, pad, config):
    """One optimizer step on a minibatch: PPO's gradients and, added to the same buffers, the documents'.

    rows (M,) long: the minibatch's episodes; documents: list of Sequences, empty for plain PPO. Each rank takes its
    share of both; policy and value network may be wrapped by DDP. Returns the losses.
    """
    losses = dict(policy_loss=0.0, value_loss=0.0, clip_fraction=0.0)
    if documents:
        losses["ptx_loss"] = 0.0
        total = sum(len(s.tokens) - s.start for s in documents)  # tokens
        mine = distributed.shard(documents)
        with distributed.hold(networks.policy):
            for part in data.micro_batches([len(s.tokens) for s in mine], config.max_tokens):
                logp, mask = target_logps(networks.policy, [mine[i] for i in part], pad)
                loss = ptx_loss(logp, mask, config.ptx_coef, total)
                loss.backward()
                losses["ptx_loss"] += loss.item() / config.ptx_coef  # nats per token
    total = episodes.rollout.response_lengths[rows].sum()  # tokens
    mine = distributed.shard(rows)
    parts = data.micro_batches(episodes.rollout.lengths[mine].tolist(), config.max_tokens)
    for part in distributed.accumulate(parts, networks.policy, networks.value):
        part = mine[part]
        rollout = episodes.rollout.select(part)
        mask, R = rollout.mask, rollout.logp.shape[1]
        old_values, advantages, returns = (
            x[part, :R] for x in (episodes.values, episodes.advantages, episodes.returns)
        )
        logp = response_logps(networks.policy, rollout)
        loss = policy_loss(logp, rollout.logp, advantages, mask, config.clip, total)
        loss.backward()
        values = response_values(networks.value, rollout)
        error = value_loss(values, old_values, returns, mask, config.value_clip, total)
        error.backward()
        losses["policy_loss"] += loss.item()
        losses["value_loss"] += error.item()
        outside = ((logp - rollout.logp).exp() - 1).abs() > config.clip
        losses["clip_fraction"] += masked_mean(outside, mask, total).item()
    for network, optimizer in zip((networks.policy, networks.value), optimizers):
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    ema_update(networks.ema, networks.policy, config.ema_decay)
    return dict(zip(losses, distributed.all_reduce(*losses.values())))


def statistics(episodes, config, eos):
    """Means over the batch that tell how it goes."""
    rollout, mask = episodes.rollout, episodes.rollout.mask
    kl = ((rollout.logp - episodes.ref_logp) * mask).sum(1).mean()  # nats per response
    last = rollout.tokens.gather(1, rollout.lengths[:, None] - 1)[:, 0]
    residual = masked_mean((episodes.returns - episodes.values) ** 2, mask)
    spread = masked_mean((episodes.returns - masked_mean(episodes.returns, mask)) ** 2, mask)
    row = {
        "score": episodes.scores.mean(),
        "kl": kl,
        "objective": episodes.scores.mean() - config.kl_coef * kl,
        "entropy": masked_mean(-rollout.logp, mask),  # nats per token, estimated on the samples
        "response_length": rollout.response_lengths.float().mean(),
        "ended": (last == eos).float().mean(),  # share of responses that end before the limit
        "explained_variance": 1 - residual / spread.clamp(min=1e-8),
    }
    return {name: value.item() for name, value in row.items()}


if __name__ == "__main__":
    run(main)
