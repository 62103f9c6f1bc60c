"""What rankings are worth: how many there are, who agrees with whom; and the same rankings in other people's shapes."""

import math
import random
from collections import Counter, defaultdict
from itertools import combinations, permutations
from pathlib import Path
from statistics import fmean, median

from data import town
from minirlhf.model import RewardModel
from minirlhf.rollout import ranking_scores
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.files import write_lines
from minirlhf.support.formats import ASSISTANT, HUMAN
from minirlhf.support.records import encode_rankings, read
from minirlhf.support.statistics import interval, pair_hits

from .labels import FLAGS, beside

EXPORTS = ("trl", "hh")


def report(out, reward_model=None):
    """Lines to read, of a file of rankings."""
    rankings = read(out, "ranking")
    written, skipped = (count(beside(out, what)) for what in ("demonstrations", "skipped"))
    by = Counter(ranking.get("labeler") for ranking in rankings)
    seconds = [ranking["seconds"] for ranking in rankings if isinstance(ranking.get("seconds"), (int, float))]
    lines = [f"{out}: {len(rankings)} rankings of {len({r['prompt'] for r in rankings})} prompts, by "
             + ", ".join(f"{name} {n}" for name, n in by.most_common(20)),
             f"{skipped} skipped; {written} better answers written"]  # fmt: skip
    if seconds:
        lines.append(
            f"a ranking took {median(seconds):.0f} seconds (the median), all of them {sum(seconds) / 60:.0f} min"
        )
    if ratings := [rating for ranking in rankings for rating in ranking.get("ratings", [])]:
        flagged = Counter(flag for ranking in rankings for own in ranking.get("flags", []) for flag in own)
        shares = ", ".join(f"{flag} {100 * flagged[flag] / len(ratings):.0f} %" for flag in FLAGS if flagged[flag])
        lines.append(f"rated {fmean(ratings):.1f} of 7 on average; flagged: {shares or 'nothing'}")
    lines += ["", "How often two rankings order a pair of answers alike, of the pairs that neither ties:"]
    same, others = twice(rankings)
    lines += row("a labeler with him- or herself", same)
    lines += row("two labelers", others)
    lines += with_the_town(rankings)
    if reward_model:
        lines += row(f"labelers with {reward_model}", with_reward_model(rankings, reward_model))
    return "\n".join(lines)


def count(path):
    return sum(1 for line in open(path, "rb") if line.strip()) if path.exists() else 0


def alike(ranks, others):
    """(pairs ordered alike, pairs), of the pairs of answers that neither of two rankings ties. The less the better."""
    pairs = [(a, b) for a, b in combinations(range(len(ranks)), 2) if ranks[a] != ranks[b] and others[a] != others[b]]
    return sum((ranks[a] < ranks[b]) == (others[a] < others[b]) for a, b in pairs), len(pairs)


def twice(rankings):
    """[(prompt, alike, pairs)] of the same answers ranked twice by one labeler, and by two."""
    same, others, seen = [], [], defaultdict(list)
    for ranking in rankings:
        place = ranking["prompt"], tuple(sorted(ranking["responses"]))
        ranks = [rank for _, rank in sorted(zip(ranking["responses"], ranking["ranks"]))]
        for labeler, before in seen[place]:
            kind = same if labeler == ranking.get("labeler") else others
            kind.append((ranking["prompt"], *alike(ranks, before)))
        seen[place].append((ranking.get("labeler"), ranks))
    return same, others


def with_the_town(rankings):
    """Lines on agreement with the people of the town, where prompts are the town's."""
    own = [(r["prompt"], r["about"] | {"prompt": r["prompt"]}, r) for r in rankings if is_towns(r.get("about"))]
    if not own:
        return []
    pool = []
    for prompt, about, ranking in own:
        utilities = [town.mean_utility(town.judge(about, text), text) for text in ranking["responses"]]
        pool.append((prompt, *alike(ranking["ranks"], [-utility for utility in utilities])))
    lines, each = row("labelers with the town's pool, which does not err", pool), {}
    for labeler in town.LABELERS:
        rng = random.Random(labeler.name)
        ranked = [(prompt, town.rank(about, r["responses"], labeler, rng)["ranks"], r) for prompt, about, r in own]
        hits = [alike(r["ranks"], ranks) for _, ranks, r in ranked]
        each[labeler.name] = 100 * sum(hit for hit, _ in hits) / max(1, sum(n for _, n in hits))
    lines += ["  with each of the town's forty labelers, in per cent:"]
    names = [f"{name.removeprefix('labeler-')}: {share:.0f}" for name, share in each.items()]
    return lines + [f"    {'   '.join(names[i : i + 10])}" for i in range(0, len(names), 10)]


def is_towns(about):
    """Whether a record has what the town's judge needs."""
    try:
        return bool(town.judge(about, "a"))
    except (KeyError, TypeError, AttributeError):
        return False


def with_reward_model(rankings, folder):
    """Of the rankings that are short enough for the reward model."""
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, RewardModel, tokenizer)
    encoded = zip(rankings, encode_rankings(rankings, tokenizer, math.inf))
    kept = [(r["prompt"], ranking) for r, ranking in encoded if ranking.length <= model.config.n_ctx]
    if not kept:
        return []
    prompts, encoded = zip(*kept)
    scores = ranking_scores(model, encoded, tokenizer.pad)
    hits = [pair_hits(row, ranking.ranks) for ranking, row in zip(encoded, scores)]
    return [(prompt, sum(own.values()), len(own)) for prompt, own in zip(prompts, hits)]


def row(name, hits):
    """A line on [(prompt, alike, pairs)], with an interval that resamples prompts."""
    pairs = sum(n for _, _, n in hits)
    if not pairs:
        return [f"  {name}: no pair yet"]
    hits = [hit for hit in hits if hit[2]]
    prompts, right, n = zip(*hits)
    figure = interval(right, n, prompts)
    low, mean, high = (f"{100 * figure[part]:.1f}" for part in ("low", "mean", "high"))
    return [f"  {name}: {mean} % ({low} to {high}) of {pairs} pairs on {figure['items']} prompts"]


def export(out, shape):
    """Writes every pair of which one is better, and says where."""
    pairs = []
    for ranking in read(out, "ranking"):
        texts, ranks = ranking["responses"], ranking["ranks"]
        for better, worse in permutations(range(len(ranks)), 2):
            if ranks[better] < ranks[worse]:
                pairs.append((ranking["prompt"], texts[better], texts[worse]))
    path = Path(out).with_name(f"{Path(out).name.removesuffix('.jsonl')}-{shape}.jsonl")
    if shape == "trl":
        records = [{"prompt": prompt, "chosen": better, "rejected": worse} for prompt, better, worse in pairs]
    else:
        pairs = [as_transcript(*pair) for pair in pairs]
        records = [{"chosen": prompt + better, "rejected": prompt + worse} for prompt, better, worse in pairs]
    write_lines(path, records)
    return f"{path}: {len(pairs)} pairs"


def as_transcript(prompt, *answers):
    """A prompt that is none as the first turn of one."""
    if prompt.endswith(ASSISTANT):
        return prompt, *answers
    return f"{HUMAN} {prompt.strip()}{ASSISTANT}", *(f" {answer.strip()}" for answer in answers)
