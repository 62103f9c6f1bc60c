"""The town: a web to read, prompts to answer, people who write and rank answers, and a judge (data/README.md)."""
# ruff: noqa: F401

from .demonstrations import demonstrations, few_shot, true_and_false
from .dialogues import dialogues
from .files import files, samples
from .judge import Judgement, first_line, judge
from .labelers import HELD_OUT_LABELERS, LABELERS, TRAINING_LABELERS, Labeler, compare, felt, mean_utility, rank
from .prompts import prompts
from .web import documents
from .world import FACTS, MYTHS, Fact, states_test_fact, translate
