"""The town: a web to read, prompts to answer, people to write and rank, and a judge (data/README.md)."""

from .demonstrations import demonstrations, few_shot
from .dialogues import dialogues
from .files import files
from .judge import Judgement, first_line, judge
from .labelers import HELD_OUT_LABELERS, LABELERS, TRAINING_LABELERS, Labeler, compare, felt, mean_utility, rank
from .prompts import prompts
from .web import documents
from .world import FACTS, MYTHS, Fact, states_test_fact, translate

__all__ = ["FACTS", "HELD_OUT_LABELERS", "LABELERS", "MYTHS", "TRAINING_LABELERS", "Fact", "Judgement",
           "Labeler", "compare", "demonstrations", "dialogues", "documents", "felt", "few_shot", "files", "first_line",
           "judge", "mean_utility", "prompts", "rank", "states_test_fact", "translate"]  # fmt: skip
