"""What reproduce.py shows for its minutes: a table on the terminal, and report.html with its pictures inside."""

import base64
import html
import io
import json
from pathlib import Path

from minirlhf.support import curves
from minirlhf.support.files import write_atomically

NAMES = {"gpt": "GPT", "gpt_prompted": "GPT, prompted", "sft": "SFT", "rl_start": "RL start", "ppo": "PPO",
         "ppo_ptx": "PPO-ptx"}  # fmt: skip
COLOURS = {"gpt": "#9aa5b1", "gpt_prompted": "#7b8794", "sft": "#3e4c59", "rl_start": "#647acb", "ppo": "#e8a33d",
           "ppo_ptx": "#d64545"}  # fmt: skip
# column -> (heading, whether it is a share)
COLUMNS = {
    "win_rate_vs_sft": ("win rate vs SFT", True), "true_win_rate_vs_sft": ("without noise", True),
    "follows_instruction": ("follows", True), "truthful_informative": ("true", True),
    "toxic": ("toxic", True),
    "pretraining_loss": ("LM loss", False), "kl_to_reference": ("KL", False), "rm_score": ("RM score", False),
}  # fmt: skip

LEGEND = {
    "win rate vs SFT": "how often a labeler prefers this model's answer to the SFT model's; 50 % is even",
    "without noise": "the same by the mean taste of all labelers, which no study with people can know",
    "follows, toxic": "share of answers that do what was asked; that insult",
    "true": "share of questions about the world that are answered, and rightly",
    "LM loss": "how unlikely held-out web pages are, in nats (units of natural logarithms) per token; less is better: "
    "what pretraining taught, and RL may forget",
    "KL": "how far RL moved the policy (its running average) from its start, in nats per answer",
    "RM score": "the reward model's mean; demonstrations score 0",
    "GPT, prompted": "the base model, shown two good answers before the question",
    "RL start": "SFT with a tenth of web pages mixed in, from which PPO and PPO-ptx start",
}


def figure_text(value, share, interval=True):
    """{"mean": 0.613, "low": 0.59, "high": 0.63} as "61.3 % (59.0 to 63.0)"; None as "-"."""
    if value is None:
        return "-"
    one = (lambda x: f"{100 * x:.1f}") if share else (lambda x: f"{x:.2f}")
    text = one(value["mean"]) + (" %" if share else "")
    return f"{text} ({one(value['low'])} to {one(value['high'])})" if interval else text


def rows(results):
    """The table's cells: a heading row, then a row per model; intervals with the win rates only."""
    yield ["", *(heading for heading, _ in COLUMNS.values())]
    for name, figures in results["models"].items():
        cells = [figure_text(figures[c], share, c == "win_rate_vs_sft") for c, (_, share) in COLUMNS.items()]
        yield [NAMES[name], *cells]


def notes(results):
    """The figures that are no model's own, a line each."""
    models, reward_model, tax = results["models"], results["reward_model"], results["pretraining_loss"]
    yield f"PPO-ptx against the RL start: {figure_text(models['ppo_ptx']['win_rate_vs_rl_start'], True)}"
    for measure, heading in (("follows", "follows"), ("truthful_informative", "true")):
        for name, what in (("ppo_ptx_above_sft", "PPO-ptx minus SFT"), ("ppo_ptx_above_gpt", "PPO-ptx minus GPT")):
            value = results["gains"][measure][name]
            points = " to ".join(f"{100 * value[end]:+.1f}" for end in ("low", "high"))
            yield f"{heading}, {what}: {100 * value['mean']:+.1f} points ({points}), paired by prompt"
    for name, what in (
        ("ppo_above_rl_start", "PPO above RL start"),
        ("ppo_above_ppo_ptx", "PPO above PPO-ptx"),
        ("ppo_ptx_above_rl_start", "PPO-ptx above RL start"),
    ):
        value = tax[name]
        interval = f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"
        yield f"Pretraining loss, {what}: {interval} nats per token"
    memory = results["memory"]
    yield f"A demonstration's answer, copied: one about the same thing follows in {figure_text(memory['lookup'], True)}"
    yield f"... any of the same kind in {figure_text(memory['same_kind'], True)}"
    yield f"Reward model on held-out rankings: {figure_text(reward_model['accuracy'], True)} of pairs right"
    yield f"... among samples of one model: {figure_text(reward_model['accuracy_within_model'], True)}"
    yield f"Two labelers agree on {figure_text(reward_model['labeler_agreement'], True)} of pairs"
    yield f"Size {results['size']}, seed {results['seed']}, {results['seconds']['total']:.0f} seconds in all"


def table(results):
    """The results as text for a terminal."""
    cells = list(rows(results))
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) for r in cells]
    return "\n".join(["", *lines, "", *notes(results), "", *(f"{k}: {v}" for k, v in LEGEND.items()), ""])


def write(out, results):
    """Writes out/report.html, and out/ladder.png and out/curves.png which it shows."""
    out, images = Path(out), {}
    for name, draw in {"ladder": lambda: draw_ladder(results), "curves": lambda: draw_curves(out)}.items():
        with curves.optional_picture(out / f"{name}.png"):
            buffer = io.BytesIO()
            draw().savefig(buffer, format="png", dpi=130)
            write_atomically(out / f"{name}.png", buffer.getvalue())
            encoded = base64.b64encode(buffer.getvalue()).decode()
            images[name] = f'<img alt="{name}" src="data:image/png;base64,{encoded}">'
    head, *body = rows(results)
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in body)
    page = PAGE.format(
        ladder=images.get("ladder", ""), curves=images.get("curves", ""), samples=samples_html(out),
        head="".join(f"<th>{html.escape(c)}</th>" for c in head), body=cells,
        size=results["size"], seed=results["seed"],
        notes="".join(f"<li>{html.escape(note)}</li>" for note in notes(results)),
        legend="".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in LEGEND.items()),
        seconds=seconds_html(results),
        n=results["models"]["ppo_ptx"]["win_rate_vs_sft"]["n"],
    )  # fmt: skip
    write_atomically(out / "report.html", page.encode())


def draw_ladder(results):
    """Win rates against SFT with their intervals: the paper's Figure 1 for one size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    axis = figure.subplots()
    models = {name: figures for name, figures in results["models"].items() if figures["win_rate_vs_sft"]}
    for x, (name, figures) in enumerate(models.items()):
        rate = figures["win_rate_vs_sft"]
        error = [[rate["mean"] - rate["low"]], [rate["high"] - rate["mean"]]]
        axis.errorbar(x, rate["mean"], error, fmt="o", color=COLOURS[name], markersize=9, capsize=5, linewidth=2)
        box = dict(facecolor="white", edgecolor="none", pad=1)  # over SFT's line
        percent = f"{100 * rate['mean']:.0f} %"
        axis.annotate(percent, (x, rate["mean"]), (13, -4), textcoords="offset points", bbox=box)
        true = figures["true_win_rate_vs_sft"]["mean"]
        axis.plot(x, true, marker="_", color=COLOURS[name], markersize=16, alpha=0.7)
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
        rows = curves.read_metrics(out / name)
        lines = {"training": curves.column(rows, "loss"), "validation": curves.column(rows, "validation_loss")}
        panels[title] = {label: points for label, points in lines.items() if points}
    second = {"score": "RM score", "kl": "KL to the RL start (nats)", "ptx_loss": "loss on PPO-ptx's documents"}
    for column, title in second.items():
        lines = {NAMES[name]: curves.column(curves.read_metrics(out / name), column) for name in ("ppo", "ppo_ptx")}
        panels[title] = {label: points for label, points in lines.items() if points}
    colours = {"training": "#647acb", "validation": "#d64545"} | {NAMES[name]: COLOURS[name] for name in NAMES}
    return curves.draw_panels(panels, across=3, colours=colours)


def samples_html(out, use_cases=("generation", "open_qa", "brainstorming", "chat", "rewrite")):
    """The first test prompt of some use cases, answered by every model, side by side."""
    records = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    blocks = []
    for use_case in use_cases:
        record = next((r for r in records if r["use_case"] == use_case), None)
        if record:
            answers = "".join(
                f'<div class="answer"><b style="color:{COLOURS[name]}">{NAMES[name]}</b>'
                f"<p>{html.escape(record[name]) or '<i>(nothing)</i>'}</p></div>"
                for name in NAMES
            )
            blocks.append(f'<h3>{html.escape(record["prompt"].strip())}</h3><div class="answers">{answers}</div>')
    return "".join(blocks)


def seconds_html(results):
    parts = (f"{name.replace('_', '-')} {seconds:.0f}" for name, seconds in results["seconds"].items())
    return " · ".join(parts)


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>InstructGPT on the town, {size}, seed {seed}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }} h1 {{ margin-bottom: 0 }} h3 {{ font-size: 1rem; margin: 1.6rem 0 .4rem }}
table {{ border-collapse: collapse; font-size: .85rem }} .wide {{ overflow-x: auto }}
th, td {{ padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #e4e7eb; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
.answers {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .6rem }}
.answer {{ background: #f5f7fa; border-radius: .4rem; padding: .5rem .8rem }} .answer p {{ margin: .2rem 0 }}
small {{ color: #616e7c }}
</style>
<h1>InstructGPT on the town</h1>
<p><small>{n} prompts of held-out users about held-out things; one sample of each model; each pair judged by one
held-out labeler, with his or her noise, in random order, a tie counting one half. Models of size {size}, seed
{seed}.</small></p>
{ladder}
<div class="wide"><table><tr>{head}</tr>{body}</table></div>
<dl>{legend}</dl>
<ul>{notes}</ul>
<h2>The same prompt, answered by all</h2>
<p><small>The first test prompt of five use cases, not chosen; samples.jsonl has all of them.</small></p>
{samples}
<h2>How it went</h2>
{curves}
<p><small>Seconds: {seconds}</small></p>
</html>
"""
