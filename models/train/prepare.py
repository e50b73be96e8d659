"""Cleans and selects text, trains the tokenizer, writes token files for training.

    python3 -m models.train.prepare --corpus simple.txt [--corpus MORE] --output DATA

Input: UTF-8 (optionally .xz), one paragraph a line, documents closed by a line `<|endoftext|>`.
Output: DATA/tokenizer.model, DATA/plain.bin (short plain stories) and DATA/books.bin (the simpler
part of the rest), both uint16 token ids, every document as <s> text </s>. Selection and cleaning are made
for English stories; with --as_it_is any text is taken as it is, short documents in plain.bin and long ones in
books.bin.
"""

import argparse
import collections
import io
import lzma
import os
import random
import re
import statistics

import numpy as np
import sentencepiece

from models.train import files
from models.train.files import Mistake

END = "<|endoftext|>"
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a0": " ",
                         "\u2014": "--", "\u2013": "-", "\ufeff": "", "\t": " ", "\r": ""})
_STORY_CHARS = 7000
_STORY_OPENERS = re.compile(r"(Once upon a time|One day|One sunny|Once there|There was once|"
                            r"[A-Z]\w+ (and \w+ )?(was|were|liked|loved|had|went) )")


def read_documents(path):
    """The documents of a file, as they are. Raises Mistake where it is not text."""
    opener = lzma.open if path.endswith(".xz") else open
    lines = []
    try:
        with opener(path, "rt", encoding="utf-8") as f:
            for line in f:
                if "\0" in line:
                    raise Mistake(f"{path}: binary, not text (a zero byte)")
                if line.strip() == END:
                    yield "\n".join(lines)
                    lines = []
                else:
                    lines.append(line.strip())
    except UnicodeDecodeError as error:
        raise Mistake(f"{path}: binary, not UTF-8 text ({error.reason})") from error
    except (lzma.LZMAError, EOFError) as error:
        raise Mistake(f"{path}: damaged, not an xz file ({error})") from error
    if lines:
        yield "\n".join(lines)


def clean(text):
    """Plain quotes and dashes, no mark-up; joins lines that a page width broke."""
    text = re.sub(r"[*_]+|\[\d+\]", "", text.translate(_QUOTES))
    text = re.sub(r" {2,}", " ", text)
    paragraphs = []
    for line in filter(None, (line.strip() for line in text.split("\n"))):
        broken = paragraphs and (line[0].islower() or paragraphs[-1][-1] in ",;-" or
                                 paragraphs[-1][-1].isalnum() and len(paragraphs[-1]) > 40)
        if broken:
            paragraphs[-1] += " " + line
        else:
            paragraphs.append(line)
    return "\n".join(paragraphs)


def words_of(text):
    return re.findall(r"[a-z']+", text.lower())


def is_plain(text, common):
    """A short story in short, common words."""
    words = words_of(text)
    if len(text) > _STORY_CHARS or len(words) < 30:
        return False
    return sum(word in common for word in words) / len(words) > 0.88


def is_english_prose(text):
    letters = sum(c.isascii() and (c.isalpha() or c in " .,'\"\n-!?;:") for c in text)
    return len(text) > 200 and letters / len(text) > 0.98


def difficulty(text, common):
    """Higher is harder: rare words, and long sentences."""
    words = words_of(text)
    rare = 1 - sum(word in common for word in words) / max(1, len(words))
    sentences = [len(s.split()) for s in re.split(r"[.!?]+", text) if s.strip()]
    return rare + 0.004 * statistics.fmean(sentences or [100])


def select(documents, books_fraction):
    """(plain stories, the simplest share of the other documents by size)."""
    counts = collections.Counter()
    for text in documents:
        if len(text) < 4000 and _STORY_OPENERS.match(text):
            counts.update(words_of(text))
    common = {word for word, _ in counts.most_common(2000)}
    plain = [text for text in documents if is_plain(text, common)]
    rest = [text for text in documents if not is_plain(text, common) and is_english_prose(text)]
    rest.sort(key=lambda text: difficulty(text, common))
    budget = books_fraction * sum(map(len, rest))
    books = []
    for text in rest:
        budget -= len(text)
        if budget < 0:
            break
        books.append(text)
    return plain, books


def divide(documents):
    """(short documents, long ones); one kind alone is cut in halves, since both are trained on."""
    short = [text for text in documents if len(text) <= _STORY_CHARS]
    rest = [text for text in documents if len(text) > _STORY_CHARS]
    if short and rest:
        return short, rest
    return documents[::2], documents[1::2]


def train_tokenizer(plain, books, prefix, vocab_size, seed):
    # Identity normalisation and kept spaces: decoding gives back the very text. A newline has no
    # piece of its own and becomes the byte <0x0A>, which decodes to itself.
    rng = random.Random(seed)
    lines = [line for text in plain for line in text.split("\n")]
    more = [line for text in books for line in text.split("\n")]
    rng.shuffle(more)
    budget = 4 * sum(map(len, lines))
    for line in more:
        budget -= len(line)
        if budget < 0:
            break
        lines.append(line)
    rng.shuffle(lines)
    model = io.BytesIO()  # Not a model_prefix: the model would carry that path for ever.
    try:
        _train_sentencepiece(lines, model, vocab_size)
    except RuntimeError as error:
        raise Mistake(f"a tokenizer of {vocab_size} pieces cannot be made of "
                      f"{sum(map(len, lines))} characters: more text, or a smaller --vocab_size "
                      f"({str(error).splitlines()[0]})") from error
    with files.replacing(prefix + ".model") as file:
        file.write(model.getvalue())


def _train_sentencepiece(lines, model, vocab_size):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size,
        model_type="unigram", byte_fallback=True, character_coverage=0.9995,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=2, minloglevel=1)


def encode(documents, tokenizer):
    ids = []
    for text in documents:
        ids.append(tokenizer.bos_id())
        ids.extend(tokenizer.encode(text))
        ids.append(tokenizer.eos_id())
    return np.array(ids, dtype=np.uint16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--books_fraction", type=float, default=0.5,
                        help="share of the longer texts that is kept, the simplest first")
    parser.add_argument("--as_it_is", action="store_true",
                        help="take every document, of any language, and change nothing in it")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.vocab_size > 1 << 16:
        raise Mistake(f"--vocab_size: {args.vocab_size} ids do not fit 16 bits")
    files.make_folder(args.output)
    documents = [text if args.as_it_is else clean(text)
                 for path in args.corpus for text in read_documents(path)]
    documents = list(dict.fromkeys(filter(None, documents)))
    if not documents:
        raise Mistake(f"{', '.join(args.corpus)}: empty, no text in it")
    plain, books = divide(documents) if args.as_it_is else select(documents, args.books_fraction)
    for group, what in (
            (plain, "short plain stories (30 words to 7,000 characters, 88 % of them among the 2,000 "
                    "commonest words of stories that begin like 'Once upon a time', in English)"),
            (books, "longer texts (English prose of 200 characters or more, 98 % of them a to z and "
                    "common marks)")):
        if not group:
            what = "two" if args.as_it_is else what
            raise Mistake(f"{', '.join(args.corpus)}: {len(documents)} documents, no {what} "
                          f"among them; documents end with a line {END}" +
                          ("" if args.as_it_is else "; --as_it_is takes any text"))
    random.Random(args.seed).shuffle(plain)
    random.Random(args.seed).shuffle(books)
    prefix = os.path.join(args.output, "tokenizer")
    train_tokenizer(plain, books, prefix, args.vocab_size, args.seed)
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=prefix + ".model")
    for name, group in (("plain", plain), ("books", books)):
        ids = encode(group, tokenizer)
        with files.replacing(os.path.join(args.output, name + ".bin")) as file:
            file.write(ids.tobytes())
        size = sum(len(text.encode("utf-8")) for text in group)
        print(f"{name}: {len(group)} documents, {size} bytes, {len(ids)} tokens, "
              f"{size / len(ids):.2f} bytes per token")


if __name__ == "__main__":
    files.run_main(main)
