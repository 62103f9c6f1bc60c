"""The paper's formulas, and ours where it gives none: pure functions, except ema_update.

Symbols: x a prompt, y a response, y_t its token t; pi(y|x) the policy's probability; r(x, y) the
reward model's score. Shapes: B sequences, R response tokens, P prompts, K responses of a prompt.
`mask` is True on real response tokens (ones, then zeros). If the arguments are only a micro-batch,
`total` is the number of tokens, sequences or prompts in the whole batch: the losses of
micro-batches then add up to the loss of the batch. @shapes checks shapes.
"""

import math

import torch
import torch.nn.functional as F

from .support.shapes import shapes


def masked_mean(x, mask, total=None):
    """Mean of x (any shape) over mask, a bool of that shape."""
    return (x * mask).sum() / (mask.sum() if total is None else total)


def masked_variance(x, mask):
    """Variance of x (any shape) over mask, a bool of that shape: the mean squared distance."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


# --- supervised fine-tuning -----------------------------------------------------------------------


@shapes(logp="BR", mask="BR")
def sft_loss(logp, mask, total=None):
    """Negative log-likelihood in nats, averaged over each sequence's targets, then over sequences.

    Averaging by sequence first keeps long pretraining documents from outweighing demonstrations
    where both are in a batch. App. C.3 of the paper mixes them, and does not say with what weights.
    With rows of equal length, as in pretraining, it is the mean over tokens.

    logp (B, R) float: log-probs of the targets; mask (B, R) bool: True on targets. `total` counts
    sequences.
    """
    per_sequence = (logp * mask).sum(1) / mask.sum(1)
    return -per_sequence.sum() / (len(logp) if total is None else total)


def cosine_lr(step, steps, floor=0.1):
    """Factor of the peak learning rate: half a cosine from 1 to `floor` (App. C.1)."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps - 1)))


# --- reward model ---------------------------------------------------------------------------------


@shapes(scores="PK", ranks="PK")
def ranking_loss(scores, ranks, total=None):
    """Pairwise ranking loss over K responses (section 3.5, eq. 1), in nats.

        loss = - mean over prompts x of  1 / #pairs(x) * sum over pairs of
                   log sigmoid(r(x, y_w) - r(x, y_l)),         y_w ranked above y_l

    The sigmoid is the probability that y_w is preferred. #pairs is C(K, 2) minus the tied pairs;
    a prompt whose responses all tie does not count. All pairs of a prompt are in one batch
    element: each response costs one forward, however often it is compared.

    scores (P, K) float; ranks (P, K) long: 1 is best, 0 marks a missing response where K differs
    between prompts. `total` counts the prompts that have an untied pair.

    >>> scores, ranks = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([[1, 2, 2]])  # a tie
    >>> print(f"{ranking_loss(scores, ranks):.3f}")  # (log(1 + e^-2) + log(1 + e^-1)) / 2
    0.220
    """
    better = ranked_above(ranks)  # (P, K, K)
    margins = scores[:, :, None] - scores[:, None, :]
    pairs = better.sum((1, 2))
    per_prompt = -(F.logsigmoid(margins) * better).sum((1, 2)) / pairs.clamp(min=1)
    return per_prompt.sum() / ((pairs > 0).sum().clamp(min=1) if total is None else total)


def ranked_above(ranks):
    """(P, K, K) bool: response i is ranked above response j. ranks (P, K), 0 = missing."""
    present = ranks > 0
    return (ranks[:, :, None] < ranks[:, None, :]) & present[:, :, None] & present[:, None, :]


# --- reinforcement learning -----------------------------------------------------------------------


@shapes(scores="B", logp="BR", ref_logp="BR", mask="BR")
def shaped_rewards(scores, logp, ref_logp, mask, beta):
    """Per-token rewards: the KL penalty, and at the last token the score (section 3.5, eq. 2).

        r_t = -beta (log pi(y_t | x, y_<t) - log pi_ref(y_t | x, y_<t))  +  [t is last] r(x, y)

    Where a token is less probable than under the reference, the penalty is a bonus. This is needed:
    without the bonuses the expected sum over a response would not be the KL divergence.

    scores (B,) float; logp, ref_logp (B, R) float, of the sampled tokens; mask (B, R) bool. Returns
    (B, R), zero where mask is False.

    >>> logp = torch.tensor([[-1.0, -2.0, -1.0, -9.0]])
    >>> ref_logp = torch.tensor([[-2.0, -1.0, -1.0, -5.0]])
    >>> mask = torch.tensor([[True, True, True, False]])
    >>> shaped_rewards(torch.tensor([10.0]), logp, ref_logp, mask, beta=0.1)
    tensor([[-0.1000,  0.1000, 10.0000,  0.0000]])
    """
    last = torch.arange(mask.shape[1], device=mask.device) == mask.sum(1, keepdim=True) - 1
    return (-beta * (logp - ref_logp)) * mask + scores[:, None] * last


@shapes(rewards="BR", values="BR", mask="BR")
def gae(rewards, values, mask, discount=1.0, lam=0.95):
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

        delta_t = r_t + discount V_{t+1} - V_t
        A_t     = delta_t + discount lam A_{t+1}       V = A = 0 past the last token

    rewards (B, R) float; values (B, R) float: V before response token t is emitted; mask (B, R)
    bool. Returns advantages (B, R) and value targets A + V (B, R), both zero where mask is False.

    >>> rewards, mask = torch.tensor([[-0.1, 0.1, 10.0]]), torch.ones(1, 3, dtype=torch.bool)
    >>> gae(rewards, torch.zeros(1, 3), mask)[0]  # 10; 0.1 + 0.95 * 10; -0.1 + 0.95 * 9.6
    tensor([[ 9.0200,  9.6000, 10.0000]])
    """
    values, rewards = values * mask, rewards * mask
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + discount * next_value - values[:, t]
        next_advantage = delta + discount * lam * next_advantage
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


@shapes(x="BR", mask="BR")
def whiten(x, mask):
    """x (B, R) with mean 0 and std 1 over the mask (B, R) of the whole batch; zero elsewhere."""
    return (x - masked_mean(x, mask)) * torch.rsqrt(masked_variance(x, mask) + 1e-8) * mask


@shapes(logp="BR", old_logp="BR", advantages="BR", mask="BR")
def policy_loss(logp, old_logp, advantages, mask, clip=0.2, total=None):
    """PPO's clipped objective (Schulman et al. 2017, eq. 7), a mean over tokens.

        loss = - mean_t min(ratio_t A_t, clip(ratio_t, 1 - clip, 1 + clip) A_t)
        ratio_t = pi(y_t) / pi_old(y_t)

    Where the ratio has moved past the clip in the direction that the advantage favours, the
    gradient is zero. Where it has moved the other way, the gradient pulls it back.

    logp, old_logp, advantages (B, R) float; mask (B, R) bool. `total` counts tokens.
    """
    ratio = torch.exp((logp - old_logp) * mask)  # padding's ratio could be infinite
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -masked_mean(torch.minimum(ratio * advantages, clipped * advantages), mask, total)


@shapes(values="BR", old_values="BR", returns="BR", mask="BR")
def value_loss(values, old_values, returns, mask, clip=0.2, total=None):
    """Clipped squared error of the value network: half the mean over tokens of the larger of

        (V - return)^2   and   (V_old + clip(V - V_old, -clip, clip) - return)^2

    Not in the paper; from the code that it builds on (Ziegler et al. 2019). values, old_values,
    returns (B, R) float; these and clip are in the units of the score.
    """
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    error = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
    return 0.5 * masked_mean(error, mask, total)


@shapes(logp="BR", mask="BR")
def ptx_loss(logp, mask, coef, total=None):
    """PPO-ptx's pretraining term: the negative log-likelihood of documents (section 3.5, eq. 2).

        loss = - coef * mean_t log pi(token_t)

    The paper's coefficient is 27.8. Its effect depends on whether losses are sums or means,
    which the paper does not say. Here this loss and PPO's are both means per token.

    logp (B, R) float, mask (B, R) bool; `total` counts tokens.
    """
    return -coef * masked_mean(logp, mask, total)


def warmup_lr(iteration, warmup=10):
    """Factor of the policy's learning rate: linear from 0.1 to 1 at iteration `warmup` (C.4)."""
    return min(1.0, 0.1 + 0.9 * iteration / warmup)


@torch.no_grad()
def ema_update(ema, model, decay=0.992):
    """ema <- decay * ema + (1 - decay) * model, in place, once per optimizer step (App. C.4)."""
    for average, parameter in zip(ema.parameters(), model.parameters()):
        average.lerp_(parameter, 1 - decay)
