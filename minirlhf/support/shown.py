"""What train_ppo.py writes of the episodes that it shows: a line to read in samples.jsonl, and in tokens.jsonl the
numbers of each token."""

from .distributed import all_reduce

DIGITS = 4  # after the point


def sample_rows(episodes, count, tokenizer):
    """The first `count` Episodes as rows for samples.jsonl."""
    responses = episodes.responses
    kl = ((episodes.logp - episodes.ref_logp) * responses.mask).sum(1).tolist()  # nats per response
    texts = responses.prompts(tokenizer), responses.texts(tokenizer)
    rows = [*zip(*texts, episodes.scores.tolist(), kl)][:count]
    return [dict(prompt=x, response=y, score=r, kl=d) for x, y, r, d in rows]


def token_rows(episodes, count, tokenizer, again=False):
    """The first `count` Episodes as rows for tokens.jsonl: the prompt, the score, and lists with a value for each token
    of the response. again: they are prompts that are answered again and again, and not learned from; so they have no
    whitened advantages and no ratios. (Each process has the ratios of the tokens that it learned from.)"""
    responses, columns = episodes.responses, ("logp", "ref_logp", "reward", "value", "advantage")
    advantages = episodes.returns - episodes.values
    tensors = [episodes.logp, episodes.ref_logp, episodes.rewards, episodes.values, advantages]
    if not again:
        columns += "whitened", "ratio"
        shown = episodes.ratios[:count]
        tensors += [episodes.advantages, shown.new_tensor(all_reduce(*shown.flatten().tolist())).view(shown.shape)]
    rows = zip(responses.prompts(tokenizer), episodes.scores.tolist(), responses.mask.sum(1).tolist(),
               responses.targets.tolist(), *(x[:count].tolist() for x in tensors))  # fmt: skip
    found = []
    for prompt, score, n, ids, *values in rows:
        row = {"prompt": prompt, "score": round(score, DIGITS), "ids": ids[:n]}
        row["tokens"] = [tokenizer.decode([i]) for i in ids[:n]]
        row |= {name: [round(x, DIGITS) for x in own[:n]] for name, own in zip(columns, values)}
        found.append(row | ({"again": True} if again else {}))
    return found
