"""InstructGPT's pipeline, gpt -> sft -> rm -> ppo, for reproduce.py and for all of lab/ that trains models.

A stage is a training script and its settings, the fields of the script's Config.
"""

from pathlib import Path

import torch

import pretrain
import train_ppo
import train_rm
import train_sft
from minirlhf.model import GPT, RewardModel
from minirlhf.support.checkpoint import load_model, read_checkpoint
from minirlhf.support.errors import InputError, NotPermitted
from tools import select_sft

from .workers import at_once, cores, in_ranks

RANKS = 2  # processes of a training that has the machine to itself


class Pipeline:
    """out: folder of the runs; records: folder of the files that they read; recipe: {stage: settings}."""

    def __init__(self, out, records, recipe, tokenizer, seed=0):
        self.out, self.records, self.recipe, self.tokenizer, self.seed = out, records, recipe, tokenizer, seed

    def file(self, name):
        return f"{self.records}/{name}.jsonl"

    def gpt(self, **changes):
        """Pretraining on the web."""
        own = dict(tokenizer=self.tokenizer, data=self.file("web"), validation=self.file("web_held_out"))
        return pretrain, own | self.recipe["gpt"] | changes

    def sft(self, base, **changes):
        """Step 1, from a base model."""
        return train_sft, dict(init=base, data=self.file("demonstrations")) | self.recipe["sft"] | changes

    def rl_start(self, base, **changes):
        """The start of RL: step 1 with pretraining documents mixed in."""
        return self.sft(base, **{"documents": self.file("web")} | self.recipe["rl_start"] | changes)

    def rm(self, sft, **changes):
        """Step 2, from an SFT model."""
        own = dict(init=sft, data=self.file("rankings"), demonstrations=self.file("demonstrations"))
        return train_rm, own | self.recipe["rm"] | changes

    def select(self, sft, reward_model, **changes):
        """The epoch of an SFT run that the reward model scores highest."""
        own = dict(sft=sft, reward_model=reward_model, prompts=self.file("prompts_selection"))
        return select_sft, own | dict(max_response=self.recipe["ppo"]["max_response"]) | changes

    def ppo(self, start, reward_model, **changes):
        """Step 3, from a policy."""
        own = dict(policy=start, reward_model=reward_model)
        own |= dict(prompts=self.file("prompts_train"), documents=self.file("web"))
        return train_ppo, own | self.recipe["ppo"] | changes

    def train(self, stages):
        """Runs stages, {folder's name: stage}, in parallel, and returns {name: folder}. A finished run is kept, and a
        stopped one continues; the script refuses a folder of other settings."""
        folders = {name: f"{self.out}/{name}" for name in stages}
        calls = []
        for name, (script, settings) in stages.items():
            remove_unreadable(folders[name])
            resume = {} if script is select_sft else {"resume": True}
            settings = {"out": folders[name], "seed": self.seed} | settings | resume
            calls.append((script.main, script.Config(**settings)))
        if len(calls) > 1:
            at_once(*calls)
        elif min(cores(), torch.get_num_threads()) >= RANKS and script in (pretrain, train_rm):
            in_ranks(*calls[0], RANKS)
        else:
            script.main(calls[0][1])
        return folders


def remove_unreadable(folder):
    """Removes a finished model that cannot be read, so that it is trained again."""
    path = Path(folder) / "model.pt"
    if path.exists():
        try:
            load_model(path, {"gpt": GPT, "reward model": RewardModel}[read_checkpoint(path)["kind"]])
        except NotPermitted:
            raise
        except InputError as error:
            print(f"{error}; it is trained again", flush=True)
            path.unlink()
