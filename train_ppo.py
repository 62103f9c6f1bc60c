"""Step 3 of InstructGPT: PPO against the reward model, and PPO-ptx (Ouyang et al. 2022, section 3.5, App. C.3, C.4).

    python train_ppo.py --policy runs/rl_start --reward_model runs/rm --prompts prompts.jsonl \\
        --documents web.jsonl --out runs/ppo_ptx        (--ptx_coef 0 and no documents: plain PPO)
    torchrun --nproc_per_node 8 train_ppo.py ...        (the same flags: batches are the whole's)

A prompt x comes, the policy pi answers once, y, the reward model scores, r(x, y). The objective (eq. 2):

    E_{(x, y) ~ pi} [ r(x, y) - beta log(pi(y|x) / pi_ref(y|x)) ]  +  gamma E_{x ~ documents} [ log pi(x) ]

E is the mean over prompts and answers; gamma weighs the documents. PPO works inside the answer. The state is the prompt
and the answer so far, the action the next token. An episode ends with end-of-text or at --max_response tokens; after
either there is no value. The reward is the KL penalty at each token and the score at the last; the discount is 1. There
is no entropy bonus, beta is fixed, and neither rewards nor values are normalised.

Four networks and an average: the policy; its frozen start, the KL's reference; the frozen reward model; the value
network, which starts as a copy of the reward model; and the policy's running average, saved as model.pt. Not
in the paper, hence ours: lambda, whitened advantages, the clipped value loss, clipped gradients, losses as means per
token, and which of the learning rates that the paper tried is the default.
"""

import copy
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from minirlhf import data
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
)
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import decode as decode_by_steps
from minirlhf.rollout import generate, in_chunks, response_logps, response_scores, response_values, uniforms
from minirlhf.support import distributed, records
from minirlhf.support.checkpoint import load_model, load_tokenizer, save_model
from minirlhf.support.config import command, parse, require_positive
from minirlhf.support.cuda_graph import decode_by_graph
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import require
from minirlhf.support.run import Run, RunConfig, start_run


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    policy: str  # checkpoint that RL starts from, and the KL's reference: SFT with pretraining data mixed in
    reward_model: str  # checkpoint of the reward model; the value network starts as its copy
    prompts: tuple[str, ...]  # files of prompts
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
    rollout_batch_size: int = 128  # episodes that a process samples at once; keys and values of more need more memory
    show: int = 8  # episodes of an iteration that samples.jsonl shows: prompt, response, RM score, KL
    save_every: int = 50  # iterations between the states that --resume goes on from
    graph: bool = False  # replay each sampling step as one CUDA graph, so that the GPU does not wait for launches

    def __post_init__(self):
        super().__post_init__()
        cuda = not self.graph or pick_device(self.device) == "cuda"
        require(cuda, "--graph replays CUDA graphs, and this is no CUDA device; leave the flag out")
        sizes = ("episodes", "batch_size", "minibatch_size", "inner_epochs", "max_response", "rollout_batch_size")
        require_positive(self, *sizes, "lr", "value_lr", "warmup", "clip", "value_clip", "document_tokens")
        for name in ("gae_gamma", "gae_lambda", "ema_decay"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: must lie between 0 and 1")
        for whole, part in (("episodes", "batch_size"), ("batch_size", "minibatch_size")):
            a, b = getattr(self, whole), getattr(self, part)
            require(a % b == 0, f"--{whole} {a} is not divisible by --{part} {b}; take {max(b, a // b * b)}")
        needed = self.ptx_coef == 0 or self.documents
        require(needed, f"--ptx_coef {self.ptx_coef} needs --documents to learn from; --ptx_coef 0 is plain PPO")
        per_step = self.minibatch_size * self.documents_per_episode
        whole = self.ptx_coef == 0 or (0.5 < per_step <= 1e6 and abs(per_step - round(per_step)) < 1e-6)
        message = f"--documents_per_episode {self.documents_per_episode}: {per_step:g} a minibatch of "
        require(whole, f"{message}{self.minibatch_size}; must be a whole number from 1 to 1,000,000")


class Networks(NamedTuple):
    policy: GPT
    reference: GPT
    reward_model: RewardModel
    value: RewardModel
    ema: GPT


class Episodes(NamedTuple):
    """What an iteration learns from. An episode is a prompt, the response to it token by token, and a score at its end.
    B episodes, R response tokens at most; (B, R) unless noted."""

    responses: data.Responses  # tokens (B, T): prompt and response; prompt_lengths (B,); mask (B, R): what is response
    scores: torch.Tensor  # (B,) the reward model's
    logp: torch.Tensor  # of each token, as the policy sampled it
    ref_logp: torch.Tensor  # the same token's by the reference
    values: torch.Tensor  # the value network's guess, before each token, of all reward to come
    advantages: torch.Tensor  # whitened
    returns: torch.Tensor  # what values should have been: values + advantages before whitening

    def select(self, rows):
        """Some episodes (long tensor), cut to the longest of them."""
        responses = self.responses.select(rows)
        R = responses.mask.shape[1]
        return Episodes(responses, self.scores[rows], *(x[rows, :R] for x in self[2:]))  # from logp on (B, R)


def main(argv):
    config = parse(Config, argv, __doc__)
    distributed.start(pick_device(config.device))
    distributed.require_divisible(batch_size=config.batch_size, minibatch_size=config.minibatch_size)
    tokenizer = load_tokenizer(config.policy)
    networks = load_networks(config, tokenizer)
    prompts, documents = load_data(config, tokenizer, networks)
    if start_run(config):
        train(config, networks, tokenizer, prompts, documents)
    distributed.finish()


def train(config, networks, tokenizer, prompts, documents):
    optimizers = make_optimizers(networks, config)
    run = Run(config, networks.policy, networks.value, networks.ema, *optimizers, last_good=config.policy)
    learners = networks._replace(policy=distributed.wrap(networks.policy), value=distributed.wrap(networks.value))
    iterations = config.episodes // config.batch_size
    steps = config.inner_epochs * config.batch_size // config.minibatch_size  # optimizer steps in an iteration
    per_step = round(config.minibatch_size * config.documents_per_episode) if config.ptx_coef else 0  # documents
    warn_of_a_short_run(config, iterations * steps)
    prompt_order = endless(len(prompts), run.first * config.batch_size, (config.seed, 0, 1))
    document_order = endless(len(documents), run.first * steps * per_step, (config.seed, 0, 2))
    decode = decode_by_graph if config.graph else decode_by_steps

    for iteration, _ in run.steps(range(iterations)):
        optimizers[0].param_groups[0]["lr"] = config.lr * warmup_lr(iteration, config.warmup)

        # 1. The policy answers a batch of prompts, each process its share. rollout.sample_token draws the tokens.
        batch = [prompts[next(prompt_order)] for _ in range(config.batch_size)]
        noise = uniforms((config.seed, iteration), range(config.batch_size), config.max_response)
        mine = distributed.shard(batch), distributed.shard(noise)
        sizes = dict(batch_size=config.rollout_batch_size, decode=decode)
        responses, logp = generate(networks.policy, *mine, tokenizer.eos, tokenizer.pad, **sizes)

        # 2. Rewards are made of the reward model's scores and the reference's log-probs, advantages of rewards and the
        #    value network's guesses. They are whitened over the whole batch, so each process gets all episodes.
        episodes: Episodes = judge_episodes(networks, responses, logp, config)

        # 3. The policy and the value network learn from the episodes in random minibatches, and in PPO-ptx the policy
        #    from documents.
        figures, rng = [], np.random.default_rng((config.seed, iteration, 3))
        for _ in range(config.inner_epochs):
            for minibatch in torch.from_numpy(rng.permutation(config.batch_size)).split(config.minibatch_size):
                extra = [documents[next(document_order)] for _ in range(per_step)]
                figures.append(update(learners, optimizers, episodes, minibatch, extra, tokenizer.pad, config))
                run.check(**figures[-1])

        row = {name: float(np.mean([step[name] for step in figures])) for name in figures[0]}
        row |= statistics(episodes, config, tokenizer.eos) | {"episodes": (iteration + 1) * config.batch_size}
        run.log(*shown(episodes, config.show, tokenizer), **row, episodes_per_second=run.rate(config.batch_size))

    save_model(f"{config.out}/policy.pt", networks.policy, tokenizer)
    save_model(f"{config.out}/value.pt", networks.value, tokenizer)
    save_model(f"{config.out}/model.pt", networks.ema, tokenizer)
    curves = {"score": "RM score", "kl": "KL to the reference (nats)", "value_loss": "value loss"}
    run.finish(**curves | ({"ptx_loss": "pretraining loss"} if config.ptx_coef else {}))


def judge_episodes(networks, responses, logp, config):
    """The Episodes of some responses: scores, KL-shaped rewards, advantages, returns. Each process brings the responses
    and log-probs that it sampled, and gets the Episodes of the whole batch."""
    scores = in_chunks(response_scores, networks.reward_model, responses, config.max_tokens)
    ref_logp = in_chunks(response_logps, networks.reference, responses, config.max_tokens)
    values = in_chunks(response_values, networks.value, responses, config.max_tokens)
    scores, logp, ref_logp, values = map(distributed.all_gather, (scores, logp, ref_logp, values))
    responses = data.Responses(*map(distributed.all_gather, responses))
    rewards = shaped_rewards(scores, logp, ref_logp, responses.mask, config.kl_coef)
    advantages, returns = gae(rewards, values, responses.mask, config.gae_gamma, config.gae_lambda)
    advantages = whiten(advantages, responses.mask)
    return Episodes(responses, scores, logp, ref_logp, values, advantages, returns)


def update(networks, optimizers, episodes, minibatch, documents, pad, config):
    """One optimizer step: PPO's gradients and, added to the same buffers, the documents'.

    minibatch (M,) long: which episodes; documents: list of Sequences, empty for plain PPO. Each process takes its share
    of both; policy and value network may be wrapped by DDP. Returns the figures to log.
    """
    figures, device = dict(policy_loss=0.0, value_loss=0.0, clip_fraction=0.0), episodes.scores.device
    if documents:
        figures["ptx_loss"] = 0.0
        total = sum(len(s.tokens) - s.start for s in documents)  # tokens
        mine = distributed.shard(documents)
        with distributed.hold(networks.policy):  # these gradients are summed over the processes with PPO's, below
            for rows in data.micro_batches([len(s.tokens) for s in mine], config.max_tokens):
                responses = data.collate([mine[i] for i in rows], pad, device)
                logp = response_logps(networks.policy, responses)
                loss = ptx_loss(logp, responses.mask, config.ptx_coef, total)
                loss.backward()
                figures["ptx_loss"] += loss.item() / config.ptx_coef  # nats per token
    minibatch = minibatch.to(device)
    total = episodes.responses.mask[minibatch].sum()  # tokens
    mine = distributed.shard(minibatch)
    micro_batches = data.micro_batches(episodes.responses.lengths[mine].tolist(), config.max_tokens)
    for rows in distributed.accumulate(micro_batches, networks.policy, networks.value):
        part = episodes.select(mine[rows])  # its logp and values are those of when it was sampled: the old ones
        mask = part.responses.mask
        logp = response_logps(networks.policy, part.responses)
        loss = policy_loss(logp, part.logp, part.advantages, mask, config.clip, total)
        loss.backward()
        values = response_values(networks.value, part.responses)
        error = value_loss(values, part.values, part.returns, mask, config.value_clip, total)
        error.backward()
        figures["policy_loss"] += loss.item()
        figures["value_loss"] += error.item()
        outside = ((logp - part.logp).exp() - 1).abs() > config.clip
        figures["clip_fraction"] += masked_mean(outside, mask, total).item()
    for network, optimizer in zip((networks.policy, networks.value), optimizers):
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    ema_update(networks.ema, networks.policy, config.ema_decay)
    return dict(zip(figures, distributed.all_reduce(*figures.values())))


def statistics(episodes, config, eos):
    """Means over the batch that tell how it goes."""
    mask, targets = episodes.responses.mask, episodes.responses.targets
    kl = ((episodes.logp - episodes.ref_logp) * mask).sum(1).mean()  # nats per response

    def variance(x):
        return masked_mean((x - masked_mean(x, mask)) ** 2, mask)

    missed = variance(episodes.returns - episodes.values) / variance(episodes.returns).clamp(min=1e-8)
    row = {
        "score": episodes.scores.mean(),
        "kl": kl,
        "objective": episodes.scores.mean() - config.kl_coef * kl,
        "entropy": masked_mean(-episodes.logp, mask),  # nats per token, estimated on the samples
        "response_length": mask.sum(1).float().mean(),
        "ended": ((targets == eos) & mask).any(1).float().mean(),  # share of responses that end before the limit
        "explained_variance": 1 - missed,  # the value network's, of the returns
    }
    return {name: value.item() for name, value in row.items()}


def shown(episodes, count, tokenizer):
    """The first `count` episodes as rows for samples.jsonl: what a rising score rewards is best seen in the answers."""
    responses, names = episodes.responses, ("prompt", "response", "score", "kl")
    kl = ((episodes.logp - episodes.ref_logp) * responses.mask).sum(1)  # nats per response
    columns = responses.prompts(tokenizer), responses.texts(tokenizer), episodes.scores.tolist(), kl.tolist()
    return [dict(zip(names, row)) for row in itertools.islice(zip(*columns), count)]


def warn_of_a_short_run(config, steps):
    """The average forgets its start slowly: a run of so many steps may end before it has."""
    start = config.ema_decay**steps
    if start > 0.5:
        advice = f"a short run, {start:.0%} of its average will be the start; lower --ema_decay"
        distributed.say(f"{config.out}: {advice}")


def load_networks(config, tokenizer):
    """All five, in evaluation mode throughout: dropout would change the ratio at random, where nothing was learned."""
    policy = load_model(config.policy, GPT, tokenizer).eval()
    reward_model = load_model(config.reward_model, RewardModel, tokenizer).eval()
    reference, ema = (copy.deepcopy(policy).requires_grad_(False) for _ in range(2))
    value = copy.deepcopy(reward_model)
    networks = policy, reference, reward_model.requires_grad_(False), value, ema
    return Networks(*(place(network, config) for network in networks))


def load_data(config, tokenizer, networks):
    """Prompts as token lists, documents as Sequences."""
    n_ctx = min(networks.policy.config.n_ctx, networks.reward_model.config.n_ctx)
    prompts = records.load_prompts(config.prompts, tokenizer, n_ctx, config.max_response)
    if config.ptx_coef == 0:
        return prompts, []
    context = networks.policy.config.n_ctx
    length = config.document_tokens or context
    require(0 < length <= context, f"--document_tokens {length}: must lie between 1 and the context, {context}")
    return prompts, records.load_documents(config.documents, tokenizer, length)


def make_optimizers(networks, config):
    """Adam for the policy and for the value network, with the paper's betas."""
    rates = ((networks.policy, config.lr), (networks.value, config.value_lr))
    return [torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.95), fused=True) for model, lr in rates]


def endless(n, start, seed):
    """0 .. n - 1 in random order, again and again, each once before any comes twice; without the first `start`."""
    for cycle in itertools.count(start // n):
        yield from np.random.default_rng((*seed, cycle)).permutation(n)[start % n :]
        start = 0


if __name__ == "__main__":
    command(main)
