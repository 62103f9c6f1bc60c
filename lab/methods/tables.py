"""The tables of docs/methods.md, from the figures of all seeds combined (lab/results.py)."""

from lab.shown import with_interval

from . import arms, details
from .arms import BEST
from .findings import SHOWN

PPO = "PPO"
DETAILS = ("true utility", "does what was asked", "KL", "RM score", "loss on pages above the start's")
LEFT_OUT = ("seconds", "per_second", "loss", "objective")
# Columns of the tables: what is shown of a figure "heading: method", and how.
COLUMNS = {
    "true utility": ("true utility", "+.3f", 1), "wins against SFT": ("wins against SFT, %", ".1f", 100),
    "does what was asked": ("follows, %", ".1f", 100), "true": ("true, %", ".1f", 100),
    "KL": ("KL, nats per answer", ".2f", 1), "RM score": ("RM score", "+.2f", 1),
    "loss on pages above the start's": ("pretraining loss above the start's", "+.3f", 1),
}  # fmt: skip


def of_methods(found):
    """What each method comes to with as many sampled answers."""
    f = found["methods"]
    names = ["start", PPO, "PPO-ptx", *(name for name in arms.ARMS if name != PPO), BEST]
    seconds = {name: f"{value:.0f}" for name, value in f["seconds of training"].items()}
    rows = [[name, *cells(f, name, PPO), seconds.get(name, "")] for name in names]
    return heading("seconds"), rows


def of_equal_flops(found):
    """The same of methods that sample more answers, for PPO's FLOPs."""
    names = [PPO, *(f"{name}, for PPO's FLOPs" for name in arms.COST if name != PPO)]
    answers = [arms.EPISODES, *(arms.at_ppos_flops(name) for name in arms.COST if name != PPO)]
    rows = [[name.removesuffix(", for PPO's FLOPs"), *cells(found["methods"], name, PPO), f"{n:,}"]
            for name, n in zip(names, answers)]  # fmt: skip
    return heading("answers"), rows


def of_settings(found):
    """The learning rates and betas that were tried, those that were chosen in bold type; and how far each
    method is above PPO at PPO's KL."""
    f, rows = found["methods"], []
    for name, (lr, price) in arms.CHOSEN.items():
        above = f.get(f"at PPO's KL: {name} minus PPO")
        rates, prices = arms.GRID[name]
        tried = [", ".join(f"**{each:g}**" if each == own else f"{each:g}" for each in values)
                 for own, values in ((lr, rates), (price, prices))]  # fmt: skip
        rows.append([name, *tried, with_interval(above, "+.3f") if above else ""])
    return ["method", "learning rates", "betas", "true utility at PPO's KL, minus PPO's"], rows


def of_details(found):
    """What each change of PPO does, and where one would see it first."""
    f, runs = found["details"], found["runs of details"]
    rows = [[f"`{name}`: {' '.join(change.__doc__.split())}", *cells(f, name, "nothing", DETAILS), symptom(runs, name)]
            for name, change in details.CHANGES.items() if name != "nothing"]  # fmt: skip
    rows = [["PPO as it is", *cells(f, "nothing", "nothing", DETAILS), ""], *rows]
    return ["change", *heading("seen first", DETAILS)[1:]], rows


def heading(last, shown=tuple(COLUMNS)):
    first, *others = (COLUMNS[what][0] for what in shown)
    return ["method", first, "minus PPO's", *others, last]


def cells(f, name, base, shown=tuple(COLUMNS)):
    """A method's figures. The first, and its difference from the base's, have their intervals."""
    difference = f.get(f"true utility: {name} minus {base}")
    found = [with_interval(difference, "+.3f") if difference else ""]
    for what in shown:
        _, form, scale = COLUMNS[what]
        value = f[f"{what}: {name}"]
        short = f"{scale * value['mean']:{form}}" if value else ""
        if (what, name) == ("KL", BEST):
            short = f"at most {short}"
        found.append(with_interval(value, form, scale=scale) if what == "true utility" else short)
    return [found[1], found[0], *found[2:]]


def symptom(runs, name):
    """The first iteration of SHOWN in which a column of the changed runs has only values beyond all of the unchanged
    runs, one of each seed; of several columns the one that is farthest, in widths of the unchanged runs' range. Losses
    and objective are left out: many changes are of these."""
    for i, iteration in enumerate(SHOWN):
        best = None
        for column, values in runs[0]["metrics"]["nothing"].items():
            if column.endswith(LEFT_OUT) or column in ("memory_gb", "lr", "value_lr"):
                continue
            usual = [run["metrics"]["nothing"][column][i] for run in runs]
            own = [run["metrics"][name].get(column, [None] * len(values))[i] for run in runs]
            if None in own or not (min(own) > max(usual) or max(own) < min(usual)):
                continue
            least = max(0.05 * max(map(abs, usual)), 1e-3)  # less is no width, and nothing to be seen
            difference = abs(sum(own) - sum(usual)) / len(runs)
            distance = difference / max(max(usual) - min(usual), least)
            if difference > least and (best is None or distance > best[0]):
                mine, theirs = (f"{sum(each) / len(runs):.2g}" for each in (own, usual))
                best = distance, f"`{column}` {mine}, not {theirs}, in iteration {iteration + 1}"
        if best:
            return best[1]
    return "nothing"


TABLES = {
    "methods": of_methods,
    "methods_flops": of_equal_flops,
    "methods_settings": of_settings,
    "details": of_details,
}
