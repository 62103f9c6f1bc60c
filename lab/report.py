"""What reproduce.py shows: a table on the terminal, and report.html with its pictures."""

import html
from pathlib import Path

from minirlhf.support import curves, logs
from minirlhf.support.files import read_lines, write_atomically

from . import story
from .shown import COLOURS, NAMES, html_image, html_page, html_row, percent, with_interval

# column -> (heading, whether it is a share)
COLUMNS = {
    "win_rate_vs_sft": ("win rate vs SFT", True), "true_win_rate_vs_sft": ("without noise", True),
    "follows_instruction": ("follows", True), "truthful_informative": ("true", True),
    "toxic": ("toxic", True),
    "pretraining_loss": ("LM loss", False), "kl_to_reference": ("KL", False), "rm_score": ("RM score", False),
}  # fmt: skip

LEGEND = {
    "win rate vs SFT": "how often a labeler prefers this model's answer to the SFT model's; 50 % is even",
    "without noise": "the same by the mean taste of all labelers, which a study with people cannot know",
    "follows, toxic": "share of answers that do what was asked; that insult",
    "true": "share of questions about the world that are answered with the truth",
    "LM loss": "negative log-likelihood of held-out web pages, in nats per token; less is better: what pretraining "
    "taught, and RL may forget",
    "KL": "how far RL moved the policy (its running average) from its start, in nats per answer",
    "RM score": "the reward model's mean; demonstrations score 0",
    "GPT, prompted": "the base model, shown two good answers before the question",
    "RL start": "SFT with a tenth of web pages mixed in, from which PPO and PPO-ptx start",
}


def rows(results):
    """The table's cells: a heading row, then a row per model; intervals with the win rates only."""
    yield ["", *(heading for heading, _ in COLUMNS.values())]
    for name, figures in results["models"].items():
        cells = []
        for column, (_, share) in COLUMNS.items():
            value = figures[column]
            if value is None:
                cells.append("-")
            elif column == "win_rate_vs_sft":
                cells.append(percent(value))
            else:
                cells.append(f"{100 * value['mean']:.1f} %" if share else f"{value['mean']:.2f}")
        yield [NAMES[name], *cells]


def notes(results):
    """The figures that belong to no single model, a line each."""
    reward_model, memory = results["reward_model"], results["memory"]
    yield f"PPO-ptx against the RL start: {percent(results['models']['ppo_ptx']['win_rate_vs_rl_start'])}"
    for measure, heading in (("follows", "follows"), ("truthful_informative", "true")):
        for base in ("sft", "gpt"):
            points = with_interval(results["gains"][measure][f"ppo_ptx_above_{base}"], "+.1f", " points", 100)
            yield f"{heading}, PPO-ptx minus {NAMES[base]}: {points}, paired by prompt"
    for one, other in (("ppo", "rl_start"), ("ppo", "ppo_ptx"), ("ppo_ptx", "rl_start")):
        value = with_interval(results["pretraining_loss"][f"{one}_above_{other}"], "+.3f")
        yield f"Pretraining loss, {NAMES[one]} above {NAMES[other]}: {value} nats per token"
    yield f"The answer to the most similar demonstrated prompt follows in {percent(memory['most_similar'])}"
    yield f"... any of the same kind in {percent(memory['same_kind'])}"
    yield f"Reward model on held-out rankings: {percent(reward_model['accuracy'])} of pairs right"
    yield f"... among samples of one model: {percent(reward_model['accuracy_within_model'])}"
    yield f"Two labelers agree on {percent(reward_model['labeler_agreement'])} of pairs"
    yield f"Size {results['size']}, seed {results['seed']}, {results['seconds']['total']:.0f} seconds in all"


def table(results):
    """The results as text for a terminal."""
    cells = list(rows(results))
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join([r[0].ljust(widths[0]), *map(str.rjust, r[1:], widths[1:])]) for r in cells]
    return "\n".join(["", *lines, "", *notes(results), "", *(f"{k}: {v}" for k, v in LEGEND.items()), ""])


def write(out, results):
    """Writes out/report.html, and out/ladder.png and out/curves.png which it shows."""
    out = Path(out)
    for name, draw in {"ladder": lambda: draw_ladder(results), "curves": lambda: draw_curves(out)}.items():
        (out / f"{name}.png").unlink(missing_ok=True)
        with curves.optional_picture(out / f"{name}.png"):
            curves.save_figure(draw(), out / f"{name}.png")
    head, *body = rows(results)
    seconds = " · ".join(f"{name.replace('_', '-')} {value:.0f}" for name, value in results["seconds"].items())
    style = f""":root {{ color-scheme: light }} h3 {{ font-size: 1rem; margin: 1.6rem 0 .4rem }}
.figures th, .figures td {{ text-align: right; white-space: nowrap }}
.figures th:first-child, .figures td:first-child {{ text-align: left }}
{story.STYLE}"""
    page = f"""{story.tell(out, results)}
<h2>All models, measured</h2>
{html_image(out / "ladder.png")}
<div class="wide"><table class="figures">{html_row(head, "th")}{"".join(map(html_row, body))}</table></div>
<dl>{"".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in LEGEND.items())}</dl>
<ul>{"".join(f"<li>{html.escape(note)}</li>" for note in notes(results))}</ul>
<p><small>{results["models"]["ppo_ptx"]["win_rate_vs_sft"]["n"]} prompts of held-out users about held-out
things; one sample of each model; each pair judged by one held-out labeler, with noise, in random order, a tie counting
one half. Models of size {results["size"]}, seed {results["seed"]}.</small></p>
<h2>More prompts, answered by all</h2>
<p><small>The first test prompt of five use cases, not chosen; samples.jsonl has all of them.</small></p>
{samples_html(out)}
<h2>How it went</h2>
{html_image(out / "curves.png")}
<p><small>Seconds: {seconds}</small></p>"""
    write_atomically(out / "report.html", html_page("InstructGPT on the town", style, page))


def draw_ladder(results):
    """Win rates against SFT with their intervals: the paper's Figure 1 for one size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axis = figure.subplots()
    models = [name for name, figures in results["models"].items() if figures["win_rate_vs_sft"]]
    for x, name in enumerate(models):
        rate, true = (results["models"][name][column] for column in ("win_rate_vs_sft", "true_win_rate_vs_sft"))
        error = [[rate["mean"] - rate["low"]], [rate["high"] - rate["mean"]]]
        axis.errorbar(x, rate["mean"], error, fmt="o", color=COLOURS[name], markersize=9, capsize=5, linewidth=2)
        box = dict(facecolor="white", edgecolor="none", pad=1)  # over SFT's line
        text, place = f"{100 * rate['mean']:.0f} %", (x, rate["mean"])
        axis.annotate(text, place, (13, -4), textcoords="offset points", bbox=box)
        axis.plot(x, true["mean"], marker="_", color=COLOURS[name], markersize=16, alpha=0.7)
    axis.axhline(0.5, color="#3e4c59", linewidth=1, linestyle="--")
    axis.annotate("SFT", (-0.45, 0.5), (0, 4), textcoords="offset points", color="#3e4c59")
    axis.set_xticks(range(len(models)), [NAMES[name] for name in models])
    axis.set(xlim=(-0.5, len(models) - 0.3), ylim=(0, 1), ylabel="win rate against SFT")
    axis.set_title("Dots: held-out labelers, 95 % intervals. Dashes: all labelers, without their mistakes.", fontsize=9)
    axis.grid(axis="y", alpha=0.3)
    return figure


def draw_curves(out):
    """Six panels: the losses of pretraining, SFT and the reward model; RM score, KL and pretraining loss in RL."""
    panels = {}
    for name, title in {"gpt": "pretraining loss", "sft": "SFT loss", "rm": "ranking loss"}.items():
        rows = logs.read_metrics(out / name)
        panels[title] = {"training": logs.column(rows, "loss"), "validation": logs.column(rows, "validation_loss")}
    second = {"score": "RM score", "kl": "KL to the RL start (nats)", "ptx_loss": "loss on PPO-ptx's documents"}
    for column, title in second.items():
        rows = {name: logs.read_metrics(out / name) for name in ("ppo", "ppo_ptx")}
        panels[title] = {NAMES[name]: logs.column(own, column) for name, own in rows.items()}
    panels = {title: {label: points for label, points in lines.items() if points} for title, lines in panels.items()}
    colours = {"training": "#647acb", "validation": "#d64545"} | {NAMES[name]: COLOURS[name] for name in NAMES}
    return curves.draw_panels(panels, across=3, colours=colours)


def samples_html(out, use_cases=("generation", "open_qa", "brainstorming", "chat", "rewrite")):
    """The first test prompt of some use cases, answered by every model, side by side."""
    records = read_lines(out / "samples.jsonl")
    page = ""
    for use_case in use_cases:
        record = next((r for r in records if r["use_case"] == use_case), None)
        if record:
            page += f'<h3>{html.escape(record["prompt"].strip())}</h3><div class="cards">'
            for name in NAMES:
                answer = html.escape(record[name]) or "<i>(nothing)</i>"
                page += f'<div class="card"><b style="color:{COLOURS[name]}">{NAMES[name]}</b><p>{answer}</p></div>'
            page += "</div>"
    return page
