"""Encoded folders hold what the scripts would encode, also after kills, and what is wrong with one is named."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import pretrain
import tiny
import train_ppo
import train_rm
import train_sft
from forked import PYTHON, kill
from minirlhf.support import records, rows, tokens
from minirlhf.support.checkpoint import load_tokenizer
from minirlhf.support.errors import InputError
from minirlhf.support.folder import named
from tools import encode

LIMIT = 60
LOAD = {"document": records.load_documents, "demonstration": records.load_demonstrations,
        "ranking": records.load_rankings}  # fmt: skip


@pytest.fixture
def encoded(world, tmp_path):
    """Encodes a file of the world, and returns the folder."""

    def make(kind, data=None, name="out.tokens", **flags):
        data = data or getattr(world, f"{kind}s")
        limit = None if kind == "document" else LIMIT
        own = dict(data=(str(data),), kind=kind, tokenizer=world.gpt, limit=limit, processes=1)
        encode.main(encode.Config(**own | flags, out=str(tmp_path / name)))
        return str(tmp_path / name)

    return make


def load(kind, paths, tokenizer):
    if kind == "prompt":
        return records.load_prompts(paths, tokenizer, LIMIT + 4, 4)
    return LOAD[kind](paths, tokenizer, 7 if kind == "document" else LIMIT)


def flat(item):
    """An item as lists."""
    if isinstance(item, tokens.Ranking):
        return [flat(sequence) for sequence in item.sequences], list(item.ranks)
    return item if isinstance(item, list) else (item.tokens.tolist(), item.start)


@pytest.mark.parametrize("kind", ["document", "demonstration", "ranking", "prompt"])
def test_a_folders_items_are_those_of_the_file(encoded, world, kind):
    """Also where file and folder stand beside each other: documents go over from one to the other."""
    tokenizer, file = load_tokenizer(world.gpt), getattr(world, f"{kind}s")
    folder = encoded(kind)
    for paths in ([folder], [file, folder, folder], [folder, file, folder]):
        found, wanted = load(kind, paths, tokenizer), load(kind, [file] * len(paths), tokenizer)
        assert [*map(flat, found)] == [*map(flat, wanted)] and len(found) == len(wanted) > 3
        assert found.lengths.tolist() == [len(w) if kind == "prompt" else w.length for w in wanted]
        assert flat(found[-1]) == flat(wanted[-1]) and [*map(flat, found[1:3])] == [*map(flat, wanted[1:3])]
        with pytest.raises(IndexError):
            found[len(found)]


def test_ids_are_little_endian_of_two_bytes_and_documents_lie_end_to_end(encoded, world):
    tokenizer = load_tokenizer(world.gpt)
    stream = [i for text in tiny.TEXTS for i in [*tokenizer.encode(text), tokenizer.eos]]
    folder = Path(encoded("document"))
    assert np.frombuffer((folder / "tokens.bin").read_bytes(), "<u2").tolist() == stream
    about = json.loads((folder / "about.json").read_text())
    assert about["sizes"] == {"tokens": len(stream)} and about["records"] == len(tiny.TEXTS)
    big = type("Tokenizer", (), {"n_vocab": 65_537})
    assert tokens.id_type(big) == np.dtype("<u4") and tokens.id_type(tokenizer) == np.dtype("<u2")


def test_what_does_not_fit_is_counted_as_by_the_scripts(encoded, world, tmp_path, capsys):
    talk = "".join(f"\n\nHuman: the cat {i}\n\nAssistant: a dog {i}" for i in range(9)) + "\n\nHuman: a\n\nAssistant:"
    rows = [*tiny.DEMONSTRATIONS, {"prompt": "x" * 99, "response": "y"}, {"prompt": talk, "response": " b"}]
    file = tiny.write_lines(tmp_path / "d.jsonl", rows)
    folder, tokenizer = encoded("demonstration", file), load_tokenizer(world.gpt)
    said = capsys.readouterr().out
    assert f"dropped 1 of {len(rows)} demonstrations, longer than 60 tokens" in said
    assert f"1 of {len(rows)} demonstrations lost their oldest turns" in said
    assert [*map(flat, load("demonstration", [folder], tokenizer))] == [
        *map(flat, load("demonstration", [file], tokenizer))
    ]


def test_several_processes_write_the_same_bytes(encoded, world, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "RECORDS", 3)
    many = tiny.write_lines(tmp_path / "many.jsonl", tiny.DEMONSTRATIONS * 9)
    one, two = (encoded("demonstration", many, f"{n}.tokens", processes=n) for n in (1, 2))
    assert content(one) == content(two)


def test_a_process_that_is_killed_is_a_line(world, tmp_path, monkeypatch):
    class Killed:
        def result(self):
            raise encode.BrokenProcessPool

    with pytest.raises(InputError, match="a process that encodes was killed; take fewer --processes"):
        encode.first(encode.deque([(3, Killed())]))


def content(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.bin")}


@pytest.mark.parametrize("kind", ["document", "ranking"])
@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_run_that_was_stopped_anywhere_goes_on_to_the_same_bytes(encoded, world, tmp_path, monkeypatch, kind, after):
    monkeypatch.setattr(encode, "RECORDS", 2)
    given = {"document": tiny.DOCUMENTS, "ranking": tiny.RANKINGS}[kind] * 5
    many = tiny.write_lines(tmp_path / "many.jsonl", given)
    whole, append, calls = content(encoded(kind, many, "whole.tokens")), encode.Encoded.append, []

    def stop(self, *args):
        append(self, *args)
        calls.append(self)
        if len(calls) % 3 == 1:
            self.save()
        if len(calls) == after:  # as a kill does it: some of what was written since is on the disk, and not noted
            for file in self.files.values():
                file.flush()
            raise KeyboardInterrupt

    monkeypatch.setattr(encode.Encoded, "append", stop)
    with pytest.raises(KeyboardInterrupt):
        encoded(kind, many)
    with pytest.raises(InputError, match="not finished; the same command of tools.encode goes on"):
        load(kind, [str(tmp_path / "out.tokens")], load_tokenizer(world.gpt))
    monkeypatch.setattr(encode.Encoded, "append", append)
    assert content(encoded(kind, many)) == whole
    assert not (tmp_path / "out.tokens" / encode.STATE).exists()


def test_killed_ten_times_it_leaves_the_same_bytes(world, tmp_path):
    many = tiny.write_lines(tmp_path / "many.jsonl", [{"text": f"page {i} of the cat"} for i in range(30_000)])
    words = ["--data", many, "--tokenizer", world.gpt, "--processes", "1", "--out"]
    assert subprocess.run([*PYTHON, "-m", "tools.encode", *words, tmp_path / "a"], capture_output=True).returncode == 0
    again = [*PYTHON, "-m", "tools.encode", *words, tmp_path / "b"]
    for i in range(10):
        process = subprocess.Popen(again, stdout=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.1 + 0.1 * i)
        kill(process)
    assert subprocess.run(again, capture_output=True).returncode == 0
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.parametrize("script", ["pretrain", "train_sft", "train_rm", "train_ppo"])
def test_a_training_takes_a_folder_and_leaves_the_same_model(encoded, world, tmp_path, no_pictures, script):
    room = dict(limit=64)  # the tiny world's context
    common = dict(batch_size=4, seed=3)
    files = {
        pretrain: dict(init=world.gpt, data=world.documents, epochs=2),
        train_sft: dict(init=world.gpt, data=world.demonstrations, documents=world.documents, epochs=2),
        train_rm: dict(init=world.gpt, data=world.rankings),
        train_ppo: dict(policy=world.gpt, reward_model=world.rm, prompts=world.prompts, documents=world.documents,
                        episodes=8, minibatch_size=4, documents_per_episode=0.5, max_response=8),
    }  # fmt: skip
    module = {"pretrain": pretrain, "train_sft": train_sft, "train_rm": train_rm, "train_ppo": train_ppo}[script]
    flags = files[module]
    kinds = {"data": {pretrain: "document", train_sft: "demonstration", train_rm: "ranking"}.get(module),
             "documents": "document", "prompts": "prompt"}  # fmt: skip
    folders = {}
    for name in kinds.keys() & flags.keys():
        limit = {"document": {}, "prompt": dict(limit=64 - 8)}.get(kinds[name], room)
        folders[name] = encoded(kinds[name], flags[name], f"{name}.tokens", **limit)
    for out, own in (("files", flags), ("folders", flags | folders)):
        tiny.run(module, tiny.to_flags(common | own | dict(out=str(tmp_path / out))))
    one, other = (torch.load(tmp_path / out / "model.pt")["model"] for out in ("files", "folders"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_is_known_by_its_description(encoded, tmp_path):
    folder = encoded("document")
    assert named(folder) == [f"{folder}/about.json"]
    about = json.loads(Path(folder, "about.json").read_text())
    other = tiny.write_lines(tmp_path / "other.jsonl", [{"text": "a dog"}])
    assert about["sha256"] != json.loads(Path(encoded("document", other, "b"), "about.json").read_text())["sha256"]


# --- long texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 5, 11])
def test_a_long_text_in_pieces_has_the_tokens_of_the_whole(tmp_path, tokenizer, monkeypatch, piece):
    text = "the cat\nsat  \non\n\nthe mat.\n  a dog\nand 12\n\n\nkites: le\u0301\nx\n" * 3
    for own in (text, text + "<|endoftext|>\n" + text + "\n<|endoftext|>" + text[:9]):
        path = tmp_path / "corpus.txt"
        path.write_text(own)
        whole = records.load_documents([str(path)], tokenizer, 10_000)[0].tokens.tolist()
        with monkeypatch.context() as patch:
            patch.setattr(rows, "PIECE", piece)
            parts = list(rows.documents(str(path)))
            assert len(parts) > 6 and sum(rows.MORE not in row for _, row in parts) == own.count("<|endoftext|>") + 1
            assert records.load_documents([str(path)], tokenizer, 10_000)[0].tokens.tolist() == whole


# --- bad input -------------------------------------------------------------------------------------------------------


def spoil(folder, name, change):
    path = Path(folder) / name
    path.write_bytes(change(path.read_bytes()))


def with_about(folder, **changed):
    about = json.loads(Path(folder, "about.json").read_text()) | changed
    Path(folder, "about.json").write_text(json.dumps(about))


@pytest.mark.parametrize(("kind", "harm", "fault"), [
    ("document", lambda f: spoil(f, "tokens.bin", lambda b: b[:-2]), "tokens.bin: has .* bytes, and about.json says"),
    ("document", lambda f: spoil(f, "tokens.bin", lambda b: b[:-1]), "tokens.bin: has .* bytes, and about.json says"),
    ("document", lambda f: spoil(f, "tokens.bin", lambda b: b[:8] + b"\xff\xff" + b[10:]), "the id 65535, in a voca"),
    ("document", lambda f: with_about(f, tokenizer="other"), "was encoded by another tokenizer"),
    ("document", lambda f: Path(f, "about.json").unlink(), "not finished; the same command of tools.encode goes on"),
    ("document", lambda f: Path(f, "about.json").write_text("{}"), "no description of encoded data"),
    ("document", lambda f: Path(f, "about.json").write_text("no"), "about.json: missing or not a JSON object"),
    ("document", lambda f: with_about(f, sizes={"tokens": -1}), "no description of encoded data"),
    ("document", lambda f: with_about(f, kind="ranking"), "holds rankings, and documents are needed here"),
    ("ranking", lambda f: with_about(f, limit=99), "was encoded for at most 99 tokens, and 60 are needed"),
    ("ranking", lambda f: Path(f, "cuts.bin").unlink(), "cuts.bin: missing"),
    ("ranking", lambda f: spoil(f, "cuts.bin", lambda b: b[8:16] + b[8:]), "cuts.bin: does not fit the other files"),
    ("ranking", lambda f: spoil(f, "firsts.bin", lambda b: b[:-8] + b[:8]), "firsts.bin: does not fit the other"),
])  # fmt: skip
def test_a_folder_that_is_not_whole_is_named(encoded, world, kind, harm, fault):
    folder = encoded(kind)
    harm(folder)
    with pytest.raises(InputError, match=fault) as error:
        list(load(kind, [folder], load_tokenizer(world.gpt)))
    assert folder in str(error.value)


@pytest.mark.parametrize(("flags", "fault"), [
    (dict(kind="ranking"), "--limit: is needed: the model's context"),
    (dict(limit=9), "--limit: documents are cut by the training"),
    (dict(kind="page"), "--kind page"),
    (dict(tokenizer="nowhere"), "nowhere"),
    (dict(data="nowhere.jsonl"), "nowhere.jsonl: no such file"),
])  # fmt: skip
def test_bad_flags_end_in_one_line(world, tmp_path, flags, fault):
    own = dict(data=world.documents, tokenizer=world.gpt, processes=1, out=str(tmp_path / "out")) | flags
    words = [*PYTHON, "-m", "tools.encode", *tiny.to_flags(own)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and fault in done.stderr and done.stderr.count("\n") == 1


def test_a_full_disk_is_a_line_and_the_same_command_goes_on(encoded, world, tmp_path, monkeypatch):
    whole, write = content(encoded("document", name="whole")), encode.Encoded.append

    def full(self, *args):
        self.files["tokens"].write = lambda data: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        write(self, *args)

    monkeypatch.setattr(encode.Encoded, "append", full)
    with pytest.raises(InputError, match="tokens.bin: cannot be written .*make room, and give the same command again"):
        encoded("document")
    monkeypatch.setattr(encode.Encoded, "append", write)
    assert content(encoded("document")) == whole
