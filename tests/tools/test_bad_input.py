"""A mistake ends in one line that says where it is and what to do, before anything is trained."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pretrain
import reproduce
import tiny
import train_ppo
import train_rm
import train_sft
from forked import PYTHON
from minirlhf.model import GPT, RewardModel
from minirlhf.support.checkpoint import save_model
from minirlhf.support.errors import InputError
from ranks import torchrun
from tiny import to_flags
from tools import select_sft, train_tokenizer

ROOT = Path(__file__).parents[2]
SCRIPTS = dict(gpt=pretrain, sft=train_sft, rm=train_rm, ppo=train_ppo, select=select_sft)


@pytest.fixture(scope="module")
def flags(world, tokenizer):
    """Flags with which each script would run."""
    tiny.make_sft_run(world.folder / "sft", tokenizer)
    return {
        "gpt": dict(data=(world.documents,), tokenizer=world.gpt, size="nano", n_layer=1, batch_size=2),
        "sft": dict(data=(world.demonstrations,), init=world.gpt, epochs=1, batch_size=2),
        "rm": dict(data=(world.rankings,), init=world.gpt),
        "ppo": dict(policy=world.gpt, reward_model=world.rm, prompts=(world.prompts,), ptx_coef=0, episodes=4,
                    batch_size=4, minibatch_size=2, max_response=5),
        "select": dict(sft=world.folder / "sft", reward_model=world.rm, prompts=(world.prompts,),
                       max_response=5),
    }  # fmt: skip


@pytest.fixture
def refused(flags, world, tmp_path):
    """Runs a script with flags changed: it must raise one line with all of `says`, and write nothing."""

    def run(script, *says, **changes):
        settings = dict(out=tmp_path / "out") | flags[script] | changes
        before = tiny.snapshot(tmp_path) | tiny.snapshot(world.folder)
        with pytest.raises(InputError) as error:
            tiny.run(SCRIPTS[script], to_flags(settings))
        message = str(error.value)
        assert "\n" not in message
        for words in says:
            assert words in message
        assert tiny.snapshot(tmp_path) | tiny.snapshot(world.folder) == before
        assert not (tmp_path / "out").exists()

    return run


# --- records ------------------------------------------------------------------------------------------------

GOOD = {
    "sft": tiny.DEMONSTRATIONS[0],
    "rm": tiny.RANKINGS[0],
    "ppo": tiny.PROMPTS[0],
    "select": tiny.PROMPTS[0],
}
RANKING = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}


def files_of(script, path):
    return {"prompts" if script in ("ppo", "select") else "data": (str(path),)}


@pytest.mark.parametrize("script", GOOD)
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a", ', "not JSON"),
        ('"prompt"', "a JSON object is needed, str found"),
        ("{}", "'prompt' is missing or not a string"),
        ('{"prompt": 7, "response": "b"}', "'prompt' is missing or not a string"),
    ],
)
def test_a_broken_line_of_any_file_is_named(script, line, says, tmp_path, refused):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(GOOD[script]) + "\n" + line + "\n")
    refused(script, f"{path}:2: ", says, **files_of(script, path))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"prompt": "a"}, "field 'response' is missing"),
        ({"prompt": "a", "response": ""}, "an empty answer"),
        ({"prompt": "a", "response": ["b"]}, "field 'response' is missing or not a string"),
        ({"instruction": "a", "input": 3, "output": "b"}, "'input' is no text"),
        ({"messages": []}, "a conversation without messages"),
        ({"messages": "hi"}, "a conversation without messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "a message needs a role"),
        ({"messages": [{"role": "assistant"}]}, "a message without content"),
    ],
)
def test_a_demonstration_that_is_none_is_named(record, says, tmp_path, refused):
    path = tiny.write_lines(tmp_path / "d.jsonl", [record])
    refused("sft", f"{path}:1: ", says, data=(path,))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"responses": ["a"], "ranks": [1]}, "1 responses; a ranking has 2 to 9"),
        ({"responses": ["a"] * 10, "ranks": [1] * 10}, "10 responses; a ranking has 2 to 9"),
        ({"ranks": [1, 2, 3]}, "3 ranks for 2 responses"),
        ({"ranks": [0, 1]}, "'ranks' must be a list of positive integers"),
        ({"ranks": [1.5, 2]}, "'ranks' must be a list of positive integers"),
        ({"ranks": [True, 2]}, "'ranks' must be a list of positive integers"),
        ({"ranks": [1, 10**30]}, "rank"),
        ({"ranks": None}, "'ranks' must be a list"),
        ({"responses": "ab"}, "'responses' is missing or not a list of strings"),
        ({"responses": ["a", 2]}, "'responses' is missing or not a list of strings"),
    ],
)
def test_a_ranking_that_is_none_is_named(change, says, tmp_path, refused):
    path = tiny.write_lines(tmp_path / "r.jsonl", [RANKING, RANKING | change])
    refused("rm", f"{path}:2: ", says, data=(path,))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"chosen": "no marker", "rejected": "no such"}, "share no prompt that ends in"),
        ({"prompt": "a", "chosen": [], "rejected": "b"}, "or both lists of messages"),
        ({"prompt": "a", "chosen": 3, "rejected": "b"}, "chosen and rejected must be strings"),
    ],
)
def test_a_pair_that_is_none_is_named(record, says, tmp_path, refused):
    path = tiny.write_lines(tmp_path / "r.jsonl", [record])
    refused("rm", f"{path}:1: ", says, data=(path,))


@pytest.mark.parametrize("script", GOOD)
def test_a_file_that_is_not_utf8_is_named(script, tmp_path, refused):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(json.dumps(GOOD[script]).encode() + b'\n{"prompt": "caf\xe9"}\n')
    refused(script, f"{path}:2: ", "byte 16 is not UTF-8", **files_of(script, path))


@pytest.mark.parametrize("script", GOOD)
def test_a_missing_or_empty_file_is_named(script, tmp_path, refused):
    refused(script, f"{tmp_path}/none.jsonl: no such file", **files_of(script, tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n")
    refused(script, f"{tmp_path}/empty.jsonl: no records in it", **files_of(script, tmp_path / "empty.jsonl"))


def test_a_gzip_file_that_is_cut_off_or_none_is_named(tmp_path, refused):
    complete = gzip.compress("".join(json.dumps({"prompt": f"p{i}", "response": "r"}) for i in range(99)).encode())
    for name, content in (("cut.jsonl.gz", complete[:-20]), ("plain.jsonl.gz", b"{}")):
        (tmp_path / name).write_bytes(content)
        refused("sft", f"{tmp_path}/{name}: cannot be read", data=(tmp_path / name,))


def test_documents_that_are_none_are_named(tmp_path, refused):
    path = tiny.write_lines(tmp_path / "d.jsonl", [{"text": ""}, {"text": " "}])
    refused("gpt", f"{path}:1: an empty text; no document is left of {path}", data=(path,))
    refused("sft", f"{path}:1: an empty text", documents=(path,))
    refused("ppo", f"{path}:1: an empty text", documents=(path,), ptx_coef=1)


@pytest.mark.parametrize("record", [{"responses": 5}, {"responses": None}, {"prompt": 3, "text": None}])
def test_a_tokenizer_meets_odd_records_without_a_traceback(record, world, tmp_path):
    path = tiny.write_lines(tmp_path / "odd.jsonl", [record])
    try:
        tiny.run(
            train_tokenizer, ["--data", world.documents, path, "--vocab_size", "270", "--out", str(tmp_path / "t")]
        )
    except InputError as error:
        assert path in str(error)


# --- lengths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["ppo", "select"])
def test_a_response_length_that_leaves_no_room_for_a_prompt_is_refused(script, refused):
    refused(script, "--max_response 64 leaves no room for a prompt", max_response=64)


@pytest.mark.parametrize("script", GOOD)
def test_records_none_of_which_fits_the_context_are_refused(script, tmp_path, refused):
    long = "x" * 70
    record = dict(prompt=long, response="y", responses=["y", "z"], ranks=[1, 2])
    path = tiny.write_lines(tmp_path / "long.jsonl", [record])
    advice = "take a smaller --max_response" if script in ("ppo", "select") else "use a longer context"
    refused(script, f"{path}: none of its", "fits in", advice, **files_of(script, path))


def test_a_pretraining_sequence_longer_than_the_context_is_refused(world, refused):
    refused(
        "ppo",
        "--document_tokens 65",
        "the context, 64",
        document_tokens=65,
        ptx_coef=1,
        documents=(world.documents,),
    )


# --- checkpoints --------------------------------------------------------------------------------------------

CHECKPOINTS = [
    ("gpt", "init"),
    ("sft", "init"),
    ("rm", "init"),
    ("ppo", "policy"),
    ("ppo", "reward_model"),
    ("select", "reward_model"),
]


def start_from(script, flag, value):
    """The flag, and without those that describe a new model."""
    return {flag: value} | (dict(tokenizer=None, size=None, n_layer=None) if script == "gpt" else {})


@pytest.mark.parametrize(("script", "flag"), CHECKPOINTS)
def test_a_checkpoint_that_is_not_there_is_named(script, flag, tmp_path, refused):
    refused(script, f"{tmp_path / 'nowhere'}", "no checkpoint there", **start_from(script, flag, tmp_path / "nowhere"))


@pytest.mark.parametrize(("script", "flag"), CHECKPOINTS)
def test_a_run_that_is_not_finished_is_named(script, flag, tmp_path, tokenizer, refused):
    """Its folder has a tokenizer and no model.pt."""
    (tmp_path / "unfinished").mkdir()
    tokenizer.save(tmp_path / "unfinished")
    refused(
        script,
        f"{tmp_path}/unfinished/model.pt: no checkpoint there",
        **start_from(script, flag, tmp_path / "unfinished"),
    )


@pytest.mark.parametrize(("script", "flag"), CHECKPOINTS)
def test_a_truncated_checkpoint_is_named(script, flag, world, tokenizer, tmp_path, refused):
    (tmp_path / "cut").mkdir()
    tokenizer.save(tmp_path / "cut")
    (tmp_path / "cut" / "model.pt").write_bytes(Path(world.gpt, "model.pt").read_bytes()[:5000])
    refused(script, f"{tmp_path}/cut/model.pt: truncated", **start_from(script, flag, tmp_path / "cut"))


@pytest.mark.parametrize(("script", "flag"), [("ppo", "reward_model"), ("select", "reward_model")])
def test_a_checkpoint_of_another_tokenizer_is_named(script, flag, tmp_path, refused):
    other = tiny.make_tokenizer(vocab_size=280)
    save_model(tmp_path / "other" / "model.pt", tiny.make(RewardModel, other.n_vocab), other)
    refused(
        script,
        f"{tmp_path}/other/model.pt: its tokenizer is not the one in use",
        **{flag: tmp_path / "other"},
    )


def test_a_tokenizer_exchanged_under_a_checkpoint_is_noticed(tmp_path, tokenizer, refused):
    save_model(tmp_path / "gpt" / "model.pt", tiny.make(GPT, tokenizer.n_vocab), tokenizer)
    tiny.make_tokenizer(vocab_size=280).save(tmp_path / "gpt")
    refused("sft", "its tokenizer is not the one in use", init=tmp_path / "gpt")


@pytest.mark.parametrize(("script", "flag"), [("sft", "init"), ("ppo", "policy")])
def test_a_reward_model_given_for_a_policy_is_named(script, flag, world, refused):
    refused(script, "is a reward model's checkpoint", **{flag: world.rm})


def test_an_sft_folder_without_epochs_is_named(world, refused):
    refused("select", f"--sft {world.gpt}: no epoch-*.pt in it", sft=world.gpt)


@pytest.mark.parametrize("flag", ["n_ctx", "n_layer", "n_head", "n_embd"])
def test_an_architecture_that_contradicts_the_checkpoint_is_named(flag, world, refused):
    further = dict(init=world.gpt, tokenizer=None, size=None, n_layer=None)
    refused("gpt", f"--{flag} 8 contradicts --init {world.gpt}", "leave the flag out", **further | {flag: 8})


@pytest.mark.parametrize("flag", ["size", "tokenizer"])
def test_a_size_or_tokenizer_that_the_checkpoint_overrules_is_not_ignored_in_silence(flag, world, refused):
    further = dict(init=world.gpt, tokenizer=None, size=None, n_layer=None)
    refused("gpt", f"--{flag}", "--init", **further | {flag: {"size": "nano", "tokenizer": world.rm}[flag]})


# --- flags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", GOOD)
def test_an_unknown_flag_is_named(script, refused):
    refused(script, "unknown flag or argument: --learning_rate", learning_rate=1)


@pytest.mark.parametrize(
    ("script", "flag"),
    [("sft", "data"), ("rm", "init"), ("ppo", "prompts"), ("ppo", "policy"), ("select", "sft")],
)
def test_a_missing_flag_is_named(script, flag, refused):
    refused(script, "required", f"--{flag}", **{flag: None})


@pytest.mark.parametrize(
    ("script", "flag", "value"),
    [
        ("sft", "epochs", 0), ("sft", "batch_size", -1), ("sft", "lr", 0), ("sft", "lr", "nan"),
        ("sft", "dropout", 1),
        ("sft", "dropout", -0.1), ("sft", "document_share", 1.5), ("gpt", "size", "huge"),
        ("gpt", "optimizer", "sgd"), ("gpt", "muon_lr", 0), ("gpt", "embedding_std", -1), ("gpt", "dropout", 1),
        ("sft", "max_tokens", 0), ("sft", "device", "gpu"), ("sft", "epochs", 1.5), ("sft", "seed", -1),
        ("rm", "epochs", 0), ("rm", "batch_size", 0), ("rm", "lr", -1), ("rm", "max_grad_norm", 0),
        ("rm", "seed", -1),
        ("ppo", "kl_coef", -0.1), ("ppo", "ptx_coef", -1), ("ppo", "clip", 0), ("ppo", "gae_lambda", 1.1),
        ("ppo", "discount", -0.1), ("ppo", "ema_decay", 2), ("ppo", "episodes", 0), ("ppo", "warmup", 0),
        ("ppo", "max_response", 0), ("ppo", "value_lr", 0), ("ppo", "inner_epochs", 0),
        ("ppo", "save_every", 0),
        ("ppo", "seed", -1), ("ppo", "kl_coef", "nan"), ("select", "max_response", 0), ("select", "seed", -1),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(script, flag, value, refused):
    refused(script, f"--{flag}", str(value), **{flag: value})


@pytest.mark.skipif(torch.cuda.is_available(), reason="here they would do")
def test_cuda_graphs_without_cuda_are_refused(refused):
    refused("ppo", "--graph", "needs a CUDA device; leave the flag out", graph=True)


def test_batches_that_do_not_divide_are_named_with_the_nearest_that_do(refused):
    refused("ppo", "--episodes 10 is not divisible by --batch_size 4; take 8", episodes=10)
    refused("ppo", "--batch_size 4 is not divisible by --minibatch_size 3; take 3", minibatch_size=3)


def test_a_pretraining_coefficient_without_documents_is_refused(refused):
    refused("ppo", "--ptx_coef 27.8 needs --documents", ptx_coef=27.8)


@pytest.mark.parametrize("count", [0.3, 0, 10**12])
def test_documents_that_are_no_whole_number_a_minibatch_are_refused(count, world, refused):
    documents = dict(ptx_coef=1, documents=(world.documents,))
    refused("ppo", f"--documents_per_episode {float(count)}", documents_per_episode=count, **documents)


def test_a_new_models_shape_is_checked(world, refused):
    refused("gpt", "--n_embd 48 cannot be divided into --n_head 5 heads", n_head=5)
    refused("gpt", "--n_layer 0: must be above 0", n_layer=0)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path, refused):
    refused("gpt", f"{tmp_path}/nowhere: no tokenizer there", tokenizer=tmp_path / "nowhere")


def test_a_vocabulary_without_room_for_the_bytes_is_refused(world, tmp_path):
    with pytest.raises(InputError, match="--vocab_size 256"):
        tiny.run(train_tokenizer, ["--data", world.documents, "--vocab_size", "256", "--out", str(tmp_path / "t")])
    assert not (tmp_path / "t").exists()


def test_another_tokenizers_folder_is_refused_and_left_alone(world, tmp_path):
    flags = ["--data", world.documents, "--out", str(tmp_path / "t"), "--vocab_size"]
    tiny.run(train_tokenizer, [*flags, "270"])
    before = tiny.snapshot(tmp_path)
    tiny.run(train_tokenizer, [*flags, "270"])  # the same again is no other
    with pytest.raises(InputError, match="holds another run .--vocab_size was 270, now 280.; choose another --out"):
        tiny.run(train_tokenizer, [*flags, "280"])
    assert tiny.snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("flag", "value", "advice"),
    [
        ("seed", "-1", "is negative"),
        ("stage", "dinner", "choose one of town, gpt,"),
        ("judge_on", "train", "choose test or validation"),
        ("size", "huge", "choose one of nano, toy, small, medium"),
    ],
)
def test_reproduces_flags_are_checked(flag, value, advice, tmp_path):
    with pytest.raises(InputError, match=f"--{flag}:? {value}:? {advice}"):
        tiny.run(reproduce, ["--out", str(tmp_path / "town"), f"--{flag}", value])
    assert not (tmp_path / "town").exists()


def test_a_run_of_another_size_is_refused_and_left_alone(tmp_path):
    out = tmp_path / "town"
    tiny.run(reproduce, ["--tiny", "--stage", "town", "--out", str(out)])
    before = tiny.snapshot(out)
    with pytest.raises(InputError, match=f"--out {out} holds another run .--size was toy, now small.; choose another"):
        tiny.run(reproduce, ["--tiny", "--size", "small", "--out", str(out)])
    assert tiny.snapshot(out) == before


# --- the output folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", GOOD)
def test_a_folder_that_holds_another_run_or_other_files_is_refused_and_left_alone(script, flags, tmp_path):
    for name, content in (("config.json", '{"out": "elsewhere"}'), ("thesis.txt", "all I have")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(content)
        with pytest.raises(InputError, match=f"--out {tmp_path / name} .*choose another --out"):
            tiny.run(SCRIPTS[script], to_flags(flags[script] | dict(out=tmp_path / name)))
        assert tiny.snapshot(tmp_path / name) == {tmp_path / name / name: content.encode()}


def test_a_folder_that_cannot_be_made_is_named(flags, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"{tmp_path}/file"):
        tiny.run(train_sft, to_flags(flags["sft"] | dict(out=tmp_path / "file" / "out")))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no file system here without permission to make a folder")
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_place_where_nothing_can_be_written_is_refused_before_training(script, flags):
    with pytest.raises(InputError, match="/sys/kernel/run: cannot be written .*; write elsewhere"):
        tiny.run(SCRIPTS[script], to_flags(flags[script] | dict(out="/sys/kernel/run")))


# --- as a person sees it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train_sft.py --data nowhere.jsonl --out {out} --init {gpt}", "nowhere.jsonl: no such file"),
        (
            "train_rm.py --data {demonstrations} --out {out} --init {gpt}",
            "field 'responses' is missing or not a list of strings",
        ),
        (
            "train_ppo.py --prompts x --policy {gpt} --reward_model {rm} --out {out}",
            "--ptx_coef 27.8 needs --documents",
        ),
        (
            "-m tools.select_sft --sft {gpt} --reward_model {rm} --prompts {prompts} --out {out}",
            "no epoch-*.pt in it",
        ),
        ("chat.py --prompt hello", "required: models"),
        ("chat.py {gpt} --prompt a --out {out}", "does nothing without --web"),
        ("chat.py {gpt} --prompt a --port 80", "--port 80: does nothing without --web"),
        ("chat.py {gpt} --dialogue --ending x", "--ending x: does nothing without --no-dialogue"),
        ("-m tools.label --out {out} --report --rate", "--rate True: does nothing without labelling"),
        ("-m tools.label --out {out} --export trl --reward_model {rm}", "does nothing without --report"),
        ("pretrain.py --data x --out {out} --optimizer adam --muon_lr 1", "--muon_lr 1.0: does nothing without"),
        ("train_sft.py --data x --init {gpt} --out {out} --document_share 0.5", "does nothing without --documents"),
        ("-m tools.label --models a b c --prompts x --out {out} --answers 2", "--models: 3 for --answers 2"),
        ("-m tools.bench rm small --iterations 0", "--iterations 0: must be above 0"),
        ("reproduce.py --out {out} --sed 1", "unknown flag or argument: --sed 1"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_a_failed_exit(command, says, world, tmp_path):
    words = command.format(out=tmp_path / "out", **vars(world)).split()
    ended = subprocess.run([*PYTHON, *words], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", ended.stderr)
    assert says in ended.stderr
    assert not (tmp_path / "out").exists()


def test_batches_that_cannot_be_shared_out_are_refused_once_before_training(world, tmp_path):
    flags = dict(init=world.gpt, data=[world.demonstrations], out=str(tmp_path / "out"), batch_size=3)
    result = torchrun(2, str(ROOT / "train_sft.py"), *to_flags(flags), python=[sys.executable])
    assert result.returncode != 0
    message = "error: --batch_size 3 cannot be shared out to 2 processes; take 2 or 4"
    assert result.stderr.count(message) == 1
    assert not (tmp_path / "out").exists()
