"""RLOO, REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, "Back to Basics"): an answer
becomes more probable if it is better than the other answers to the same prompt.

python -m lab.methods.rloo --policy runs/toy/rl_start --reward_model runs/toy/rm \\
    --prompts runs/toy/town/prompts_train.jsonl --out runs/rloo \\
    --episodes 6400 --batch_size 64 --minibatch_size 64 --warmup 20 --ema_decay 0.94 --max_response 26 \\
    --lr 2e-4 --kl_coef 0.3
"""

from dataclasses import dataclass

from minirlhf.support.config import command

from . import online
from .reinforce import loss


@dataclass(frozen=True, kw_only=True)
class Config(online.Config):
    def __post_init__(self):
        super().__post_init__()
        self.compare_answers()


def advantages(rewards, config=None):
    """R - b. The baseline b is the mean reward of the other K - 1 answers to the prompt.

    rewards (P, K) float. Returns advantages and baselines (P, K).

    >>> import torch
    >>> advantages(torch.tensor([[1.0, 2.0, 6.0]]))[0]  # 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2
    tensor([[-3.0000, -1.5000,  4.5000]])
    """
    baselines = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - baselines, baselines


def main(config, reward=None):
    online.main(config, online.Method(advantages, loss, kl_in_reward=True), reward)


if __name__ == "__main__":
    command(main, Config)
