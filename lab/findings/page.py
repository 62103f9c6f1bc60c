"""The page of all findings: the paper's claim, our figures beside it, a picture, and the verdict."""

import base64
import html
import math
from collections import Counter
from pathlib import Path

from minirlhf.support.files import write_atomically

from . import pictures
from .finding import verdict


def write(out, results, run, flags=""):
    """Writes out/findings.html from results, [(Finding, {"figures", "seconds"})], of a run and its flags."""
    states = [verdict(list(finding.claims(result["figures"]))) for finding, result in results]
    total = ", ".join(f"{n} {state}" for state, n in sorted(Counter(states).items(), key=lambda pair: -pair[1]))
    links = "".join(LINK.format(name=finding.name(), style=state.replace(" ", "-"))
                    for (finding, _), state in zip(results, states))  # fmt: skip
    cards = "".join(card(out, *both, state, flags) for both, state in zip(results, states))
    page = PAGE.format(total=total, links=links, cards=cards, run=html.escape(run))
    write_atomically(Path(out) / "findings.html", page.encode())


def card(out, finding, result, state, flags):
    f, name = result["figures"], finding.name()
    lines = "".join(line(pictures.spoken(c.text), text(c.value), bound(c), MARKS[c.holds]) for c in finding.claims(f))
    rows = "".join(line(pictures.spoken(key), text(value)) for key, value in f.items() if pictures.is_figure(value))
    examples = "".join(f"<p><b>{html.escape(asked)}</b><br>{html.escape(said)}" for asked, said in finding.examples(f))
    picture = Path(out) / f"{name}.png"
    image = base64.b64encode(picture.read_bytes()).decode() if picture.exists() else ""
    shown = f'<img alt="{name}" src="data:image/png;base64,{image}">' if image else ""
    words = dict(claim=html.escape(finding.claim()), paper=html.escape(finding.paper), flags=html.escape(flags))
    words["remark"] = f"<br>Here: {html.escape(finding.remark)}." if finding.remark else ""
    return CARD.format(name=name, state=state, style=state.replace(" ", "-"), lines=lines, rows=rows, shown=shown,
                       examples=examples, seconds=result["seconds"], **words)  # fmt: skip


def text(value):
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def line(*cells):
    return "<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in cells)


def bound(claim):
    if claim.below == math.inf:
        return f"above {claim.above:g}"
    return f"below {claim.below:.3g}" if claim.above == -math.inf else f"{claim.above:g} to {claim.below:g}"


MARKS = {True: "holds", False: "does not hold", None: "open"}
LINK = '<a class="{style}" href="#{name}">{name}</a> '
CARD = """<section id="{name}"><h2>{name} <span class="{style}">{state}</span></h2>
<p>{claim}</p><p><small>Source: {paper}.{remark}</small></p>{shown}
<div class="wide"><table><tr><th>claim<th>ours, with its interval<th>asked for<th></tr>{lines}</table></div>{examples}
<details><summary>All figures</summary><div class="wide"><table>{rows}</table></div></details>
<p><small>{seconds:.1f} s with what was kept. Again: python -m lab.findings {name}{flags}</small></p></section>
"""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>InstructGPT's findings in the town</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
img {{ max-width: 100% }} section {{ border-top: 1px solid #8888; margin-top: 2rem }} small {{ opacity: .75 }}
table {{ border-collapse: collapse; font-size: .85rem }} .wide {{ overflow-x: auto }}
th, td {{ padding: .25rem .7rem .25rem 0; text-align: left; border-bottom: 1px solid #8884 }}
h2 span, p > a {{ font-size: .8rem; font-weight: 600; border-radius: 1rem; padding: .15rem .6rem; color: #fff }}
p > a {{ display: inline-block; margin: .1rem 0; text-decoration: none }}
.reproduced {{ background: #2d7d5a }} .not-reproduced {{ background: #b23a3a }} .inconclusive {{ background: #8a6d1d }}
</style>
<h1>InstructGPT's findings in the town</h1>
<p>{total}. A finding is reproduced where the 95 % interval of each of its claims lies wholly on the side that is asked
for, and not reproduced where one lies wholly on the other. This is {run}.</p>
<p>{links}</p>
{cards}
</html>
"""
