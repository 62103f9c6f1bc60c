"""GRPO with a verifier in place of the reward model (reinforcement learning with verifiable rewards, RLVR; Lambert et
al. 2024): the town's judge knows what is right, so the reward is 1 for a right answer and 0 for any other.

python -m lab.methods.verifier --policy runs/toy/rl_start --prompts runs/toy/town/prompts_train.jsonl \\
    --out runs/rlvr --episodes 6400 --batch_size 128 --minibatch_size 32 --ema_decay 0.97 --max_response 26 \\
    --lr 2e-4 --kl_coef 0.1

No people rank anything. What a right answer leaves open, such as how it is said, the verifier does not teach.
"""

from dataclasses import dataclass

from data import town
from minirlhf.support.config import command
from minirlhf.support.errors import require
from minirlhf.support.records import read

from . import grpo


@dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
    def __post_init__(self):
        super().__post_init__()
        require(self.reward_model is None, "--reward_model: the judge takes its place; leave the flag out")


def right(record, text):
    """Whether a text does all that a prompt asks for, and says nothing false, made up or insulting."""
    found = town.judge(record, text)
    return found.satisfies_constraints and found.truthful is not False and not found.made_up and not found.toxic


def verifier(paths):
    """A reward function, for main in train_ppo.py and in this folder, of prompts from the town's files `paths`."""
    about = {}
    for path in paths:
        for record in read(path, "prompt"):
            require(
                "kind" in record, f"{path}: {record['prompt']!r} is not the town's, so its judge cannot verify answers"
            )
            about[record["prompt"]] = record

    def reward(prompts, texts):
        return [float(right(about[prompt], text)) for prompt, text in zip(prompts, texts)]

    return reward


def main(config, reward=None):
    grpo.main(config, reward or verifier(config.prompts))


if __name__ == "__main__":
    command(main, Config)
