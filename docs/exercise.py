"""Makes a copy of the project in which one formula is missing, for you to write again; a test tells when it is right.

    python docs/exercise.py                 lists the exercises
    python docs/exercise.py gae             makes runs/exercises/gae, and says which file to open and what to run

The solution is the code that was there (git show HEAD:minirlhf/losses.py).
"""

import ast
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from minirlhf.config import Parser, command, require  # noqa: E402

EXERCISES = {  # function: the test that tells when it is right, the easier ones first
    "cosine_lr": "losses::test_sft_learning_rate_is_torchs_cosine_down_to_a_tenth",
    "warmup_lr": "losses::test_the_policys_learning_rate_climbs_from_a_tenth_over_ten_iterations_and_stays",
    "sft_loss": "losses::test_sft_loss_is_a_mean_of_sequence_means",
    "ema_update": "losses::test_the_average_keeps_0_992_of_itself_per_step",
    "ptx_loss": "train_ppo::test_ppo_ptx_adds_the_documents_gradient_times_the_coefficient_to_ppos",
    "whiten": "losses::test_whitened_advantages_have_mean_0_and_std_1_over_the_tokens_of_the_whole_batch",
    "shaped_rewards": "losses::test_shaped_rewards_by_hand",
    "sample_token": "rollout::test_tokens_are_drawn_with_the_models_probabilities",
    "ranked_above": "losses::test_ranking_loss_equals_brute_force_with_ties_and_unequal_k",
    "ranking_loss": "losses::test_ranking_loss_equals_brute_force_with_ties_and_unequal_k",
    "policy_loss": "losses::test_the_policys_clip_binds_on_the_pessimistic_side_only",
    "value_loss": "losses::test_value_loss_by_hand",
    "gae": "losses::test_gae_is_the_discounted_sum_of_temporal_differences",
    "set_bias": "train_rm::test_after_the_bias_demonstrations_score_0_on_average_and_no_ranking_has_changed",
}
ELSEWHERE = {"sample_token": "minirlhf/rollout.py", "set_bias": "train_rm.py"}  # than in losses.py
YOURS = 'raise NotImplementedError("yours to write")'
LEFT_OUT = shutil.ignore_patterns(".*", "runs", "__pycache__", "*.egg-info")


def places(name):
    """An exercise's file and its test."""
    return ELSEWHERE.get(name, "minirlhf/losses.py"), f"tests/test_{EXERCISES[name].replace('::', '.py::')}"


def blanked(source, name):
    """The source with the function's body replaced, its signature and docstring left; and the line of the gap."""
    (function,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name)
    first, last = function.body[1].lineno, function.end_lineno  # body[0] is the docstring
    lines = source.splitlines(keepends=True)
    return "".join([*lines[: first - 1], f"    {YOURS}\n", *lines[last:]]), first


def make(name, folder):
    """Copies the project to a folder, without that function's body; returns the line of the gap."""
    require(not folder.exists(), f"{folder}: is there already; go on in it, or remove it to begin anew")
    shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
    file = folder / places(name)[0]
    source, line = blanked(file.read_text(encoding="utf-8"), name)
    file.write_text(source, encoding="utf-8")
    return line


def main(argv):
    parser = Parser(__doc__)
    parser.add_argument("name", nargs="?", help="of the function to write again")
    name = parser.parse_args(argv).name
    if name is None:
        print("\n".join(f"{name:<16}{places(name)[0]}" for name in EXERCISES))
        return
    require(name in EXERCISES, f"{name}: no exercise; choose of {', '.join(EXERCISES)}")
    folder = ROOT / "runs" / "exercises" / name
    line = make(name, folder)
    file, test = places(name)
    print(f"open  {folder / file}, line {line}\nrun   (cd {folder} && python -m pytest {test})")
    print("it is red now, and green when your function is right")


if __name__ == "__main__":
    command(main)
