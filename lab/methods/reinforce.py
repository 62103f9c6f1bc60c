"""REINFORCE with a baseline (Williams 1992): an answer becomes more probable if it is better than others.

python -m lab.methods.reinforce --policy runs/toy/rl_start --reward_model runs/toy/rm \\
    --prompts runs/toy/town/prompts_train.jsonl --out runs/reinforce \\
    --episodes 6400 --batch_size 64 --minibatch_size 64 --warmup 20 --ema_decay 0.94 --max_response 26 \\
    --lr 2e-4 --kl_coef 0.3
"""

from dataclasses import dataclass

from minirlhf.support.config import command
from minirlhf.support.errors import require

from . import online


@dataclass(frozen=True, kw_only=True)
class Config(online.Config):
    samples: int = 1  # K, answers to each prompt of a batch

    def __post_init__(self):
        super().__post_init__()
        require(
            self.batch_size >= 2, f"--batch_size {self.batch_size}: the baseline is the other answers' mean; take 2"
        )


def advantages(rewards, config=None):
    """R - b. The baseline b is the mean reward of all other answers in the batch, to whatever prompt. An answer's own
    reward is not in it: then the gradient stays unbiased.

    rewards (P, K) float. Returns advantages and baselines (P, K).

    >>> import torch
    >>> advantages(torch.tensor([[1.0], [2.0], [6.0]]))[0].flatten()  # 1 - (2 + 6) / 2, and so on
    tensor([-3.0000, -1.5000,  4.5000])
    """
    baselines = (rewards.sum() - rewards) / (rewards.numel() - 1)
    return rewards - baselines, baselines


def reinforce_loss(logp, advantages, mask, total=None):
    """The loss whose gradient is minus the policy gradient's estimate (Williams 1992, Theorem 1), if the answers were
    sampled by the policy as it is now:

        loss = - mean over answers of (R - b) * sum_t log pi(y_t | x, y_<t)

    A long answer has more terms than a short one. Dividing by its length would make the estimate another one.

    logp, advantages (B, R) float, the latter the same at each token; mask (B, R) bool. total: the number of answers of
    which these B are a part, B unless given.
    """
    per_answer = (logp * advantages * mask).sum(1)
    return -per_answer.sum() / (len(logp) if total is None else total)


def loss(logp, episodes, config, total):
    return reinforce_loss(logp, episodes.advantages, episodes.responses.mask, total)


def main(config, reward=None):
    online.main(config, online.Method(advantages, loss, kl_in_reward=True), reward)


if __name__ == "__main__":
    command(main, Config)
