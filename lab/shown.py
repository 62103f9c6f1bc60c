"""How pages show models, figures and pictures: names and colours, intervals as text, and parts of HTML."""

import base64
import html
import math
from pathlib import Path

NAMES = {"gpt": "GPT", "gpt_prompted": "GPT, prompted", "sft": "SFT", "rl_start": "RL start", "ppo": "PPO",
         "ppo_ptx": "PPO-ptx"}  # fmt: skip
COLOURS = {"gpt": "#9aa5b1", "gpt_prompted": "#7b8794", "sft": "#3e4c59", "rl_start": "#647acb", "ppo": "#e8a33d",
           "ppo_ptx": "#d64545"}  # fmt: skip
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100% } .wide { overflow-x: auto } small { opacity: .75 }
table { border-collapse: collapse; font-size: .85rem }
th, td { padding: .3rem .65rem .3rem 0; text-align: left; border-bottom: 1px solid #8884 }"""


def html_page(title, style, body):
    """A page as bytes: STYLE and the page's own style, the title as its heading, and its body."""
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>
{STYLE}
{style}
</style>
<h1>{title}</h1>
{body}
</html>
""".encode()


def html_row(cells, tag="td"):
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def html_image(path):
    """A PNG file as an element; empty if there is no such file."""
    if not Path(path).exists():
        return ""
    encoded = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<img alt="{Path(path).stem}" src="data:image/png;base64,{encoded}">'


def with_interval(value, form=".3f", unit="", scale=1):
    """{"mean": 0.61, "low": 0.59, "high": 0.63} as "0.610 (0.590 to 0.630)", the unit after the mean;
    "unknown" where the mean is nan."""
    if math.isnan(value["mean"]):
        return "unknown"
    mean, low, high = (f"{scale * value[end]:{form}}" for end in ("mean", "low", "high"))
    return f"{mean}{unit} ({low} to {high})"


def percent(value):
    """The same as "61.0 % (59.0 to 63.0)"."""
    return with_interval(value, ".1f", " %", 100)


def whole_percent(value):
    """The same as "61 % (59 to 63)"."""
    return with_interval(value, ".0f", " %", 100)
