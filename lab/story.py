"""The first part of report.html, for a friend: one prompt answered by three models, the ladder in plain words, one
answer's tokens, and how an answer changed while PPO trained."""

import html
from pathlib import Path

from minirlhf.support.files import read_lines
from minirlhf.support.logs import read_metrics

from .shown import NAMES, with_interval

CARDS = {name: NAMES[name] for name in ("gpt", "sft", "ppo_ptx")}
STYLE = """.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: .6rem }
.card { background: #8882; border-radius: .4rem; padding: .5rem .8rem; overflow-wrap: anywhere }
.card p { margin: .2rem 0 }
.yes { color: #1d6b45 } .no { color: #a3341f }
.strip { display: flex; flex-wrap: wrap; gap: .15rem } .strip span { padding: .1rem .25rem; border-radius: .2rem }
.strip small { display: block; font-size: .7rem }"""


def tell(out, results):
    """HTML from a run's samples.jsonl, its results, and PPO's tokens.jsonl."""
    out = Path(out)
    parts = [cards(read_lines(out / "samples.jsonl")), in_words(results)]
    if rows := most_changed(watched(out / "ppo")):
        parts += [strip(rows[-1]), changes(rows)]
    return "\n".join(parts)


def cards(samples):
    """The first prompt that GPT fails at, PPO-ptx does not, and SFT answers otherwise; how often GPT alone fails."""
    wins = [r for r in samples if r["follows"]["ppo_ptx"] and not r["follows"]["gpt"]]
    losses = [r for r in samples if r["follows"]["gpt"] and not r["follows"]["ppo_ptx"]]
    chosen = next((r for r in wins if r["sft"] != r["ppo_ptx"]), samples[0])
    shown = ""
    for name, title in CARDS.items():
        right, score = chosen["follows"][name], chosen["rm_score"][name]
        answer = html.escape(chosen[name]) or "<i>(nothing)</i>"
        says = "does what was asked" if right else "does not do what was asked"
        shown += f'<div class="card"><b>{title}</b><p>{answer}</p>'
        shown += (
            f'<small><span class="{"yes" if right else "no"}">{says}</span>; reward model {score:+.1f}</small></div>'
        )
    share, other_way = (f"{100 * len(rows) / len(samples):.0f} of 100 prompts" for rows in (wins, losses))
    return f"""<h2>{html.escape(chosen["prompt"].strip())}</h2>
<div class="cards">{shown}</div>
<p><small>GPT has read pages of text. SFT was then trained on answers that people wrote. PPO-ptx was trained further by
reinforcement learning, on the scores of a reward model that has seen which answers people prefer. GPT fails and PPO-ptx
does not at {share}, the other way round at {other_way}. This is the first of the former that SFT and PPO-ptx do not
answer alike.</small></p>"""


def in_words(results):
    """The ladder in a sentence or two."""
    models = results["models"]

    def often(name):
        return with_interval(models[name]["win_rate_vs_sft"], ".0f", " times", 100)

    follows = {name: f"{100 * models[name]['follows_instruction']['mean']:.0f}" for name in CARDS}
    return f"""<p>Of a hundred pairs of answers to one prompt, people prefer PPO-ptx's to SFT's {often("ppo_ptx")}, and
GPT's to SFT's {often("gpt")}. Of a hundred prompts GPT does what was asked with {follows["gpt"]}, SFT with
{follows["sft"]}, and PPO-ptx with {follows["ppo_ptx"]}.</p>"""


def watched(run):
    """The rows of a PPO run's tokens.jsonl with prompts that were answered again and again."""
    return [row for row in read_metrics(run, "tokens.jsonl") if "again" in row]


def kl_of(row):
    """The KL of each token."""
    return [a - b for a, b in zip(row["logp"], row["ref_logp"])]


def most_changed(rows):
    """Those, over the iterations, of the prompt whose last answer is furthest from the start."""
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    prompt = max(last, key=lambda row: sum(kl_of(row)), default={}).get("prompt")
    return [row for row in rows if row["prompt"] == prompt]


def strip(row):
    """An answer's tokens, each coloured by its KL."""
    kl = kl_of(row)
    most, shown = max(0.3, *map(abs, kl)), ""
    for token, value in zip(row["tokens"], kl):
        text = html.escape("(end)" if token == "<|endoftext|>" else token.strip() or "\u21b5")
        colour = f"rgb({'217 111 0' if value > 0 else '36 104 200'} / {0.4 * min(1, abs(value) / most):.2f})"
        shown += f'<span style="background: {colour}">{text}<small>{value:+.2f}</small></span>'
    return f"""<h2>Where PPO changed an answer</h2>
<p>{html.escape(row["prompt"].strip())}</p>
<div class="strip">{shown}</div>
<p><small>Under each token stands the log of how many times more probable PPO has made it than its start did. The
sum, {sum(kl):.2f}, is the answer's KL; PPO pays for it. Of the prompts that PPO was asked again and again this is the
one with the most. <a href="inside.html">inside.html</a> shows them all, with every number that PPO learned from.
</small></p>"""


def changes(rows):
    """The answers to one prompt over the iterations."""
    lines, before = "", None
    for row in rows:
        text = "".join(token for token in row["tokens"] if token != "<|endoftext|>").strip() or "(nothing)"
        shown = "the same" if text == before else html.escape(text)
        lines += f"<tr><td>{row['step']}</td><td>{shown}</td><td>{row['score']:+.2f}</td></tr>"
        before = text
    return f"""<p>The same prompt during the training, always with the same random numbers:</p>
<div class="wide"><table><tr><th>iteration</th><th>answer</th><th>score</th></tr>{lines}</table></div>
<p><small>What happens without the penalty? Train PPO with <code>--kl_coef 0</code>, as docs/exercises.md does, and look
at its samples.jsonl.</small></p>"""
