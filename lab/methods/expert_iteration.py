"""Expert iteration, or rejection sampling and fine-tuning (Anthony et al. 2017; Dong et al. 2023, "RAFT"): the policy
answers each prompt K times, and is fine-tuned on the best of its answers, as in supervised fine-tuning.

python -m lab.methods.expert_iteration --policy runs/toy/rl_start --reward_model runs/toy/rm \\
    --prompts runs/toy/town/prompts_train.jsonl --out runs/expert_iteration \\
    --episodes 6400 --batch_size 128 --minibatch_size 32 --ema_decay 0.97 --max_response 26 --lr 1e-4 --kl_coef 0.1

As a policy gradient, but for the division by the length: the advantage is 1 for the best answer and 0 for the others.
With --kl_coef the reward has a KL penalty, so that the best answer is one that is still probable at the start.
"""

from dataclasses import dataclass

import torch

from minirlhf.losses import sft_loss
from minirlhf.support.config import command

from . import online


@dataclass(frozen=True, kw_only=True)
class Config(online.Config):
    kl_coef: float = 0.0  # beta, weight of the KL penalty in choosing

    def __post_init__(self):
        super().__post_init__()
        self.compare_answers()


def advantages(rewards, config=None):
    """1 for the best answer to the prompt, the first if several are, and 0 for the others.

    rewards (P, K) float. Returns them, and baselines of 0 (P, K).

    >>> advantages(torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 0.0]]))[0]
    tensor([[0., 1., 0.],
            [1., 0., 0.]])
    """
    best = torch.zeros_like(rewards)
    best[torch.arange(len(rewards)), rewards.argmax(1)] = 1
    return best, torch.zeros_like(rewards)


def loss(logp, episodes, config, total):
    return sft_loss(logp, episodes.responses.mask, total)


def main(config, reward=None):
    online.main(config, online.Method(advantages, loss, kl_in_reward=True, skips=True), reward)


if __name__ == "__main__":
    command(main, Config)
