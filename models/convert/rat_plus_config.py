"""config.json of a RAT+ model (models/convert/rat_config.py says how such a file comes about).

RAT+ layers look like RAT's whose heads share nothing, but for the bias of their gates, which they
do not have. The dial (what attention sees) is in no shape: a flag or the recorded settings tell it.
"""

import dataclasses
from typing import List, Tuple

from models.convert.errors import shown
from models.convert.rat_config import EMBEDDING, HEAD, RatConfig

_LAYER = "backbone.layers.{}.seq_layer."
_GATE = "fgate_proj.weight"
_HEAD_DIM = 128  # In all of the paper's models.
_MAX_DIAL = 1 << 30
# Least value, and what is taken where nobody says: attention to everything.
_DIAL = {"dilation_size": (-1, 1), "local_size": (0, 0), "initial_size": (0, 0)}


@dataclasses.dataclass
class Stacked:
    """Tensors (name, Tensor) whose rows stand one below the other, as one tensor."""
    parts: List[Tuple[str, object]]

    @property
    def dtype(self):
        return self.parts[0][1].dtype

    @property
    def shape(self):
        return (sum(t.shape[0] for _, t in self.parts), *self.parts[0][1].shape[1:])

    @property
    def bytes(self):
        return sum(t.bytes for _, t in self.parts)


def recognises(tensors):
    """Whether the first layer is one of RAT+."""
    layer = _LAYER.format(0)
    projection, embedding = tensors.get(layer + "in_proj.weight"), tensors.get(EMBEDDING)
    if projection is None or embedding is None or layer + "gate_bias" in tensors:
        return False
    return layer + _GATE in tensors or projection.shape[:1] == (5 * embedding.shape[-1],)


class RatPlusConfig(RatConfig):
    MODEL_TYPE = "ratplus"
    TITLE = "RAT+"

    def shapes(self):
        f = self.fields
        d = f["d_model"]
        shapes = {EMBEDDING: (f["vocab_size"], d)}
        for i in range(f["num_layers"]):
            shapes[_LAYER.format(i) + "input_norm.weight"] = (d,)
            shapes[_LAYER.format(i) + "in_proj.weight"] = (5 * d, d)
            shapes[_LAYER.format(i) + "out_proj.weight"] = (d, d)
            shapes.update(self._feed_forward_shapes(i))
        shapes["backbone.ln.weight"] = (d,)
        if not f["tie_embedding"]:
            shapes[HEAD] = (f["vocab_size"], d)
        return shapes

    def summary(self):
        f = self.fields
        return f"{f['num_layers']} layers of RAT+, width {f['d_model']}"

    def _layer_kinds(self):
        """Brings the older layout, whose gate is a matrix of its own, into the newer one."""
        d = self.fields["d_model"]
        if self._recorded.get("apply_re") is False:
            self._fail("settings: apply_re is false, the authors' attention model, which is not "
                       "served; only true")
        for i in range(self.fields["num_layers"]):
            name, gate = _LAYER.format(i) + "in_proj.weight", _LAYER.format(i) + _GATE
            rows = self._shape(name, 2)[0]
            if gate in self._tensors:
                shape, dtype = self._shape(gate, 2), self._tensors[gate].dtype
                if (rows, shape) != (4 * d, (d, d)):
                    self._fail(f"tensor {gate}: has shape {list(shape)}, beside {rows} rows of "
                               f"in_proj.weight; must have {[d, d]} beside {4 * d}")
                if dtype != self._tensors[name].dtype:
                    self._fail(f"tensor {gate}: has dtype {dtype}, {name} "
                               f"{self._tensors[name].dtype}; must be the same")
                self._tensors[name] = Stacked([(n, self._tensors[n]) for n in (name, gate)])
                del self._tensors[gate]
            elif rows != 5 * d:
                why = "; without a gate this is the authors' attention model, which is not served" \
                    if rows == 4 * d else ""
                self._fail(f"tensor {name}: has {rows} rows, must have 5 * {d}, or 4 * {d} beside "
                           f"a {_GATE}{why}")
        return ["rat_plus"] * self.fields["num_layers"]

    def _read_heads(self, kinds):
        d = self.fields["d_model"]
        heads = self._choose("num_head", max(1, d // _HEAD_DIM),
                             f"heads of {_HEAD_DIM} channels, as in the paper")
        self._check_heads(heads)
        self._set("num_head", heads)
        self.fields["d_head"] = d // heads

    def _read_positions(self, kinds):
        self._set("seq_len", self._choose("max_position_embeddings", 4096), 1 << 30)
        for name, (least, default) in _DIAL.items():
            self.fields[name] = self._dial(name, least, default)
        self.fields["apply_re"] = True
        if "joint_train" in self._recorded:
            self.fields["joint_train"] = self._recorded["joint_train"]
        self._set("rope_base", self._choose("rope_base", 10000), 10**12)
        self.fields.update({"bias": False, "ln": "rmsnorm", "norm_eps": 1e-6})

    def _dial(self, name, least, default):
        flag, recorded = self._flags.get(name), self._recorded.get(name)
        value = next(v for v in (flag, recorded, default) if v is not None)
        source = f"--{name}" if flag is not None else "the checkpoint's own settings" \
            if recorded is not None else f"all is seen; --{name} sets another"
        if flag is not None and recorded is not None and flag != recorded:
            source += f"; the checkpoint's own settings say {shown(recorded)}, for which it was trained"
        layers = self.fields["num_layers"]
        numbers = value if isinstance(value, (list, tuple)) else [value] * layers
        if len(numbers) != layers:
            self._fail(f"settings: {name} has {len(numbers)} numbers; must be one, or one for each "
                       f"of {layers} layers")
        for number in numbers:
            if type(number) is not int or not least <= number <= _MAX_DIAL or \
                    (name == "dilation_size" and number == 0):
                but = ", but not 0" if least < 0 else ""
                self._fail(f"settings: {name} is {shown(number)}; must be a whole number from "
                           f"{least} to {_MAX_DIAL}{but}; --{name} sets one")
        self.notes.append(f"{name} = {shown(value)} ({source})")
        return list(numbers) if isinstance(value, (list, tuple)) else value

    def _expected(self):
        return ("vocab_size", "d_model", "num_layers", "d_ffn", "act_fn", "d_head")

    def _recorded_cells(self, at):
        return {name: at("seq_cell", name) for name in
                ("num_head", "d_head", "apply_re", "joint_train", *_DIAL)}
