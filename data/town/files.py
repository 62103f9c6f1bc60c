"""The town's files: their names, and what is in each."""

from .demonstrations import demonstrations
from .prompts import prompts
from .web import documents


def files(
    seed,
    web,
    web_held_out,
    demonstration,
    demonstration_validation,
    prompt_train,
    prompt_validation,
    prompt_test,
):
    """{name: records}, so many in each. Demonstrations are on train and validation prompts of their own, not on those
    of the prompt files."""
    demonstrated = prompts("train", demonstration, seed + 1)
    demonstrated_validation = prompts("validation", demonstration_validation, seed + 1)
    return {
        "web": documents(web, seed),
        "web_held_out": documents(web_held_out, seed, held_out=True),
        "demonstrations": demonstrations(demonstrated, seed),
        "demonstrations_validation": demonstrations(demonstrated_validation, seed + 1),
        "prompts_train": prompts("train", prompt_train, seed),
        "prompts_validation": prompts("validation", prompt_validation, seed),
        "prompts_test": prompts("test", prompt_test, seed),
    }
