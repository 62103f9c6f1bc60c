"""What reproduce.py shows: a table on the terminal and report.html."""


def table(results):
    def cell(value, percent=True):
        if value is None:
            return "-"
        scale = 100 if percent else 1
        return f"{scale * value['mean']:.1f} [{scale * value['low']:.1f}, {scale * value['high']:.1f}]" if percent else f"{value['mean']:.3f}"
    lines = [f"{'':14}{'win rate vs SFT %':>22}{'true':>8}{'follows':>9}{'truth':>7}{'toxic':>7}{'LM loss':>9}{'KL':>7}{'RM':>8}"]
    for name, m in results["models"].items():
        short = lambda v: "-" if v is None else f"{100 * v['mean']:.1f}"  # noqa
        lines.append(f"{name:14}{cell(m['win_rate_vs_sft']):>22}{short(m['true_win_rate_vs_sft']):>8}"
                     f"{short(m['follows_instruction']):>9}{short(m['truthful']):>7}{short(m['toxic']):>7}"
                     f"{cell(m['pretraining_loss'], False):>9}{cell(m['kl_to_reference'], False):>7}{cell(m['rm_score'], False):>8}")
    lines.append(f"ppo_ptx vs rl_start {cell(results['models']['ppo_ptx']['win_rate_vs_rl_start'])}")
    for k, v in (results["reward_model"] | results["pretraining_loss"]).items():
        lines.append(f"{k} {v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]")
    lines.append(str(results["seconds"]))
    return "\n".join(lines)


def write(out, results):
    pass
