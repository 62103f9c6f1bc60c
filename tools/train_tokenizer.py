"""Learns a tokenizer's merges from any files of records or text.

python -m tools.train_tokenizer --data corpus.jsonl --vocab_size 1024 --out runs/tokenizer
"""

from dataclasses import dataclass

from minirlhf.support.config import command, parse
from minirlhf.support.errors import require
from minirlhf.support.folder import claim
from minirlhf.support.records import texts
from minirlhf.support.tokenizer import Tokenizer, train_bpe


@dataclass(frozen=True)
class Config:
    data: tuple[str, ...]  # files to learn the merges from: .jsonl, .jsonl.gz (any kind of record) or .txt
    out: str  # folder for tokenizer.tiktoken and tokenizer.json
    vocab_size: int = 1024  # ids in all: 256 bytes, the merges, end-of-text (GPT-2 has 50257)

    def __post_init__(self):
        room = self.vocab_size >= 257
        require(room, f"--vocab_size {self.vocab_size}: 256 bytes and the end-of-text token need 257 at least")


def main(argv):
    config = parse(Config, argv, __doc__)
    corpus = [text for path in config.data for text in texts(path) if text]
    require(corpus, f"{config.data[0]}: no text to learn merges from; give records or a .txt file (data/README.md)")
    claim(config)
    tokenizer = Tokenizer(train_bpe(corpus, config.vocab_size))
    tokenizer.save(config.out)
    fewer = tokenizer.n_vocab < config.vocab_size
    found = f"{tokenizer.n_vocab} tokens, the longest {max(tokenizer.ranks, key=len)}"
    print(f"{config.out}: {found}{'; the texts have no more pairs to merge' if fewer else ''}")


if __name__ == "__main__":
    command(main)
