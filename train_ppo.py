"""Step 3 of InstructGPT: PPO and PPO-ptx (Ouyang et al. 2022, section 3.5, App. C.3, C.4).

    python train_ppo.py --policy runs/rl_start --reward_model runs/rm --prompts prompts.jsonl \\
        --documents web.jsonl --out runs/ppo_ptx        (--ptx_coef 0 and no documents: plain PPO)
    torchrun --nproc_per_node 8 train_ppo.py ...        (the same flags: batch sizes are global)

For a prompt x the policy pi samples one answer y, and the reward model gives it the score r(x, y).
The objective (eq. 2) is below. E is a mean, beta is --kl_coef, and gamma is --ptx_coef, the weight
of documents (not the discount):

    E_{x, y ~ pi} [r(x, y) - beta log(pi(y|x) / pi_ref(y|x))] + gamma E_{x ~ documents} [log pi(x)]

PPO acts per token: the state is the prompt and the answer so far, the action is the next token. An
episode ends with end-of-text or at --max_response tokens; the value after its end is 0. The reward
is the KL penalty at each token plus the score at the last one; the discount is 1. There is no
entropy bonus, beta is fixed, and neither rewards nor values are normalised.

There are four networks and an average: the policy; the reference, which is the frozen initial
policy; the frozen reward model; the value network, which starts as a copy of the reward model; and
the policy's running average, saved as model.pt. Our choice (the paper does not say): lambda,
whitened advantages, clipped value loss and gradients, means per token, and the policy's rate.
"""

import copy
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from minirlhf import losses, rollout
from minirlhf.data import Responses, collate
from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import in_chunks, response_logps, response_scores, response_values
from minirlhf.support import distributed, records, sampling, shown
from minirlhf.support.accumulation import micro_batches
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import command, require_fraction, require_multiple, require_positive
from minirlhf.support.cuda_graph import decode_by_graph
from minirlhf.support.device import pick_device, place
from minirlhf.support.errors import InputError
from minirlhf.support.optim import adam, scale_lr, take_step
from minirlhf.support.run import Run, RunConfig, start_run


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    policy: str  # SFT checkpoint (start of RL): initial policy, and the reference
    reward_model: str | None = None  # checkpoint, needed unless a function gives the reward; the
    # value network starts as its copy
    prompts: tuple[str, ...]  # files of prompts
    documents: tuple[str, ...] = ()  # files of pretraining documents, for PPO-ptx
    ptx_coef: float = 27.8  # gamma, weight of the pretraining loss (paper: 27.8); 0 is plain PPO
    documents_per_episode: float = 8.0  # pretraining sequences per episode (paper: 8)
    document_tokens: int | None = None  # tokens per document; default: the context (paper: 2048)
    episodes: int = 256_000  # prompts answered in all (paper: 256k)
    batch_size: int = 512  # episodes in an iteration (paper: 512)
    minibatch_size: int = 64  # episodes in an optimizer step (paper: 64)
    inner_epochs: int = 1  # passes over the episodes of an iteration (paper: 1)
    max_response: int = 512  # maximum tokens in a response (paper: 1k of a context of 2k)
    no_end_penalty: float | None = None  # a cut-off answer scores minus this, not what the RM says
    kl_coef: float = 0.02  # beta, weight of the per-token KL penalty (paper: 0.02)
    lr: float = 8.05e-6  # the policy's peak (paper: a sweep; plain PPO diverged at higher ones)
    value_lr: float = 9e-6  # the value network's learning rate, constant (paper: 9e-6)
    warmup: int = 10  # iterations over which the policy's lr rises from a tenth (paper: 10)
    clip: float = 0.2  # the ratio's clip range (paper: 0.2)
    value_clip: float = 0.2  # the value's clip range (ours)
    discount: float = 1.0  # factor per token on later rewards (paper: 1)
    gae_lambda: float = 0.95  # GAE's lambda (ours)
    ema_decay: float = 0.992  # decay of the averaged weights, saved as model.pt (paper: 0.992)
    rollout_batch_size: int = 128  # episodes that a process samples at once; more need more memory
    show: int = 8  # episodes of each iteration written to samples.jsonl and tokens.jsonl
    save_every: int = 50  # iterations between saved states; --resume continues from the newest
    graph: bool = False  # sample with CUDA graphs, which saves the time of kernel launches

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "lr", "value_lr", "warmup", "clip", "value_clip", "document_tokens")
        require_positive(self, "episodes", "max_response")
        require_positive(self, "inner_epochs", most=10_000)
        require_positive(self, "batch_size", "minibatch_size", "rollout_batch_size", most=10**6)
        require_fraction(self, "discount", "gae_lambda", "ema_decay")
        require_multiple(self, "episodes", "batch_size")
        require_multiple(self, "batch_size", "minibatch_size")
        given, n = self.documents_per_episode, self.minibatch_size
        whole = 1 <= round(n * given) <= 10**6 and abs(n * given - round(n * given)) < 1e-6
        if self.ptx_coef and not self.documents:
            raise InputError(f"--ptx_coef {self.ptx_coef} needs --documents; 0 is plain PPO")
        if self.ptx_coef and not whole:
            found = f"gives {n * given:g} for a minibatch of {n}; must be a whole number"
            raise InputError(f"--documents_per_episode {given}: {found}, at most 1,000,000")

    @property
    def documents_per_step(self):
        return round(self.minibatch_size * self.documents_per_episode) if self.ptx_coef else 0


class Networks(NamedTuple):
    policy: GPT
    reference: GPT
    reward_model: RewardModel
    value: RewardModel
    ema: GPT


class Episodes(NamedTuple):
    """What an iteration learns from. An episode is a prompt, the response to it token by token, and
    a score at its end. B episodes, R response tokens at most; (B, R) unless noted."""

    responses: Responses  # tokens (B, T): prompt and response; prompt_lengths (B,); mask (B, R)
    scores: torch.Tensor  # (B,) the reward model's
    logp: torch.Tensor  # of each token, by the policy that sampled it
    ref_logp: torch.Tensor  # of the same token, by the reference
    rewards: torch.Tensor  # of each token: the KL penalty, and at the last one the score, too
    values: torch.Tensor  # the value network's estimate, before each token, of all rewards to come
    advantages: torch.Tensor  # whitened
    returns: torch.Tensor  # targets of the value network: values + unwhitened advantages
    ratios: torch.Tensor  # of new to old probability, when the token was learned; 0 before

    def select(self, rows):
        """Episodes `rows` (list of ints or long tensor), without padding beyond the longest."""
        responses, scores, *per_token = self._replace(responses=self.responses.select(rows))
        R = responses.mask.shape[1]
        return Episodes(responses, scores[rows], *(x[rows, :R] for x in per_token))


def main(config, reward=None):
    """Runs step 3. reward: a function in place of the reward model (docs/own_reward.md). It takes
    two lists of B texts, prompts and responses, and returns B numbers."""
    if reward is None and config.reward_model is None:
        raise InputError("required: --reward_model (--help lists and explains every flag)")
    distributed.start(pick_device(config.device), config.timeout)
    distributed.require_divisible(config, "batch_size", "minibatch_size")
    if config.graph and pick_device(config.device) != "cuda":
        raise InputError("--graph needs a CUDA device; leave the flag out, or use --device cuda")
    tokenizer = load_tokenizer(config.policy)
    networks = load_networks(config, tokenizer)
    prompts, documents = load_data(config, tokenizer, networks)
    if start_run(config):
        train(config, networks, tokenizer, prompts, documents, reward)
    distributed.finish()


def train(config, networks, tokenizer, prompts, documents, reward=None):
    optimizers = make_optimizers(networks, config)
    parts = networks.policy, networks.value, networks.ema, *optimizers
    curves = dict(score="RM score", kl="KL to the reference (nats)", value_loss="value loss")
    run = Run(config, *parts, last_good=config.policy, **curves, ptx_loss="pretraining loss")
    policy, value = map(distributed.wrap, (networks.policy, networks.value))
    learners = networks._replace(policy=policy, value=value)
    iterations = config.episodes // config.batch_size
    updates = config.inner_epochs * config.batch_size // config.minibatch_size  # in an iteration
    run.warn_if_short(config.ema_decay, iterations * updates)
    documents_read = run.first * updates * config.documents_per_step
    # Seeds are tuples: the run's seed, the iteration (or 0), and a number for what is drawn.
    prompt_order = endless(len(prompts), run.first * config.batch_size, (config.seed, 0, 1))
    first = itertools.islice(endless(len(prompts), 0, (config.seed, 0, 1)), 8)
    watched, every = [prompts[i] for i in first], max(10, iterations // 20)
    document_order = endless(len(documents), documents_read, (config.seed, 0, 2))
    eos, pad = tokenizer.eos, tokenizer.pad
    decode = decode_by_graph if config.graph else sampling.decode
    options = dict(decode=decode, batch_size=config.rollout_batch_size)

    for iteration, _ in run.steps(range(iterations)):
        scale_lr(optimizers[0], losses.warmup_lr(iteration, config.warmup))
        again = [] if iteration % every else watch(networks, watched, config, tokenizer, reward)

        # 1. The policy answers (see rollout.sample) a batch of prompts, split over processes.
        batch = [prompts[next(prompt_order)] for _ in range(config.batch_size)]
        noise = rollout.uniforms((config.seed, iteration), len(batch), config.max_response)
        mine = distributed.shard(batch), distributed.shard(noise)
        responses, logp = rollout.generate(networks.policy, *mine, eos, pad, **options)

        # 2. Rewards come from the scores and from the log-probs of policy and reference; advantages
        #    come from rewards and value estimates. Advantages are whitened over the whole batch, so
        #    every process gathers all episodes.
        scores = function_scores(reward, responses, tokenizer) if reward else None
        episodes: Episodes = judge_episodes(networks, responses, logp, config, eos, scores)

        # 3. Policy and value network learn from random minibatches of episodes; in PPO-ptx the
        #    policy also learns from documents.
        metrics, rng = [], np.random.default_rng((config.seed, iteration, 3))
        for _ in range(config.inner_epochs):
            order = torch.from_numpy(rng.permutation(config.batch_size))
            for rows in order.split(config.minibatch_size):
                extra = [documents[next(document_order)] for _ in range(config.documents_per_step)]
                metrics.append(update(learners, optimizers, episodes, rows, extra, pad, config))

        row = {name: float(sum(each[name] for each in metrics)) / updates for name in metrics[0]}
        row = dict(zip(row, distributed.all_reduce(*row.values())))
        row |= episode_metrics(episodes, config, eos)
        row |= dict(episodes=(iteration + 1) * len(batch), episodes_per_second=run.rate(len(batch)))
        tokens = shown.token_rows(episodes, config.show, tokenizer) + again
        run.log(*shown.sample_rows(episodes, config.show, tokenizer), tokens=tokens, **row)

    run.save("policy.pt", networks.policy, tokenizer)
    run.save("value.pt", networks.value, tokenizer)
    run.save("model.pt", networks.ema, tokenizer)
    run.finish()  # draws curves.png


def judge_episodes(networks, responses, logp, config, eos, scores=None):
    """The Episodes of some responses: scores, KL-shaped rewards, advantages, returns. Each process
    brings the responses and log-probs that it sampled, and gets the Episodes of the whole batch.
    scores (one per response of this process): by default the reward model's."""
    if scores is None:
        scores = in_chunks(response_scores, networks.reward_model, responses, config.max_tokens)
    if config.no_end_penalty is not None:  # Huang et al. 2024, "N+ implementation details"
        scores = scores.where(responses.ended(eos), -config.no_end_penalty)
    ref_logp = in_chunks(response_logps, networks.reference, responses, config.max_tokens)
    values = in_chunks(response_values, networks.value, responses, config.max_tokens)
    scores, logp, ref_logp, values = map(distributed.all_gather, (scores, logp, ref_logp, values))
    responses = Responses(*map(distributed.all_gather, responses))
    mask, discount, lam = responses.mask, config.discount, config.gae_lambda
    rewards = losses.shaped_rewards(scores, logp, ref_logp, mask, config.kl_coef)
    advantages, returns = losses.gae(rewards, values, mask, discount, lam)
    advantages = losses.whiten(advantages, mask)
    learned = rewards, values, advantages, returns, torch.zeros_like(logp)
    return Episodes(responses, scores, logp, ref_logp, *learned)


def watch(networks, prompts, config, tokenizer, reward=None):
    """Rows for tokens.jsonl: prompts that are answered again and again, with the same noise."""
    noise = rollout.uniforms((config.seed, 0), len(prompts), config.max_response)
    y, logp = rollout.generate(networks.policy, prompts, noise, tokenizer.eos, tokenizer.pad)
    scores = function_scores(reward, y, tokenizer) if reward else None
    episodes = judge_episodes(networks, y, logp, config, tokenizer.eos, scores)
    own = episodes.select(list(range(0, len(episodes.scores), distributed.world_size())))
    return shown.token_rows(own, config.show, tokenizer, again=True)


def function_scores(reward, responses, tokenizer):
    """The scores (B,) that a reward function gives to the texts of responses."""
    prompts, texts = responses.prompts(tokenizer), responses.texts(tokenizer)
    scores = torch.as_tensor(reward(prompts, texts), dtype=torch.get_default_dtype())
    if scores.shape != (len(texts),) or not scores.isfinite().all():
        found = f"returned shape {tuple(scores.shape)}, {(~scores.isfinite()).sum()} not finite"
        raise InputError(f"reward: {found}; return a list of {len(texts)} finite numbers")
    return scores.to(responses.mask.device)


def update(learners, optimizers, episodes, rows, documents, pad, config):
    """One step of the policy and of the value network, and of the policy's running average.

    rows (M,) long: the minibatch's episodes; documents: list of Sequences, empty for plain PPO.
    Each process takes its share (networks may be in DDP), and returns its metrics, as tensors."""
    metrics = ppo_gradients(learners, episodes, rows.tolist(), config, not documents)
    if documents:
        metrics |= ptx_gradients(learners, documents, pad, config)
    for network, optimizer in zip((learners.policy, learners.value), optimizers):
        take_step(network, optimizer, config.max_grad_norm)
    losses.ema_update(learners.ema, learners.policy, config.ema_decay)
    return metrics


def ppo_gradients(learners, episodes, rows, config, sync_policy=True):
    """Backpropagates PPO's losses on some episodes (rows: list of ints) into policy and value
    network. sync_policy: the processes sum the policy's gradients here; if False, ptx_gradients
    does it later. Returns this process's part of the metrics."""
    metrics = dict(policy_loss=0.0, value_loss=0.0, clip_fraction=0.0)
    lengths = episodes.responses.lengths[rows].tolist()
    total = episodes.responses.mask[rows].sum()  # tokens, of all processes
    policy, value = learners.policy, learners.value
    episodes.ratios[rows] = 0  # each process fills in those of its share
    later = [] if sync_policy else [policy]
    for part in micro_batches(rows, lengths, config.max_tokens, policy, value, sync_later=later):
        old = episodes.select(part)  # its logp and values date from sampling
        mask = old.responses.mask
        logp = response_logps(policy, old.responses)
        loss = losses.policy_loss(logp, old.logp, old.advantages, mask, config.clip, total)
        loss.backward()
        metrics["policy_loss"] += loss.detach()
        values = response_values(value, old.responses)
        loss = losses.value_loss(values, old.values, old.returns, mask, config.value_clip, total)
        loss.backward()
        metrics["value_loss"] += loss.detach()
        ratio = (logp.detach() - old.logp).exp()
        episodes.ratios[part, : ratio.shape[1]] = ratio
        outside = (ratio - 1).abs() > config.clip
        metrics["clip_fraction"] += losses.masked_mean(outside, mask, total)
    return metrics


def ptx_gradients(learners, documents, pad, config):
    """Adds the documents' gradients to the policy's. Returns this process's part of the loss."""
    ptx_loss, device = 0.0, next(learners.policy.parameters()).device
    lengths = [s.length for s in documents]
    total = sum(s.length - s.start for s in documents)  # tokens, of all processes
    for part in micro_batches(documents, lengths, config.max_tokens, learners.policy):
        responses = collate(part, pad, device)
        logp = response_logps(learners.policy, responses)
        loss = losses.ptx_loss(logp, responses.mask, config.ptx_coef, total)
        loss.backward()
        ptx_loss += loss.detach() / config.ptx_coef
    return dict(ptx_loss=ptx_loss)


def episode_metrics(episodes, config, eos):
    """Metrics of a batch of episodes: means over episodes, or over tokens."""
    responses, scores, logp, ref_logp, _, values, _, returns, _ = episodes
    mask = responses.mask
    kl = ((logp - ref_logp) * mask).sum(1).mean()  # nats per response
    spread = losses.masked_variance(returns, mask).clamp(min=1e-8)
    row = {
        "score": scores.mean(),
        "kl": kl,
        "kl3": ((ref_logp - logp) * mask).clamp(max=20).expm1().sum(1).mean() + kl,  # k3, in GRPO
        "objective": scores.mean() - config.kl_coef * kl,
        "entropy": losses.masked_mean(-logp, mask),  # nats per token, estimated on the samples
        "response_length": mask.sum(1).float().mean(),
        "ended": responses.ended(eos).float().mean(),  # share with end-of-text
        "explained_variance": 1 - losses.masked_variance(returns - values, mask) / spread,
    }
    return {name: value.item() for name, value in row.items()}


def load_networks(config, tokenizer):
    """All networks, in evaluation mode throughout: dropout would change the ratio at random."""
    policy = load_model(config.policy, GPT, tokenizer).eval()
    reference, ema = (copy.deepcopy(policy).requires_grad_(False) for _ in range(2))
    torch.manual_seed(config.seed)  # for a new head
    new_head = not config.reward_model
    start = config.reward_model or config.policy
    value = load_model(start, RewardModel, tokenizer, new_head=new_head).eval()
    reward_model = None if new_head else copy.deepcopy(value).requires_grad_(False)
    networks = policy, reference, reward_model, value, ema
    return Networks(*(network and place(network, config) for network in networks))


def load_data(config, tokenizer, networks):
    """Prompts as token lists, documents as Sequences."""
    context = networks.policy.config.n_ctx
    n_ctx, length = min(context, networks.value.config.n_ctx), config.document_tokens or context
    prompts = records.load_prompts(config.prompts, tokenizer, n_ctx, config.max_response)
    if config.ptx_coef == 0:
        return prompts, []
    if length > context:
        raise InputError(f"--document_tokens {length}: must be at most the context, {context}")
    return prompts, records.load_documents(config.documents, tokenizer, length)


def make_optimizers(networks, config):
    """Adam for the policy and for the value network."""
    policy, value = networks.policy.parameters(), networks.value.parameters()
    return adam(policy, config.lr, config.shard), adam(value, config.value_lr, config.shard)


def endless(n, start, seed):
    """Yields 0 .. n - 1 in random order, endlessly, after skipping the first `start`."""
    for cycle in itertools.count(start // n):
        yield from np.random.default_rng((*seed, cycle)).permutation(n)[start % n :]
        start = 0


if __name__ == "__main__":
    command(main, Config)
