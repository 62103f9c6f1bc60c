"""Statistics of a file of rankings: counts, times, agreement between labelers; and its export in other formats."""

import math
from collections import Counter, defaultdict
from itertools import combinations, permutations
from statistics import fmean, median

from data import town
from minirlhf.model import RewardModel
from minirlhf.rollout import ranking_scores
from minirlhf.support.chats import ASSISTANT, HUMAN
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.errors import require
from minirlhf.support.files import write_lines
from minirlhf.support.marks import number
from minirlhf.support.records import encode_rankings, read
from minirlhf.support.statistics import interval, pair_hits

from .labels import FLAGS, beside

EXPORTS = ("trl", "hh")


def report(out, reward_model=None):
    """A text about a file of rankings. reward_model: a folder, to compare the labelers with."""
    rankings = [without_odd_fields(ranking) for ranking in read(out, "ranking")]
    written, skipped = (count(beside(out, what)) for what in ("demonstrations", "skipped"))
    by = Counter(ranking.get("labeler") for ranking in rankings)
    seconds = [ranking["seconds"] for ranking in rankings if "seconds" in ranking]
    lines = [f"{out}: {len(rankings)} rankings of {len({r['prompt'] for r in rankings})} prompts, by "
             + ", ".join(f"{name} {n}" for name, n in by.most_common(20)),
             f"{skipped} skipped; {written} better answers written"]  # fmt: skip
    if seconds:
        lines.append(f"a ranking took {median(seconds):.0f} seconds (median), all took {sum(seconds) / 60:.0f} min")
    if ratings := [rating for ranking in rankings for rating in ranking.get("ratings", [])]:
        flagged = Counter(flag for ranking in rankings for own in ranking.get("flags", []) for flag in own)
        shares = ", ".join(f"{flag} {100 * flagged[flag] / len(ratings):.0f} %" for flag in FLAGS if flagged[flag])
        lines.append(f"mean rating {fmean(ratings):.1f} of 7; flagged: {shares or 'nothing'}")
    same, others = repeats(rankings)
    lines += ["", "Agreement on pairs of answers, without ties:", row("a labeler with him- or herself", same)]
    lines += [row("two labelers", others), *with_the_town(rankings)]
    if reward_model:
        lines.append(row(f"labelers with {reward_model}", with_reward_model(rankings, reward_model)))
    return "\n".join(lines)


def without_odd_fields(ranking):
    """A ranking without optional fields of other types than label.py writes; a labeler's name becomes a text."""

    def is_list(value, of):
        return isinstance(value, list) and all(isinstance(each, of) for each in value)

    flags = ranking.get("flags")
    fits = {
        "seconds": isinstance(ranking.get("seconds"), (int, float)) and number(ranking["seconds"]) is not None,
        "ratings": is_list(ranking.get("ratings"), (int, float)) and None not in map(number, ranking["ratings"]),
        "flags": is_list(flags, list) and all(is_list(own, str) for own in flags),
    }
    kept = {name: value for name, value in ranking.items() if fits.get(name, True)}
    return kept | {"labeler": str(ranking.get("labeler"))}


def count(path):
    return sum(1 for line in open(path, "rb") if line.strip()) if path.exists() else 0


def alike(ranks, others):
    """(pairs in the same order, pairs), over the pairs that neither of two rankings ties. Rank 1 is best."""
    pairs = [(a, b) for a, b in combinations(range(len(ranks)), 2) if ranks[a] != ranks[b] and others[a] != others[b]]
    return sum((ranks[a] < ranks[b]) == (others[a] < others[b]) for a, b in pairs), len(pairs)


def repeats(rankings):
    """Rankings of the same answers, compared: [(prompt, same order, pairs)] by one labeler, and by two."""
    same, others, seen = [], [], defaultdict(list)
    for ranking in rankings:
        key = ranking["prompt"], tuple(sorted(ranking["responses"]))
        ranks = [rank for _, rank in sorted(zip(ranking["responses"], ranking["ranks"]))]
        for labeler, before in seen[key]:
            hits = same if labeler == ranking.get("labeler") else others
            hits.append((ranking["prompt"], *alike(ranks, before)))
        seen[key].append((ranking.get("labeler"), ranks))
    return same, others


def with_the_town(rankings):
    """A line about agreement with the town's labelers, for the town's prompts; no line if there are none: a list."""
    hits = []
    for ranking in rankings:
        if is_towns(ranking.get("about")):
            about = ranking["about"] | {"prompt": ranking["prompt"]}
            utilities = [town.mean_utility(town.judge(about, text), text) for text in ranking["responses"]]
            hits.append((ranking["prompt"], *alike(ranking["ranks"], [-utility for utility in utilities])))
    return [row("labelers with the mean of the town's labelers, without noise", hits)] if hits else []


def is_towns(about):
    """Whether a record has the fields that the town's judge needs."""
    try:
        return bool(town.judge(about, "a"))
    except (KeyError, TypeError, AttributeError):
        return False


def with_reward_model(rankings, folder):
    """[(prompt, same order, pairs)] of labelers and a reward model, for rankings that fit in its context."""
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, RewardModel, tokenizer)
    encoded = zip(rankings, encode_rankings(rankings, tokenizer, math.inf))
    kept = [(r["prompt"], ranking) for r, ranking in encoded if ranking.length <= model.config.n_ctx]
    scores = ranking_scores(model, [ranking for _, ranking in kept], tokenizer.pad) if kept else []
    hits = [(prompt, pair_hits(own, ranking.ranks)) for (prompt, ranking), own in zip(kept, scores)]
    return [(prompt, sum(own.values()), len(own)) for prompt, own in hits]


def row(name, hits):
    """A line about [(prompt, same order, pairs)], with a 95 % interval that resamples prompts."""
    hits = [hit for hit in hits if hit[2]]
    if not hits:
        return f"  {name}: no pair yet"
    prompts, right, pairs = zip(*hits)
    figure = interval(right, pairs, prompts)
    low, mean, high = (f"{100 * figure[part]:.1f}" for part in ("low", "mean", "high"))
    return f"  {name}: {mean} % ({low} to {high}) of {sum(pairs)} pairs on {figure['items']} prompts"


def export(out, form):
    """Writes all pairs of a better and a worse answer in a format of EXPORTS. Returns a line with the file's name."""
    pairs = []
    for ranking in read(out, "ranking"):
        texts, ranks = ranking["responses"], ranking["ranks"]
        for better, worse in permutations(range(len(ranks)), 2):
            if ranks[better] < ranks[worse]:
                pairs.append((ranking["prompt"], texts[better], texts[worse]))
    path = beside(out, form)
    if form == "trl":
        records = [{"prompt": prompt, "chosen": better, "rejected": worse} for prompt, better, worse in pairs]
    else:
        pairs = [as_transcript(*pair) for pair in pairs]
        records = [{"chosen": prompt + better, "rejected": prompt + worse} for prompt, better, worse in pairs]
    require(not path.exists(), f"{path}: is there already; remove it, or move it away")
    write_lines(path, records)
    return f"{path}: {len(pairs)} pairs"


def as_transcript(prompt, *answers):
    """A prompt and its answers as HH-RLHF writes them; a prompt that is not a transcript becomes its first turn."""
    if prompt.endswith(ASSISTANT):
        return prompt, *answers
    return f"{HUMAN} {prompt.strip()}{ASSISTANT}", *(f" {answer.strip()}" for answer in answers)
