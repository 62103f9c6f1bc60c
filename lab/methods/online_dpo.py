"""Online DPO (Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback"): the policy answers each
prompt, the reward model picks the best and the worst answer, and the policy learns from this pair as in DPO.

python -m lab.methods.online_dpo --policy runs/toy/rl_start --reward_model runs/toy/rm \\
    --prompts runs/toy/town/prompts_train.jsonl --out runs/online_dpo \\
    --episodes 6400 --batch_size 64 --minibatch_size 64 --warmup 20 --ema_decay 0.94 --max_response 26 \\
    --lr 2e-4 --kl_coef 1
"""

from dataclasses import dataclass

import torch

from minirlhf.support.config import command

from . import online
from .dpo import dpo_loss


@dataclass(frozen=True, kw_only=True)
class Config(online.Config):
    samples: int = 2  # K, answers to each prompt of a batch (Guo et al.: 2)
    kl_coef: float = 0.1  # beta of the DPO loss

    def __post_init__(self):
        super().__post_init__()
        self.compare_answers()


def advantages(rewards, config=None):
    """1 for the best answer to the prompt, -1 for the worst, 0 for the others, and for all if they tie.

    rewards (P, K) float. Returns them, and baselines of 0 (P, K).

    >>> advantages(torch.tensor([[0.5, 2.0, 1.0], [1.0, 1.0, 1.0]]))[0]
    tensor([[-1.,  1.,  0.],
            [ 0.,  0.,  0.]])
    """
    signs, prompts = torch.zeros_like(rewards), torch.arange(len(rewards))
    signs[prompts, rewards.argmin(1)] = -1
    signs[prompts, rewards.argmax(1)] = 1
    return signs * (rewards.amax(1, keepdim=True) > rewards.amin(1, keepdim=True)), torch.zeros_like(rewards)


def loss(logp, episodes, config, total):
    """The DPO loss of the pairs: `total` answers are half as many pairs. Of each prompt the best and the worst answer
    are here, and no other (skips), in the order of the prompts."""
    mask, best = episodes.responses.mask, episodes.advantages[:, :1].flatten() > 0
    own, ref = (logp * mask).sum(1), (episodes.ref_logp * mask).sum(1)
    return dpo_loss(own[best], own[~best], ref[best], ref[~best], config.kl_coef, total=total / 2)


def main(config, reward=None):
    online.main(config, online.Method(advantages, loss, kl_in_reward=False, skips=True), reward)


if __name__ == "__main__":
    command(main, Config)
