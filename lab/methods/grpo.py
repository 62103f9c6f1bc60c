"""GRPO, group relative policy optimization (Shao et al. 2024, "DeepSeekMath", section 4.1): PPO's clipped objective,
with the answers to the same prompt in place of a value network.

python -m lab.methods.grpo --policy runs/toy/rl_start --reward_model runs/toy/rm \\
    --prompts runs/toy/town/prompts_train.jsonl --out runs/grpo \\
    --episodes 6400 --batch_size 128 --minibatch_size 32 --ema_decay 0.97 --max_response 26 --lr 5e-5 --kl_coef 0.3
"""

from dataclasses import dataclass

import torch

from minirlhf.support.config import command, require_positive

from . import online


@dataclass(frozen=True, kw_only=True)
class Config(online.Config):
    clip: float = 0.2  # the ratio's clip range; while the minibatch is the batch, nothing is clipped
    kl_coef: float = 0.04  # beta, weight of the KL in the loss (Shao et al.: 0.04)
    divide: bool = True  # advantages by the spread of the answers' rewards (Liu et al. 2025 do not)

    def __post_init__(self):
        super().__post_init__()
        require_positive(self, "clip")
        self.compare_answers()


def advantages(rewards, config):
    """(r - mean) / std, over the K answers to the prompt (section 4.1.2), with K - 1 in the std. The mean has the
    answer's own reward in it, so r - mean is (K - 1) / K of RLOO's advantage. Divided, a prompt counts as much whether
    its answers' rewards differ by much or by little.

    rewards (P, K) float. Returns advantages and baselines (P, K).
    """
    baselines = rewards.mean(1, keepdim=True).expand_as(rewards)
    spread = rewards.std(1, keepdim=True) + 1e-4 if config.divide else 1.0  # answers of equal rewards have 0
    return (rewards - baselines) / spread, baselines


def k3(logp, ref_logp, mask):
    """An estimate of the KL at each token, the third of three by Schulman (2020) and never negative (Shao et al. 2024,
    eq. 4), in nats:

        pi_ref / pi - log(pi_ref / pi) - 1

    Its mean over tokens that the policy samples is the KL. The mean of its gradient is that of the KL with the two
    models exchanged, KL(pi_ref || pi).

    logp, ref_logp (B, R) float, mask (B, R) bool. Returns (B, R), 0 where mask is False.
    """
    log_ratio = (ref_logp - logp) * mask
    return log_ratio.exp() - log_ratio - 1


def grpo_loss(logp, old_logp, ref_logp, advantages, mask, clip=0.2, beta=0.04, total=None):
    """GRPO's loss (Shao et al. 2024, eq. 3).

        loss = - mean over answers of  1 / length * sum_t [ min(ratio_t A, clip(ratio_t) A) - beta k3_t ]

    logp, old_logp, ref_logp, advantages (B, R) float; mask (B, R) bool. total: the number of answers of which these B
    are a part, B unless given.
    """
    ratio = torch.exp((logp - old_logp) * mask)
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    per_token = (gain - beta * k3(logp, ref_logp, mask)) * mask
    per_answer = per_token.sum(1) / mask.sum(1)
    return -per_answer.sum() / (len(logp) if total is None else total)


def loss(logp, episodes, config, total):
    e, mask = episodes, episodes.responses.mask
    return grpo_loss(logp, e.logp, e.ref_logp, e.advantages, mask, config.clip, config.kl_coef, total)


def main(config, reward=None):
    online.main(config, online.Method(advantages, loss, kl_in_reward=False), reward)


if __name__ == "__main__":
    command(main, Config)
