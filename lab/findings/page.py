"""The page of all findings: the paper's claim, our figures beside it, a picture, and the verdict."""

import math
from collections import Counter
from html import escape
from pathlib import Path

from lab.shown import html_image, html_page, html_row, with_interval
from minirlhf.support.files import write_atomically

from .finding import verdict
from .pictures import display_name, is_figure

MARKS = {True: "holds", False: "does not hold", None: "open"}
STYLE = """section { border-top: 1px solid #8888; margin-top: 2rem }
h2 span, p > a { font-size: .8rem; font-weight: 600; border-radius: 1rem; padding: .15rem .6rem; color: #fff }
p > a { display: inline-block; margin: .1rem 0; text-decoration: none }
.reproduced { background: #2d7d5a } .not-reproduced { background: #b23a3a } .inconclusive { background: #8a6d1d }
.shown { background: #4d5a68 }"""


def write(out, results, run, flags=""):
    """Writes out/findings.html from results, [(Finding, {"figures", "seconds"})], of a run and its flags."""
    states = [verdict(list(finding.claims(result["figures"]))) for finding, result in results]
    total = ", ".join(f"{n} {state}" for state, n in sorted(Counter(states).items(), key=lambda pair: -pair[1]))
    links, cards = "", ""
    for (finding, result), state in zip(results, states):
        links += f'<a class="{state.replace(" ", "-")}" href="#{finding.name()}">{finding.name()}</a> '
        cards += card(out, finding, result, state, flags)
    page = f"""<p>{total}. A finding is reproduced if the 95 % interval of each of its claims lies entirely on the side
that is claimed, and not reproduced if one lies entirely on the other. This is {escape(run)}.</p>
<p>{links}</p>
{cards}"""
    write_atomically(Path(out) / "findings.html", html_page("InstructGPT's findings in the town", STYLE, page))


def card(out, finding, result, state, flags):
    """The section of one finding."""
    f, name = result["figures"], finding.name()
    claims = [(display_name(c.text), with_interval(c.value), bound(c.above, c.below), MARKS[c.holds])
              for c in finding.claims(f)]  # fmt: skip
    figures = [(display_name(key), with_interval(value)) for key, value in f.items() if is_figure(value)]
    examples = "".join(f"<p><b>{escape(asked)}</b><br>{escape(said)}" for asked, said in f.get("examples", []))
    remark = f"<br>Here: {escape(finding.remark)}." if finding.remark else ""
    return f"""<section id="{name}"><h2>{name} <span class="{state.replace(" ", "-")}">{state}</span></h2>
<p>{escape(finding.claim())}</p><p><small>Source: {escape(finding.paper)}.{remark}</small></p>
{html_image(f"{out}/{name}.png")}
<div class="wide"><table>{html_row(("claim", "ours, with its interval", "asked for", ""), "th")}
{"".join(map(html_row, claims))}</table></div>{examples}
<details><summary>All figures</summary>
<div class="wide"><table>{"".join(map(html_row, figures))}</table></div></details>
<p><small>{result["seconds"]:.1f} s with what was kept. Again: python -m lab.findings {name}{escape(flags)}</small></p>
</section>
"""


def bound(above=-math.inf, below=math.inf):
    """A claim's bounds in words."""
    if below == math.inf:
        return f"above {above:g}"
    return f"below {below:.3g}" if above == -math.inf else f"{above:g} to {below:g}"
