"""Cross-validates a reward model on your own rankings: is it better than chance, and than two simple rules?

    python -m lab.cross_validation --pairs pairs.jsonl.gz --documents corpus.txt --out runs/folds

--pairs holds rankings in any format that data/README.md lists. Prompts with the same first human turn are in one fold,
so that no conversation is on both sides. For each fold a GPT is pretrained on the documents and the other folds'
preferred texts, fine-tuned on their preferred responses, trained as a reward model on their rankings, and measured on
the fold left out. Then PPO trains against the first fold's reward model, and held-out prompts are answered before and
after. After a stop, the same command continues.
"""

import random
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from minirlhf.model import GPT, RewardModel
from minirlhf.rollout import in_chunks, response_scores
from minirlhf.support import records
from minirlhf.support.chats import ASSISTANT
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.config import Text, command, require_positive
from minirlhf.support.errors import InputError, reraise
from minirlhf.support.files import write_json, write_lines
from minirlhf.support.folder import lock_output
from minirlhf.support.statistics import interval, pair_hits
from minirlhf.support.tokenizer import load
from tools import train_tokenizer
from tools.select_sft import sample_responses

from .evaluation import scores_of_rankings
from .pipeline import Pipeline
from .provenance import made_by
from .shown import with_interval


@dataclass(frozen=True)
class Config:
    pairs: str  # file of rankings, or pairs of chosen and rejected
    documents: tuple[str, ...]  # files of documents to pretrain on, besides the pairs' preferred texts
    out: str  # folder for everything the run makes
    tokenizer: str = "bpe"  # bpe: trained here on training folds; or gpt2, a folder, a ranks file
    vocab_size: int = 2048  # of bpe
    folds: int = 5  # parts that the pairs are split into
    run_folds: int = 5  # how many of them to measure; PPO follows on the first
    size: Text = "toy"  # of all models: nano, toy, small, gpt2, ...
    n_layer: int | None = None  # number of blocks, instead of the size's
    n_ctx: int = 640  # context in tokens; rankings that do not fit are dropped, and counted
    pretrain_epochs: int = 1  # passes over the documents
    sft_epochs: int = 1  # passes over the preferred responses
    rm_epochs: int = 1  # passes over the rankings
    lr: float = 1e-3  # peak learning rate of pretraining and SFT
    rm_lr: float = 5e-4  # peak learning rate of the reward model
    rm_batch: int = 16  # rankings in a step
    episodes: int = 1024  # of PPO
    max_response: int = 48  # tokens of a response in PPO
    seed: int = 0  # random seed

    def __post_init__(self):
        if self.folds < 2:
            raise InputError(f"--folds {self.folds}: 2 at least, one to train on and one to measure")
        if not 1 <= self.run_folds <= self.folds:
            raise InputError(f"--run_folds {self.run_folds}: from 1 to --folds {self.folds}")
        require_positive(self, "lr", "rm_lr")
        require_positive(self, "n_layer", "pretrain_epochs", "sft_epochs", "rm_epochs", most=10_000)
        require_positive(self, "rm_batch", most=1_000_000)
        if self.episodes <= 0 or self.episodes % 64:
            raise InputError(f"--episodes {self.episodes}: must be a multiple of 64, PPO's batch")
        if not 0 < self.max_response < self.n_ctx:
            raise InputError(f"--max_response {self.max_response}: must be above 0 and below --n_ctx {self.n_ctx}")

    @property
    def recipe(self):
        """{stage: settings}, for the pipeline; PPO's are for a run of 16 iterations."""
        own = dict(max_tokens=4096)
        return {
            "gpt": own | dict(size=self.size, n_layer=self.n_layer, n_ctx=self.n_ctx, dropout=0.0, validation=(),
                              epochs=self.pretrain_epochs, batch_size=8, lr=self.lr),
            "sft": own | dict(epochs=self.sft_epochs, lr=self.lr),
            "rm": own | dict(epochs=self.rm_epochs, lr=self.rm_lr, batch_size=self.rm_batch),
            "ppo": own | dict(ptx_coef=1.0, documents_per_episode=0.25, document_tokens=min(128, self.n_ctx),
                              episodes=self.episodes, batch_size=64, minibatch_size=16, lr=2e-4, value_lr=3e-4,
                              max_response=self.max_response, warmup=2, ema_decay=0.9),
        }  # fmt: skip


def main(config):
    pairs = records.read(config.pairs, "ranking")
    documents = [r for path in config.documents for r in records.read(path, "document")]
    folds = split(pairs, config.folds, config.seed)
    if not all(folds):
        raise InputError(f"--folds {config.folds}: {config.pairs} has fewer first human turns; take less")
    with reraise('lab/cross_validation.py compares with scikit-learn: pip install "minirlhf[baselines]"'):
        import sklearn  # noqa: F401
    fixed = ("pairs", "documents", "folds", "seed")  # stages that depend on other flags check them in their folders
    lock_output(config, ignore=[field for field in vars(config) if field not in fixed])
    parts = []
    for number, held_out in enumerate(folds[: config.run_folds]):  # all input is checked before any training
        folder, train = f"{config.out}/fold-{number}", [r for fold in folds if fold is not held_out for r in fold]
        tokenizer, kept = prepare_fold(config, folder, held_out, train, documents)
        with reraise(f"{config.pairs}: too little for the comparison with word counts; give more rankings"):
            parts.append((folder, tokenizer, kept, bag_of_words(train, kept)))
    outcomes = {"reward model": [], "the shorter wins": [], "bag of words": []}
    for number, (folder, tokenizer, kept, by_words) in enumerate(parts):
        train_fold(config, folder, tokenizer)
        lengths = [[-len(y) for y in r["responses"]] for r in kept]
        for own, scores in zip(outcomes.values(), (scores_of_rankings(f"{folder}/rm", kept), lengths, by_words)):
            own += accuracy(kept, scores)
        print(f"fold {number}: " + ", ".join(f"{name} {np.mean(o):.3f}" for name, o in outcomes.items()), flush=True)
    measured = len(outcomes["reward model"])
    dropped = sum(map(len, folds[: config.run_folds])) - measured
    results = {"accuracy": {name: interval(values) for name, values in outcomes.items()}}
    own = np.array(outcomes.pop("reward model"))
    results["reward_model_minus"] = {rule: interval(own - other) for rule, other in outcomes.items()}  # paired
    results |= {"pairs_dropped": dropped, "pairs": measured, "made by": made_by()}
    write_json(f"{config.out}/folds.json", results)
    results["ppo"] = run_ppo(config, f"{config.out}/fold-0", folds[0])
    write_json(f"{config.out}/folds.json", results)
    print(f"dropped {dropped} of {dropped + measured} rankings, too long for --n_ctx {config.n_ctx}")
    for part, what in (("accuracy", "accuracy:"), ("reward_model_minus", "reward model minus"), ("ppo", "RM score")):
        for name, value in results[part].items():
            print(f"{what} {name}: {with_interval(value, '.3f' if part == 'accuracy' else '+.3f')}")


def split(records, count, seed):
    """Folds of about equal size; records whose prompts begin with the same human turn are in one fold."""
    groups = defaultdict(list)
    for record in records:
        groups[first_turn(record["prompt"])].append(record)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    folds = [[] for _ in range(count)]
    for key in order:
        min(folds, key=len).extend(groups[key])
    return folds


def first_turn(prompt):
    return prompt.split(ASSISTANT)[0].strip()


def best(record):
    return record["responses"][record["ranks"].index(min(record["ranks"]))]


def prepare_fold(config, folder, held_out, train, documents):
    """Writes the training folds as the scripts' files. Returns the tokenizer's name and the held-out ones that fit."""
    write_lines(f"{folder}/web.jsonl", [{"text": r["text"]} for r in documents]
                + [{"text": r["prompt"] + best(r)} for r in train])  # fmt: skip
    answered = [{"prompt": r["prompt"], "response": best(r)} for r in train if best(r)]
    write_lines(f"{folder}/demonstrations.jsonl", answered)
    write_lines(f"{folder}/rankings.jsonl", [{key: r[key] for key in ("prompt", "responses", "ranks")} for r in train])
    write_lines(f"{folder}/prompts_train.jsonl", [{"prompt": r["prompt"]} for r in train])
    source = config.tokenizer
    if source == "bpe":
        source = f"{folder}/tokenizer"
        flags = train_tokenizer.Config(data=(f"{folder}/web.jsonl",), out=source, vocab_size=config.vocab_size)
        train_tokenizer.main(flags)
    tokenizer, room = load(source), config.n_ctx - config.max_response
    for what, given in (("training", train), ("held-out", held_out)):
        lengths = [ranking.length for ranking in records.encode_rankings(given, tokenizer, np.inf)]
        kept = [r for r, length in zip(given, lengths) if length <= config.n_ctx]
        if not any(len(tokenizer.encode(r["prompt"])) <= room and best(r) and len(set(r["ranks"])) > 1 for r in kept):
            message = f"none of the {what} rankings of {folder} fits, with one answer above another"
            raise InputError(f"--n_ctx {config.n_ctx}: {message}; take a longer one, or give other --pairs")
    return source, kept


def train_fold(config, folder, tokenizer):
    """Pretraining, SFT and reward model on the training folds."""
    own = Pipeline(folder, folder, config.recipe, tokenizer, config.seed)
    own.train({"gpt": own.gpt()})
    own.train({"sft": own.sft(f"{folder}/gpt")})
    own.train({"rm": own.rm(f"{folder}/sft")})


def accuracy(records, scored):
    """For each record the share of its untied pairs that the scores order as the ranks do; tied scores count 0.5."""
    hits = [list(pair_hits(row, record["ranks"]).values()) for record, row in zip(records, scored)]
    return [float(np.mean(own)) if own else 0.5 for own in hits]


def bag_of_words(train, held_out):
    """Scores of each response by logistic regression on the differences of word counts of training pairs."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = CountVectorizer(min_df=2, binary=True).fit([y for r in train for y in r["responses"]])
    better, worse = zip(*((best(r), r["responses"][int(np.argmax(r["ranks"]))]) for r in train))
    difference = vectorizer.transform(better) - vectorizer.transform(worse)
    sign = np.where(np.arange(len(train)) % 2, 1, -1)
    model = LogisticRegression(C=0.02, max_iter=1000, fit_intercept=False)
    model.fit(difference.multiply(sign[:, None]).tocsr(), sign)
    return [model.decision_function(vectorizer.transform(r["responses"])).tolist() for r in held_out]


def run_ppo(config, folder, held_out):
    """PPO-ptx from the SFT model: the RM's score of answers to held-out prompts before and after, and the difference on
    the same prompts. Writes samples."""
    own = Pipeline(folder, folder, config.recipe, None, config.seed)
    own.train({"ppo": own.ppo(f"{folder}/sft", f"{folder}/rm")})
    tokenizer = load_tokenizer(f"{folder}/rm")
    reward_model = load_model(f"{folder}/rm", RewardModel, tokenizer).eval()
    room = reward_model.config.n_ctx - config.max_response
    kept, prompts = records.encode_prompts(held_out[:200], tokenizer, room, "held-out prompts")
    scores, texts = {}, [{"prompt": record["prompt"]} for record in kept]
    for name, source in (("before PPO", "sft"), ("after PPO", "ppo")):
        policy, values = load_model(f"{folder}/{source}", GPT, tokenizer), np.zeros(len(prompts))
        samples = sample_responses(policy, tokenizer, prompts, config.max_response, (config.seed, 11), batch_size=32)
        for part, responses in samples:
            values[part] = in_chunks(response_scores, reward_model, responses).numpy()
            for i, text in zip(part, responses.texts(tokenizer)):
                texts[i][name] = text
        scores[name] = values
    write_lines(f"{config.out}/samples.jsonl", texts)
    scores["after minus before"] = scores["after PPO"] - scores["before PPO"]
    return {name: interval(values) for name, values in scores.items()}


if __name__ == "__main__":
    command(main, Config)
