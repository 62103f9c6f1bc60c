"""The tables of README.md and docs/, from the figures of all seeds combined (results.py)."""

import statistics
from collections import Counter, defaultdict

from minirlhf.model import PRESETS, GPTConfig
from minirlhf.support.files import read_json
from minirlhf.support.statistics import exact

from .doctor import counts
from .doctor.cases import THREADS
from .findings.finding import verdict
from .findings.measuring import known
from .findings.page import MARKS, bound
from .methods import tables as methods
from .methods.findings import FINDINGS as METHODS
from .provenance import ROOT
from .shown import NAMES, percent, with_interval

GPT2_VOCABULARY = 50_257


def seeds_span(value, form, scale):
    """The lowest and the highest seed's."""
    return f"{scale * min(value['of each run']):{form}} to {scale * max(value['of each run']):{form}}"


def rows_of(heading, rows):
    lines = [heading, ["---"] * len(heading), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table_of_wins(found):
    models = found["toy"]["models"]
    rows = []
    for name, figures in models.items():
        if name != "sft":
            value = figures["win_rate_vs_sft"]
            rows.append([NAMES[name], with_interval(value, ".1f", scale=100), seeds_span(value, ".1f", 100)])
    value = models["ppo_ptx"]["win_rate_vs_rl_start"]
    rows.append(["PPO-ptx against RL start", with_interval(value, ".1f", scale=100), seeds_span(value, ".1f", 100)])
    return rows_of(["model", f"mean of {found['toy']['seeds']} seeds", "lowest and highest seed"], rows)


def table_of_others(found):
    toy = found["toy"]
    models, gains, tax, rm = toy["models"], toy["gains"], toy["pretraining_loss"], toy["reward_model"]
    shares = {
        "follows the instruction: {} (%)": [("follows_instruction", n) for n in NAMES],
        "true and informative: {} (%)": [("truthful_informative", n) for n in NAMES],
    }
    lines = [(text.format(NAMES[n]), models[n][key], ".1f", 100) for text, own in shares.items() for key, n in own]
    for text, key in (("follows", "follows"), ("true and informative", "truthful_informative")):
        for base in ("sft", "gpt"):
            gain = gains[key][f"ppo_ptx_above_{base}"]
            lines.append((f"{text}, PPO-ptx minus {NAMES[base]} (points)", gain, "+.1f", 100))
    for name in ("gpt", "sft", "rl_start", "ppo", "ppo_ptx"):
        lines.append((f"pretraining loss: {NAMES[name]} (nats per token)", models[name]["pretraining_loss"], ".3f", 1))
    for one, other in (("ppo", "rl_start"), ("ppo", "ppo_ptx"), ("ppo_ptx", "rl_start")):
        lines.append((f"pretraining loss, {NAMES[one]} minus {NAMES[other]}", tax[f"{one}_above_{other}"], "+.3f", 1))
    for key, text in (("accuracy", "reward model, held-out rankings (%)"),
                      ("accuracy_within_model", "the same, for pairs of answers by one model"),
                      ("labeler_agreement", "two labelers agree")):  # fmt: skip
        lines.append((text, rm[key], ".1f", 100))
    for key, text in (("most_similar", "follows, for the answer to the most similar demonstrated prompt (%)"),
                      ("same_kind", "follows, for the answer of any demonstration of the same kind (%)")):  # fmt: skip
        lines.append((text, toy["memory"][key], ".1f", 100))
    rows = [[text, with_interval(value, form, scale=scale), seeds_span(value, form, scale)]
            for text, value, form, scale in lines]  # fmt: skip
    return rows_of(["figure", f"mean of {toy['seeds']} seeds", "lowest and highest seed"], rows)


def table_of_models(found):
    """README's: what each model has learned from, and three figures of it, with the lowest and the highest seed."""
    learned = {
        "gpt": "pages of text",
        "gpt_prompted": "the same; two good answers stand before each prompt",
        "sft": "the pages, then 8,000 answers that people wrote",
        "rl_start": "the pages, then such answers mixed with pages; PPO starts here",
        "ppo": "the same, then scores of its own answers",
        "ppo_ptx": "as PPO, and more pages at the same time",
    }
    rows = []
    for name, text in learned.items():
        columns = ("win_rate_vs_sft", "follows_instruction", "truthful_informative")
        values = [found["toy"]["models"][name][column] for column in columns]
        cells = (f"{percent(v)}; {seeds_span(v, '.1f', 100)}" if v else "" for v in values)
        rows.append([NAMES[name], text, *cells])
    heading = ["model", "what it has learned from", "preferred to SFT (`win rate vs SFT`)",
               "does what was asked (`follows`)", "is right about the town (`true`)"]  # fmt: skip
    return rows_of(heading, rows)


def table_of_kinds(found):
    """How often each model follows each kind of prompt, the most frequent kind first."""
    kinds = sorted(found["toy"]["follows_by_kind"].items(), key=lambda pair: -pair[1]["sft"]["n"])
    rows = [
        [kind, f"{own['sft']['n']:,}", *(f"{100 * own[name]['mean']:.0f}" for name in NAMES)] for kind, own in kinds
    ]
    return rows_of(["kind of prompt", "prompts", *NAMES.values()], rows)


def verdicts(found):
    """{finding: (its claims, their verdict)} of the findings that are confirmed or refuted on all of their seeds."""
    claims = {name: list(finding().claims(found[name])) for name, finding in known().items() if name in found}
    return {name: (own, verdict(own)) for name, own in claims.items()}


def table_of_findings(found):
    """A row for each claim; a finding's name and verdict stand in its first."""
    rows = []
    for name, (claims, says) in verdicts(found).items():
        head = [f"`{name}`, {found[name]['seeds']} seeds: {says}"] + [""] * len(claims)
        rows += [[own, *cells_of(claim)] for own, claim in zip(head, claims)]
    return rows_of(["finding", "claim", "measured", "asked for", ""], rows)


def table_of_claims(name):
    """The claims of one of lab.methods' findings, each with what was measured."""

    def table(found):
        rows = [cells_of(claim) for claim in METHODS[name]().claims(found[name])]
        return rows_of(["claim", "measured", "asked for", ""], rows)

    return table


def cells_of(claim):
    return [claim.text, with_interval(claim.value), bound(claim.above, claim.below), MARKS[claim.holds]]


def table_of_sources(found):
    """What each finding was measured on, what the paper says of it, and what differs here."""
    rows = [[f"`{name}`", finding.paper, finding.sample, finding.remark] for name, finding in known().items()]
    return rows_of(["finding", "source", "measured on", "what to know"], rows)


def sentence_of_verdicts(found):
    """How many findings came out how."""
    says = Counter(state for _, state in verdicts(found).values() if state != "shown")
    claimed = [name for name, finding in known().items() if finding.hypotheses]
    missing = len(claimed) - sum(says.values())
    later = f" ({missing} more {be(missing)} not measured on all of their seeds yet.)" if missing else ""
    parts = [f"{says[state]} {be(says[state])} {state}" for state in ("reproduced", "not reproduced", "inconclusive")]
    return f"Of {sum(says.values())} findings {parts[0]}, {parts[1]}, and {parts[2]}.{later}\n"


def be(count):
    return "is" if count == 1 else "are"


def table_of_dropped(found):
    """Claims that were made once and are made no longer: written by hand, with the figures of an earlier town."""
    dropped = read_json(ROOT / "results" / "dropped.json")["dropped"]
    rows = [[f"`{one['finding']}`", one["claim"], one["figure"], one["why"]] for one in dropped]
    return rows_of(["finding", "claim", "its figure", "why it is no longer made"], rows)


def table_of_bench(part):
    """Speed on one kind of machine, by hand from the output of tools.bench."""

    def table(found):
        rows = [[one["what"], one["rate"], one["share"], one["against"]] for one in found["bench"][part]]
        return rows_of(["", "rate", "share", "against"], rows)

    return table


def table_of_bench_data(found):
    """Seconds and memory before the first step, medians over the rounds of tools.bench_data."""
    lines = defaultdict(list)
    for line in found["bench"]["data"]:
        lines[line["what"], line["way"]].append(line)
    rows = []
    for (what, way), own in lines.items():
        seconds, memory = (statistics.median(line[name] for line in own) for name in ("seconds", "gb"))
        rows.append([f"`{what}`", way, f"{seconds:.1f}", f"{memory:.2f}"])
    return rows_of(["", "from", "seconds to the first row", "GB"], rows)


def table_of_fits(found):
    """Gigabytes that training GPT-2's sizes takes, by docs/scaling.md's formulas, and the GPUs on which it fits."""
    rows = []
    for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"):
        config = GPTConfig(GPT2_VOCABULARY, **PRESETS[name])
        D, L, V, tokens = config.n_embd, config.n_layer, config.n_vocab, 2048
        parameters = parameters_of(config)
        learning = tokens * (4 * D * L + 68 * D + 12 * V)  # with --recompute
        sampling = 8 * 1024 * 8 * D * L - 8 * parameters  # when two networks have no gradients
        sft = 16 * parameters + learning
        ppo, ptx, shared = (each * parameters + max(learning, sampling) for each in (44, 52, 52 - 16 * 7 / 8))
        cells = [name, f"{parameters / 1e6:,.0f}M", *(f"{size / 1e9:.1f}" for size in (sft, ppo, ptx, shared))]
        for gpu in (8, 24, 80, 141):
            fits = [what for what, size in (("SFT", sft), ("PPO", ppo)) if size < gpu * 1e9]
            shard = "; PPO-ptx with `--shard`" if "PPO" in fits and ptx > gpu * 1e9 > shared else ""
            cells.append(", ".join(fits) + shard or "-")
        rows.append(cells)
    heading = ["", "parameters", "SFT, RM", "PPO", "PPO-ptx on several GPUs", "on eight with `--shard`"]
    return rows_of([*heading, "8 GB", "24 GB", "80 GB", "141 GB"], rows)


def table_of_doctor(found):
    """How often the diagnosis finds each disease in runs of the town's texts, how often it calls a healthy one ill
    (with the interval that independent runs would have), and how early it knows."""
    own = [one for one in found["doctor"]["evaluate"] if one["alike"]]
    rows = [[kind, disease, *cells(count, disease), ", ".join(count["faults"])]
            for (kind, disease), count in sorted(counts.of_diseases(own).items(), key=healthy_first)]  # fmt: skip
    one_or_none = [one for one in own if len(one["faults"]) == 1]
    for name, wanted in ((counts.HEALTHY, 0), ("what it has", 1)):
        count = counts.count([one for one in one_or_none if len(one["diseases"]) == wanted])
        rows.append(["all", name, *cells(count, name), "" if wanted else false_alarms(count)])
    return rows_of(["run", "it should say", "said so", "said instead", "known after", "what was put in"], rows)


def healthy_first(item):
    (kind, disease), _ = item
    return list(counts.KINDS.values()).index(kind), disease != counts.HEALTHY, disease


def false_alarms(own):
    """The share of healthy runs that are called ill, with its interval, in words."""
    ill, runs = own["runs"] - own["right"], own["runs"]
    low, high = exact(ill, runs)
    return f"false alarms: {100 * ill / runs:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def cells(own, disease):
    right, instead = f"{own['right']} of {own['runs']}", ", ".join(f"{name} ({n})" for name, n in own["instead"])
    if disease == counts.HEALTHY:
        return [right, instead, f"called ill at some time: {own['runs'] - own['no_alarm']}"]
    return [right, instead, "" if own["detected"] is None else f"{100 * own['detected']:.0f} % of the run"]


def table_of_doctors_bases(found):
    """The same by where the runs begin: in how many it was right, of how many."""
    own = found["doctor"]["evaluate"]
    others = [counts.judged(one | {"base": f"{one['base']}, by analogy", "alike": True}) for one in own
              if not one["alike"]]  # fmt: skip
    groups = counts.of_bases(own + others)
    rows = [[base, *(f"{own['right']} of {own['runs']}" for own in parts.values())] for base, parts in groups.items()]
    return rows_of(["models and data", "healthy: no fault named", "one fault: named", "two faults: one named"], rows)


def table_of_threads(found):
    """Public questions, runs that were made to look like them, and what is said of these."""
    trials = found["doctor"]["threads"]
    rows = [[f"[{one.link.split('/')[-3]} #{one.link.split('/')[-1]}]({one.link})", one.seen,
             ", ".join(f"{name} {how:g}" for name, how in one.faults), seen_in(trial, one.columns),
             trial["said"] or counts.HEALTHY, one.found]
            for one, trial in zip(THREADS, trials, strict=True)]  # fmt: skip
    names = ["thread", "what was seen", "put into a run", "lowest and highest there", "the doctor says"]
    return rows_of([*names, "what the thread found"], rows)


def seen_in(trial, columns):
    """The range of a run's columns, in words."""
    return ", ".join("`{}` {:.2g} to {:.2g}".format(name, *trial["ranges"][name])
                     for name in columns if name in trial["ranges"])  # fmt: skip


def table_of_real_run(found):
    """What docs/real_run.md's run takes, by docs/scaling.md's formulas and the rates of one GPU."""
    config = GPTConfig(GPT2_VOCABULARY, **PRESETS["gpt2"])
    N, gpus, context, pairs, length, response = parameters_of(config), 8, 1024, 160_800, 171, 128
    activations, logits = 68 * config.n_embd * config.n_layer, 12 * config.n_vocab  # bytes per token that is learned
    (plain, compiled), (rm,), (_, ppo) = (one["per_second"] for one in found["bench"]["gpu"] if "per_second" in one)
    answers = 2 * pairs * length  # tokens of SFT's two epochs, or of all pairs' two answers
    mixed = 2 * pairs / 9 * context  # a tenth of the sequences are documents
    episodes, documents = 256_000 * (124 + response), 256_000 * 8 * context
    rows = (
        ("pretraining", 9.04e9, 6 * 9.04e9, 20 * N + 16_400 * (activations + logits), 9.04e9 / compiled),
        ("RL start", answers + mixed, 6 * (answers + mixed), 16 * N + 4 * context * (activations + logits),
         (answers + mixed) / compiled),
        ("reward model", answers, 6 * answers, 16 * N + 16_400 * activations, answers / rm),
        ("PPO-ptx: episodes", episodes, 20 * episodes, 52 * N + 16_400 * (activations + logits), 256_000 / ppo),
        ("PPO-ptx: documents", documents, 6 * documents, 52 * N + 16_400 * (activations + logits), documents / plain),
    )  # fmt: skip
    cells = [[name, f"{tokens / 1e6:,.0f}", f"{each * N / 1e18:.2f}", f"{memory / 1e9:.0f}",
              f"{seconds / gpus / 60:.1f}"] for name, tokens, each, memory, seconds in rows]  # fmt: skip
    heading = ["", "million tokens", "10^18 operations", "GB on each GPU", "minutes on eight H100s"]
    return rows_of(heading, cells)


def parameters_of(config):
    D, L = config.n_embd, config.n_layer
    return config.n_vocab * D + config.n_ctx * D + L * (12 * D * D + 13 * D) + 2 * D


TABLES = {
    "models": table_of_models,
    "kinds": table_of_kinds,
    "wins": table_of_wins,
    "others": table_of_others,
    "findings": table_of_findings,
    "methods_claims": table_of_claims("methods"),
    "details_claims": table_of_claims("details"),
    "verdicts": sentence_of_verdicts,
    "sources": table_of_sources,
    "dropped": table_of_dropped,
    "bench_cpu": table_of_bench("cpu"),
    "bench_gpu": table_of_bench("gpu"),
    "bench_data": table_of_bench_data,
    "fits": table_of_fits,
    "real_run": table_of_real_run,
    "doctor": table_of_doctor,
    "doctor_bases": table_of_doctors_bases,
    "threads": table_of_threads,
} | {name: lambda found, table=table: rows_of(*table(found)) for name, table in methods.TABLES.items()}
