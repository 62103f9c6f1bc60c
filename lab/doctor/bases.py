"""Where trials begin: the models and files of several small pipelines, which differ in seed, size, town and data."""

import random
from dataclasses import dataclass
from pathlib import Path

from lab import cross_validation, stages
from lab.pipeline import Pipeline
from minirlhf.support import records
from minirlhf.support.errors import require
from minirlhf.support.files import write_lines

from .cases import changed

HH = Path(__file__).parents[2].parent / "shared" / "data"  # HH-RLHF's comparisons, where somebody has put them
PAIRS, PLAYS = "hh_harmless_base_test.jsonl.gz", "tinyshakespeare.txt"
# What a stage reads besides, of the same kind and not trained on.
VALIDATION = {"gpt": "web_held_out", "sft": "demonstrations_validation", "rl_start": "demonstrations_validation",
              "rm": "rankings_validation"}  # fmt: skip


@dataclass(frozen=True)
class Town(stages.Config):
    """A run of reproduce.py up to the reward model, with some of the recipe changed."""

    changes: tuple = ()  # ((stage, {setting: value}), ...)

    @property
    def recipe(self):
        own = dict(super().recipe)
        for stage, settings in self.changes:
            own[stage] = own[stage] | settings
        return own

    def check(self):
        """InputError if there are no data."""

    def prepare(self):
        """Trains what trials begin with. Returns the Pipeline."""
        stages.run(self)
        return prepare_trials(self.pipeline)


def prepare_trials(own):
    """Writes the files that only trials read, and trains a reward model on shuffled ranks. A tenth of the rankings is
    for validation: the labelers are the same, so a fault of the file shows. Pretraining reads a quarter of the web."""
    rankings, rng = records.read(own.file("rankings"), "ranking"), random.Random(0)
    rng.shuffle(rankings)
    count = len(rankings) // 10
    write_lines(own.file("rankings_validation"), rankings[:count])
    write_lines(own.file("rankings_training"), rankings[count:])
    write_lines(own.file("rankings_shuffled"), changed(rankings[count:], "shuffled", 1, rng))
    documents = records.read(own.file("web"), "document")
    write_lines(own.file("web_part"), documents[: len(documents) // 4])
    own.train({"rm-shuffled": own.rm(f"{own.out}/sft", data=own.file("rankings_shuffled"))})
    return own


@dataclass(frozen=True)
class People:
    """Models of HH-RLHF's comparisons by people, which are harder than the town's: from pairs to a reward model."""

    out: str
    seed: int

    def check(self):
        for name in (PAIRS, PLAYS):
            require((HH / name).exists(), f"{HH}/{name}: no such file; leave people out (--base)")

    def prepare(self):
        files = dict(pairs=f"{HH}/{PAIRS}", documents=(f"{HH}/{PLAYS}",))
        sizes = dict(size="nano", n_ctx=256, vocab_size=1024, max_response=32, rm_batch=8)
        config, rng = cross_validation.Config(**files, **sizes, out=self.out, seed=self.seed), random.Random(self.seed)
        pairs = records.read(config.pairs, "ranking")
        pairs = [r for r in pairs if len(r["prompt"]) + max(map(len, r["responses"])) < 800]  # about 256 tokens
        held_out, *rest = cross_validation.split(pairs, 10, self.seed)
        train = [record for fold in rest for record in fold]
        (plays,) = records.read(config.documents[0], "document")
        speeches = plays["text"].split("\n\n")
        documents = [{"text": "\n\n".join(speeches[i : i + 5])} for i in range(0, len(speeches), 5)]
        tokenizer, kept = cross_validation.prepare_fold(config, self.out, held_out, train, documents)
        web, best = records.read(f"{self.out}/web.jsonl", "document"), cross_validation.best
        rng.shuffle(web)
        write_lines(f"{self.out}/web_held_out.jsonl", web[:100])
        write_lines(f"{self.out}/web.jsonl", web[100:])
        shown = [{"prompt": r["prompt"], "response": best(r)} for r in kept if best(r)]
        write_lines(f"{self.out}/demonstrations_validation.jsonl", shown)
        recipe = {name: own | dict(save_every=100) for name, own in config.recipe.items()}
        recipe["gpt"] |= dict(batch_size=4)
        recipe["sft"] |= dict(batch_size=16, epochs=2)
        recipe["rl_start"] = {}
        recipe["ppo"] |= dict(episodes=30 * 64, kl_coef=0.05)
        own = Pipeline(self.out, self.out, recipe, tokenizer, self.seed)
        own.train({"gpt": own.gpt()})
        own.train({"sft": own.sft(f"{self.out}/gpt"), "rl_start": own.rl_start(f"{self.out}/gpt")})
        own.train({"rm": own.rm(f"{self.out}/sft")})
        return prepare_trials(own)
