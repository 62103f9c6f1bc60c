"""Every format is read, no token is lost or learned twice, and what is dropped is counted and printed."""

import gzip
import tracemalloc

import numpy as np
import pytest
import torch

import tiny
from minirlhf import data
from minirlhf.support import records
from minirlhf.support.accumulation import split_by_tokens
from minirlhf.support.errors import InputError
from minirlhf.support.records import Ranking, Sequence


def read_one(tmp_path, record, kind):
    (result,) = records.read(tiny.write_lines(tmp_path / "one.jsonl", [record]), kind)
    return result


# --- reading ------------------------------------------------------------------------------------------------


def test_a_prompt_keeps_its_other_fields(tmp_path):
    record = {"prompt": "a", "use_case": "chat"}
    assert read_one(tmp_path, record, "prompt") == record


def test_documents_are_lines_gzipped_lines_or_a_whole_text_file(tmp_path):
    pages = [{"text": "a\nb"}, {"text": "ü"}]
    plain = tiny.write_lines(tmp_path / "d.jsonl", pages)
    with gzip.open(tmp_path / "d.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(open(plain).read())
    (tmp_path / "d.txt").write_text("one\ntwo\n\nthree", encoding="utf-8")
    assert records.read(plain, "document") == records.read(tmp_path / "d.jsonl.gz", "document") == pages
    assert records.read(tmp_path / "d.txt", "document") == [{"text": "one\ntwo\n\nthree"}]


def test_blank_lines_are_skipped_and_windows_line_ends_are_fine(tmp_path):
    (tmp_path / "d.jsonl").write_bytes(b'{"text": "a"}\r\n\r\n\n{"text": "b"}')
    assert [r["text"] for r in records.read(tmp_path / "d.jsonl", "document")] == ["a", "b"]


def test_texts_are_those_of_every_kind_of_record(tmp_path, world):
    assert list(records.texts(world.documents)) == tiny.TEXTS
    path = tiny.write_lines(tmp_path / "r.jsonl", [{"prompt": "p", "responses": ["x", "y"], "ranks": [1, 2]}])
    assert sorted(records.texts(path)) == ["p", "x", "y"]


# --- encoding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_ctx", [1, 4, 7, 1000])
def test_packing_makes_every_token_but_the_first_a_target_exactly_once_in_order(tokenizer, n_ctx):
    rows = records.pack(tiny.DOCUMENTS, tokenizer, n_ctx)
    stream = [token for text in tiny.TEXTS for token in [*tokenizer.encode(text), tokenizer.eos]]
    targets = [token for row in rows for token in row.tokens[row.start :].tolist()]
    assert targets == stream[1:]
    assert all(row.start < len(row.tokens) <= n_ctx + 1 for row in rows)  # none without a target


def test_each_packed_target_is_predicted_from_the_token_before_it(tokenizer):
    rows = records.pack(tiny.DOCUMENTS, tokenizer, 5)
    for before, after in zip(rows, rows[1:]):
        assert before.tokens[-1] == after.tokens[0]


def test_a_document_ends_with_end_of_text(tokenizer):
    (row,) = records.pack([{"text": "the cat"}, {"text": "a dog"}], tokenizer, 1000)
    ends = np.flatnonzero(row.tokens == tokenizer.eos)
    assert tokenizer.decode(row.tokens[: ends[0]]) == "the cat"
    assert tokenizer.decode(row.tokens[ends[0] + 1 : ends[1]]) == "a dog"
    assert ends[1] == len(row.tokens) - 1


def test_prompt_and_response_are_encoded_apart_so_that_no_token_spans_both(tokenizer):
    """ " the" is one token; split between prompt and response it stays two."""
    assert len(tokenizer.encode(" the")) == 1
    sequence = records.encode_response(" t", "he", tokenizer)
    assert sequence.tokens.tolist() == [*tokenizer.encode(" t"), *tokenizer.encode("he"), tokenizer.eos]
    assert sequence.start == len(tokenizer.encode(" t"))


def test_end_of_text_is_a_response_s_last_target(tokenizer):
    for sequence in records.encode_demonstrations(tiny.DEMONSTRATIONS, tokenizer, 64):
        assert sequence.tokens[-1] == tokenizer.eos
        assert sequence.start < len(sequence.tokens)


def test_over_long_demonstrations_are_dropped_and_counted(tokenizer, capsys):
    long = {"prompt": "x" * 30, "response": "y" * 30}
    kept = records.encode_demonstrations([*tiny.DEMONSTRATIONS, long], tokenizer, 60, "demos.jsonl")
    assert len(kept) == len(tiny.DEMONSTRATIONS)
    assert "demos.jsonl: dropped 1 of 5 demonstrations, longer than 60 tokens" in capsys.readouterr().out


def test_a_length_at_the_limit_is_kept(tokenizer, capsys):
    sequence = records.encode_response("name ", "a dog", tokenizer)
    kept = records.encode_demonstrations([{"prompt": "name ", "response": "a dog"}], tokenizer, len(sequence.tokens))
    assert kept[0].tokens.tolist() == sequence.tokens.tolist()
    assert capsys.readouterr().out == ""


def test_over_long_rankings_are_dropped_and_counted(tokenizer, capsys):
    long = {"prompt": "x", "responses": ["y", "z" * 80], "ranks": [1, 2]}
    kept = records.encode_rankings([*tiny.RANKINGS, long], tokenizer, 60, "r.jsonl")
    assert [len(r.sequences) for r in kept] == [4, 4, 2, 3]
    assert "dropped 1 of 5 rankings" in capsys.readouterr().out


def test_over_long_prompts_are_dropped_and_counted(tokenizer, capsys):
    kept, tokens = records.encode_prompts([*tiny.PROMPTS, {"prompt": "x" * 80}], tokenizer, 60, "p.jsonl")
    assert kept == tiny.PROMPTS
    assert list(tokens) == [tokenizer.encode(r["prompt"]) for r in tiny.PROMPTS]
    assert "dropped 1 of 5 prompts" in capsys.readouterr().out


def test_a_long_conversation_loses_its_oldest_turns(tokenizer, capsys):
    system, turns = "Be kind.", [f"\n\nHuman: the cat {i}\n\nAssistant: a dog {i}" for i in range(9)]
    last = "\n\nHuman: bye\n\nAssistant:"
    record = {"prompt": system + "".join(turns) + last, "response": " so long"}
    shorter = [system + "".join(turns[i:]) + last for i in range(10)]
    lengths = [len(records.encode_response(prompt, " so long", tokenizer).tokens) for prompt in shorter]
    for limit in (lengths[3], lengths[3] + 1, lengths[9]):
        (kept,) = records.encode_demonstrations([record], tokenizer, limit, "talk.jsonl")
        expected = next(prompt for prompt, length in zip(shorter, lengths) if length <= limit)
        assert tokenizer.decode(kept.tokens[: kept.start]) == expected
        assert "talk.jsonl: 1 of 1 demonstrations lost their oldest turns" in capsys.readouterr().out
    with pytest.raises(InputError, match="none of its demonstrations fits"):
        records.encode_demonstrations([record], tokenizer, lengths[9] - 1, "talk.jsonl")


def test_rankings_and_prompts_lose_oldest_turns_too(tokenizer):
    long, short = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:", "\n\nHuman: three\n\nAssistant:"
    responses = [" four", " five!"]
    limit = max(len(records.encode_response(short, y, tokenizer).tokens) for y in responses)
    (ranking,) = records.encode_rankings([{"prompt": long, "responses": responses, "ranks": [1, 2]}], tokenizer, limit)
    texts = [tokenizer.decode(s.tokens[:-1]) for s in ranking.sequences]
    assert texts == [short + y for y in responses] and ranking.ranks == [1, 2]
    kept, tokens = records.encode_prompts([{"prompt": long}], tokenizer, len(tokenizer.encode(short)))
    assert list(tokens) == [tokenizer.encode(short)] and kept == [{"prompt": long}]


def test_a_prompt_leaves_room_for_the_longest_response(tokenizer, tmp_path):
    path = tiny.write_lines(tmp_path / "p.jsonl", [*tiny.PROMPTS[:1], {"prompt": "a"}])
    n = len(tokenizer.encode(tiny.PROMPTS[0]["prompt"]))
    assert [len(records.load_prompts([path], tokenizer, n_ctx, 8)) for n_ctx in (n + 7, n + 8)] == [1, 2]


def test_a_file_of_which_nothing_fits_is_an_error(tokenizer):
    with pytest.raises(InputError, match="none of its prompts fits in 2 tokens"):
        records.encode_prompts(tiny.PROMPTS, tokenizer, 2, "p.jsonl")


# --- batching -----------------------------------------------------------------------------------------------


def test_collate_pads_at_the_right():
    responses = data.collate([Sequence([5, 6, 7], 1), Sequence(np.array([8, 3]), 1)], pad=9)
    assert responses.tokens.tolist() == [[5, 6, 7], [8, 3, 9]]
    assert responses.lengths.tolist() == [3, 2] and responses.prompt_lengths.tolist() == [1, 1]
    assert responses.mask.tolist() == [[True, True], [True, False]]
    assert responses.tokens.dtype == responses.lengths.dtype == torch.long


def test_documents_are_packed_without_a_list_of_all_their_tokens(tokenizer):
    """A token costs its 4 bytes, held twice while they are laid end to end; a Python list would cost 36 more."""
    pages = [{"text": "the cat sat on the mat " * 500}] * 40
    tracemalloc.start()
    rows = records.pack(pages, tokenizer, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25 * sum(len(row.tokens) for row in rows)


@pytest.mark.parametrize(("items", "size"), [(1, 4), (100, 7), (256, 8), (300, 8)])
def test_an_epoch_has_each_item_exactly_once_in_full_batches_but_one(items, size):
    lengths = np.random.default_rng(0).integers(1, 50, items)
    cut = data.batches(lengths, size, np.random.default_rng(1))
    assert sorted(i for batch in cut for i in batch) == list(range(items))
    assert sorted(map(len, cut), reverse=True) == [size] * (items // size) + [items % size] * (items % size > 0)


def test_batches_come_in_another_order_each_epoch_and_the_same_under_a_seed():
    lengths, rng = np.arange(40), np.random.default_rng(1)
    first, second = ([batch.tolist() for batch in data.batches(lengths, 4, rng)] for _ in range(2))
    assert first != second
    assert first == [batch.tolist() for batch in data.batches(lengths, 4, np.random.default_rng(1))]


def test_items_of_one_length_meet_in_a_batch_by_chance():
    """Wherever they stand in the file: of 1,600, those of the first pool of 128 are spread over the batches."""
    cut = data.batches(np.full(1600, 5), 8, np.random.default_rng(0))
    assert sum(any(i < 128 for i in batch) for batch in cut) > 60  # 16 in the file's order; 98 by chance


def test_rows_of_like_length_share_a_batch():
    lengths = np.random.default_rng(0).permutation(64)
    spread = [max(lengths[batch]) - min(lengths[batch]) for batch in data.batches(lengths, 8, np.random.default_rng(1))]
    assert spread == [7] * 8


@pytest.mark.parametrize("widths", [None, [1, 4, 9, 2, 3, 1, 2, 5]])
def test_micro_batches_cover_the_batch_within_the_budget(widths):
    lengths = [3, 17, 9, 50, 4, 4, 12, 30]
    parts = split_by_tokens(lengths, 60, widths)
    assert sorted(i for part in parts for i in part) == list(range(8))
    for part in parts:
        rows = sum(widths[i] if widths else 1 for i in part)
        assert len(part) == 1 or rows * max(lengths[i] for i in part) <= 60


def test_a_batch_within_the_budget_is_one_micro_batch():
    assert len(split_by_tokens([5, 6, 7, 10], 40)) == 1


def test_at_most_half_of_a_micro_batch_is_padding():
    assert split_by_tokens([50, 4, 4, 4, 4, 40], 1000) == [[1, 2, 3, 4], [5, 0]]
    assert split_by_tokens([4, 4, 4, 4, 40, 50, 200], 1000) == [[0, 1, 2, 3], [4, 5], [6]]
    assert len(split_by_tokens([5, 5, 10, 10, 19], 1000)) == 1
    assert split_by_tokens([5, 30], 1000, rows=[10, 1]) == [[0], [1]]
    assert len(split_by_tokens([10, 12], 1000, rows=[10, 1])) == 1


def test_the_longest_response_is_a_rankings_length():
    ranking = Ranking([Sequence(np.arange(4), 1), Sequence(np.arange(9), 1)], [1, 2])
    assert ranking.length == 9
