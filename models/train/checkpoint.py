"""Checkpoints of a training run: saved whole or not at all, refused where they do not fit."""

import io
import os
import zlib

import torch

from models.train.files import Mistake, replacing

_PARTS = ("config", "step", "elapsed", "begun", "model", "optimizer", "data", "rng")


def save(path, state):
    """Raises Mistake on a full disk or a weight that is not finite; `path` stays what it was."""
    for name, tensor in state["model"].items():
        if not torch.isfinite(tensor).all():
            raise Mistake(f"step {state['step']}: {name} is not finite any more; "
                          f"{last_good(path)}")
    # Through memory: torch's own writer aborts the process when the disk is full.
    buffer = io.BytesIO()
    torch.save(dict(state, checksum=_checksum(state)), buffer)
    with replacing(path) as file:
        file.write(buffer.getbuffer())


def load(path, config=None):
    """The state that was saved. Raises Mistake where it is damaged or of another config.

    With `config`, to go on training with it.
    """
    anew = "; remove it to begin anew" if config is not None else ""
    try:
        state = torch.load(path, map_location="cpu")
    except FileNotFoundError as error:
        raise Mistake(f"{path}: no such file") from error
    except Exception as error:  # torch raises several kinds, by version and kind of damage
        # What torch goes on to advise would run whatever code the file brings.
        reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
        raise Mistake(f"{path}: damaged, not a checkpoint ({reason}){anew}") from error
    missing = [name for name in _PARTS if not isinstance(state, dict) or name not in state]
    if missing:
        raise Mistake(f"{path}: not a checkpoint of training (lacks {', '.join(missing)})")
    if config is not None and state["config"] != config:
        different = sorted(k for k in set(state["config"]) | set(config)
                           if state["config"].get(k) != config.get(k))
        raise Mistake(f"{path}: made with another config (differs in {', '.join(different)}); "
                      "choose another --output")
    if "checksum" in state and state.pop("checksum") != _checksum(state):
        raise Mistake(f"{path}: damaged, its tensors are not those that were saved{anew}")
    return state


def last_good(path):
    if os.path.exists(path):
        return f"the last good state is kept in {path}"
    return "there is no earlier checkpoint"


def _checksum(value, crc=0):
    """Of all tensors below `value`; torch checks none of their bytes when it loads them."""
    if isinstance(value, torch.Tensor):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return zlib.crc32(raw.numpy(), crc)
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            crc = _checksum(value[key], crc)
    elif isinstance(value, (list, tuple)):
        for item in value:
            crc = _checksum(item, crc)
    return crc
