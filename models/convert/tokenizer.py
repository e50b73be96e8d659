"""The tokenizer that goes beside converted weights: checked here, since a server that refuses it at
its start comes too late. The server looks closer (models/text)."""

import json
import os

from models.convert.errors import ConvertError, shown

CONFIG = "tokenizer_config.json"
_NAMES = ("tokenizer.model", "tokenizer.json", CONFIG, "special_tokens_map.json",
          "added_tokens.json")
_KINDS = {
    "normalizer": ("normalizers", {"NFC", "Prepend", "Replace"}),
    "pre_tokenizer": ("pretokenizers", {"ByteLevel", "Metaspace", "Split", "Digits"}),
    "post_processor": ("processors", {"ByteLevel", "TemplateProcessing"}),
    "decoder": ("decoders", {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip"}),
}
_LFS = b"version https://git-lfs.github.com/spec/"


def tokenizer_files(source):
    """{name in the folder: path} for --tokenizer: a file, or a folder that has one."""
    if os.path.isdir(source):
        found = {n: os.path.join(source, n) for n in _NAMES
                 if os.path.isfile(os.path.join(source, n))}
        if not {"tokenizer.model", "tokenizer.json"} & set(found):
            raise ConvertError(f"{source}: has neither tokenizer.model nor tokenizer.json")
        return found
    if not os.path.isfile(source):
        raise ConvertError(f"{source}: no such file")
    for ending in (".model", ".json"):
        if source.endswith(ending):
            return {"tokenizer" + ending: source}
    raise ConvertError(f"{source}: must be a SentencePiece .model or a tokenizer .json")


def check(files, vocab_size):
    """Raises ConvertError where the server would refuse the files that it reads."""
    by_json = "tokenizer.json" in files
    if by_json and "tokenizer.model" in files:
        model = _object(files["tokenizer.json"]).get("model")
        by_json = not isinstance(model, dict) or model.get("type") != "Unigram"
    if by_json:
        _check_json(files["tokenizer.json"], vocab_size)
    elif "tokenizer.model" in files:
        _check_model(files["tokenizer.model"], vocab_size)
    config = config_of(files)
    if config.get("add_eos_token"):
        raise ConvertError(f"{files[CONFIG]}: add_eos_token: true is not served: nothing continues "
                           "a text that has ended")


def config_of(files):
    """The tokenizer_config.json among the files, {} where there is none."""
    return _object(files[CONFIG]) if CONFIG in files else {}


def _read(path):
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConvertError(f"{path}: {error.strerror}") from None
    if data.startswith(_LFS):
        raise ConvertError(f"{path}: a Git LFS pointer, not the file; `git lfs pull` fetches it")
    return data


def _object(path):
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"{path}: not valid JSON ({shown(error)})") from None
    if not isinstance(value, dict):
        raise ConvertError(f"{path}: must be an object")
    return value


def _check_model(path, vocab_size):
    """Pieces are the fields of number 1 of a Protocol Buffers message."""
    data, at, pieces = _read(path), 0, 0
    try:
        while at < len(data):
            tag, at = _varint(data, at)
            if tag & 7 != 2:
                raise ValueError
            size, at = _varint(data, at)
            at += size
            pieces += tag >> 3 == 1
        if at != len(data) or not pieces:
            raise ValueError
    except (ValueError, IndexError):
        raise ConvertError(f"{path}: not a SentencePiece model") from None
    if pieces > vocab_size:
        raise ConvertError(f"{path}: has {pieces} pieces; the model's vocabulary is {vocab_size}")


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError


def _check_json(path, vocab_size):
    file = _object(path)
    model = file.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if kind != "BPE" or not isinstance(model.get("vocab"), dict):
        raise ConvertError(f"{path}: model: must be a BPE with a vocab; nothing else is served")
    for field, (parts, known) in _KINDS.items():
        for part in _parts(file.get(field), parts):
            if part not in known:
                raise ConvertError(f"{path}: {field}: {shown(part)} is not served")
    added = {token.get("content"): token.get("id") for token in file.get("added_tokens") or []
             if isinstance(token, dict)}
    for token, number in [*model["vocab"].items(), *added.items()]:
        if not isinstance(number, int) or not 0 <= number < vocab_size:
            raise ConvertError(f"{path}: {shown(token)} has the id {shown(number)}; the model's "
                               f"vocabulary is {vocab_size}")


def _parts(value, parts):
    """The types of a part of the pipeline, those of a sequence one by one."""
    if value is None:
        return []
    kind = value.get("type") if isinstance(value, dict) else None
    if kind != "Sequence":
        return [kind]
    items = value.get(parts)
    return [kind for item in (items if isinstance(items, list) else [None])
            for kind in _parts(item if isinstance(item, dict) else {}, parts)]
