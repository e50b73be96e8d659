"""config.json of a RAT model from the shapes of its tensors, and what every tensor must look like.

Shapes tell the width, the vocabulary, the layers and their types, the feed-forward, whether the
output matrix is tied, and the product of groups and head width. What they cannot tell comes, in
this order, from the command line, from the settings that the authors' trainer saved beside the
weights, or from the paper's models.
"""

import re

from models.convert.errors import ConvertError, shown

EMBEDDING = "embedding.wte.weight"
HEAD = "head.lm_head.weight"
_LAYER = re.compile(r"backbone\.layers\.(\d{1,6})\.")

# The limits of the server (models/config.cc).
_LIMITS = {"vocab_size": 1 << 20, "d_model": 1 << 16, "d_ffn": 1 << 19, "num_layers": 1024,
           "num_head": 4096, "chunk_size": 4096, "window_size": (1 << 30) - 1,
           "max_position_embeddings": 1 << 30}
_MAX_HEAD_DIM = 256
_PAPER = {"ngroups": 2, "chunk_size": 16, "window_size": 1024, "rope_base": 10000,
          "max_position_embeddings": 4096, "norm_eps": 1e-6}
# What the authors call their layers; rat_slow is the same computation, token by token.
_CELLS = {"rat": "rat", "rat_slow": "rat", "local_attention": "local_attention",
          "attention": "attention"}
_LLAMA2_VOCAB = 32000  # The paper's tokenizer, whose BOS and EOS are 1 and 2.


class RatConfig:
    """`fields`: config.json. `notes`: one line for each choice that the shapes did not make."""
    MODEL_TYPE = "rat"
    TITLE = "RAT"

    def __init__(self, path, tensors, recorded, flags):
        self.fields = {"model_type": self.MODEL_TYPE}
        self.notes = []
        self._path = path
        self._tensors = tensors
        self._flags = flags
        self._recorded = self._recorded_settings(recorded)
        self._read_embedding()
        kinds = self._layer_kinds()
        self._read_feed_forward()
        self._read_heads(kinds)
        self._read_positions(kinds)
        self._read_ids()
        self._check_recorded()

    def shapes(self):
        """{tensor: shape} of everything that the config asks for, in the order of the layers."""
        f = self.fields
        d = f["d_model"]
        shapes = {EMBEDDING: (f["vocab_size"], d)}
        mixed = 3 * d + 2 * f["ngroups"] * (d // f["num_head"])
        for i, kind in enumerate(f["layer_types"]):
            layer = f"backbone.layers.{i}."
            shapes[layer + "seq_layer.input_norm.weight"] = (d,)
            shapes[layer + "seq_layer.in_proj.weight"] = (mixed if kind == "rat" else 3 * d, d)
            if kind == "rat":
                shapes[layer + "seq_layer.gate_bias"] = (d,)
            shapes[layer + "seq_layer.out_proj.weight"] = (d, d)
            shapes.update(self._feed_forward_shapes(i))
        shapes["backbone.ln.weight"] = (d,)
        if not f["tie_embedding"]:
            shapes[HEAD] = (f["vocab_size"], d)
        return shapes

    def summary(self):
        """What the shapes tell of the layers."""
        f = self.fields
        return (f"{f['num_layers']} layers ({f['layer_types'].count('rat')} RAT), width "
                f"{f['d_model']}, {f['ngroups']} groups")

    def _feed_forward_shapes(self, i):
        layer, d = f"backbone.layers.{i}.hidden_layer.", self.fields["d_model"]
        return {layer + "ln.weight": (d,), layer + "fc1.weight": (self._fc1_rows, d),
                layer + "fc2.weight": (d, self.fields["d_ffn"])}

    def _fail(self, message):
        raise ConvertError(f"{self._path}: {message}")

    def _shape(self, name, dims):
        if name not in self._tensors:
            self._fail(f"tensor {name}: missing")
        shape = self._tensors[name].shape
        if len(shape) != dims:
            self._fail(f"tensor {name}: has shape {list(shape)}, must have {dims} dimension(s)")
        return shape

    def _set(self, name, value, limit=None):
        limit = limit or _LIMITS.get(name)
        if limit and not 1 <= value <= limit:
            self._fail(f"{name}: is {value}; must be 1 to {limit}")
        self.fields[name] = value

    def _choose(self, name, default, reason="as in the paper"):
        """A field that shapes cannot tell: from a flag, the recorded settings or `default`."""
        flag, recorded = self._flags.get(name), self._recorded.get(name)
        if flag is not None:
            value, source = flag, f"--{name}"
            if recorded is not None and recorded != flag:
                source += f"; the checkpoint's own settings say {shown(recorded)}"
        elif recorded is not None:
            value, source = recorded, "the checkpoint's own settings"
        else:
            value, source = default, f"{reason}; --{name} sets another"
        if type(value) is not int and not (name == "rope_base" and type(value) is float):
            text = ", a text" if isinstance(value, str) else ""
            self._fail(f"settings: {name} is {shown(value)}{text}; must be a whole number; --{name} "
                       "sets one")
        self.notes.append(f"{name} = {value} ({source})")
        return value

    def _read_embedding(self):
        vocab, d = self._shape(EMBEDDING, 2)
        self._set("vocab_size", vocab)
        self._set("d_model", d)
        numbers = [int(m.group(1)) for m in map(_LAYER.match, self._tensors) if m]
        if not numbers:
            self._fail("tensor backbone.layers.0.seq_layer.in_proj.weight: missing; the model has "
                       "no layers")
        self._set("num_layers", max(numbers) + 1)
        self.fields["tie_embedding"] = HEAD not in self._tensors

    def _layer_kinds(self):
        """RAT's projection has more rows than 3 d, attention's exactly as many."""
        kinds, d = [], self.fields["d_model"]
        for i in range(self.fields["num_layers"]):
            name = f"backbone.layers.{i}.seq_layer.in_proj.weight"
            rows = self._shape(name, 2)[0]
            if rows < 3 * d:
                self._fail(f"tensor {name}: has {rows} rows, must have 3 * {d} (attention) "
                           "or more (RAT)")
            kinds.append("rat" if rows > 3 * d else "attention")
        if "rat" not in kinds:
            rnn = "backbone.layers.0.seq_layer.gate_bias" in self._tensors
            self._fail(f"no layer is RAT: every in_proj.weight has 3 * {d} rows, as in the "
                       f"authors' {'RNN' if rnn else 'attention'} models, which are not of this "
                       "family")
        other = self._other_kind() if "attention" in kinds else None
        return [other if kind == "attention" else kind for kind in kinds]

    def _other_kind(self):
        """Layers that are not RAT: local attention, or full attention of the same shapes."""
        flag, recorded = self._flags.get("attention"), self._recorded.get("other")
        if flag is not None:
            kind, source = {"local": "local_attention", "full": "attention"}[flag], "--attention"
            if recorded not in (None, kind):
                source += f"; the checkpoint's own settings say {recorded}"
        elif recorded is not None:
            kind, source = recorded, "the checkpoint's own settings"
        else:
            kind = "local_attention"
            source = "as in the paper; full attention has the same shapes: --attention full"
        self.notes.append(f"layers that are not RAT are {kind} ({source})")
        return kind

    def _read_feed_forward(self):
        fc1, fc2 = (f"backbone.layers.0.hidden_layer.{n}.weight" for n in ("fc1", "fc2"))
        ffn, rows = self._shape(fc2, 2)[1], self._shape(fc1, 2)[0]
        if rows not in (ffn, 2 * ffn):
            self._fail(f"tensor {fc1}: has {rows} rows, must have {ffn} (gelu) or {2 * ffn} "
                       f"(swiglu), since {fc2} has {ffn} columns")
        self._set("d_ffn", ffn)
        self._fc1_rows = rows
        self.fields["act_fn"] = "gelu" if rows == ffn else "swiglu"
        if rows == ffn and "act_fn" not in self._recorded:
            self.notes.append("act_fn = gelu (as in the paper; other activations, relu^2 for "
                              "instance, have the same shapes and are not served)")

    def _read_heads(self, kinds):
        d = self.fields["d_model"]
        name = f"backbone.layers.{kinds.index('rat')}.seq_layer.in_proj.weight"
        shared = self._tensors[name].shape[0] - 3 * d
        # All of the authors' settings have two groups, whatever the width of a head.
        heads = self._choose("num_head", max(1, d // max(1, shared // (2 * _PAPER["ngroups"]))),
                             "which gives two groups, as in the paper")
        self._check_heads(heads)
        self._set("num_head", heads)
        groups, rest = divmod(shared, 2 * (d // heads))
        if rest or not groups or heads % groups:
            self._fail(f"tensor {name}: its {shared} rows of queries and keys are no groups of "
                       f"{heads} heads of {d // heads} channels; see --num_head")
        self.fields["ngroups"] = groups

    def _check_heads(self, heads):
        d = self.fields["d_model"]
        if heads < 1 or d % heads or d // heads % 2:
            self._fail(f"num_head: is {heads}; must divide d_model {d} into heads of an even "
                       "number of channels; see --num_head")
        if d // heads > _MAX_HEAD_DIM:
            self._fail(f"num_head: is {heads}, which makes heads of {d // heads} channels; the "
                       f"limit is {_MAX_HEAD_DIM}")

    def _read_positions(self, kinds):
        self._set("chunk_size", self._choose("chunk_size", _PAPER["chunk_size"]))
        windowed = "local_attention" in kinds
        window = self._choose("window_size", _PAPER["window_size"]) if windowed else None
        if windowed and not 0 <= window <= _LIMITS["window_size"]:
            self._fail(f"window_size: is {window}; must be 0 to {_LIMITS['window_size']}")
        self.fields["window_size"] = window
        self.fields["interleave_step"] = _step(kinds)
        self.fields["layer_types"] = kinds
        self._set("rope_base", self._choose("rope_base", _PAPER["rope_base"]), 10**12)
        self.fields["norm_eps"] = _PAPER["norm_eps"]  # Fixed in the authors' code.
        self._set("max_position_embeddings", self._choose("max_position_embeddings",
                                                          _PAPER["max_position_embeddings"]))

    def _read_ids(self):
        vocab = self.fields["vocab_size"]
        llama = {"bos_token_id": 1, "eos_token_id": 2} if vocab == _LLAMA2_VOCAB else {}
        for name in ("bos_token_id", "eos_token_id"):
            value = self._flags.get(name)
            if value is None and name in llama:
                value = llama[name]
                self.notes.append(f"{name} = {value} (as in Llama 2's tokenizer, which the paper "
                                  f"uses; --{name} sets another)")
            if value is None:
                continue
            if not 0 <= value < vocab:
                self._fail(f"{name}: is {value}; must be 0 to {vocab - 1}")
            self.fields[name] = value

    def _check_recorded(self):
        """Recorded settings that the shapes contradict, or that the server could not compute."""
        expected = {name: self.fields[name] for name in self._expected()}
        expected["ln"] = "rmsnorm"
        for name, value in expected.items():
            recorded = self._recorded.get(name)
            if recorded is None or recorded == value:
                continue
            served = {"act_fn": ("gelu", "swiglu"), "ln": ("rmsnorm",)}.get(name)
            if served and recorded not in served:
                self._fail(f"settings: {name} is {shown(recorded)}, which is not served; only "
                           f"{' and '.join(served)}")
            self._fail(f"settings: {name} is {shown(recorded)}; the weights and the family ask for "
                       f"{value}")

    def _expected(self):
        """Fields whose recorded settings must be what was found."""
        return ("vocab_size", "d_model", "num_layers", "d_ffn", "act_fn", "ngroups")

    def _recorded_settings(self, config):
        """The fields of interest of the trainer's settings, {} where there are none of that form."""
        def at(*path):
            value = config
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            return value

        backbone = ("model", "backbone")
        found = self._recorded_cells(lambda *path: at(*backbone, *path))
        found.update({name: at(*backbone, name) for name in ("d_model", "num_layers", "ln")})
        found.update({name: at(*backbone, "hidden_cell", name) for name in ("d_ffn", "act_fn")})
        found["rope_base"] = at("model", "embedding", "pe", "base")
        found["vocab_size"] = at("data", "vocab_size")
        found["max_position_embeddings"] = at("data", "seq_len")
        return {name: value for name, value in found.items() if value is not None}

    def _recorded_cells(self, at):
        """What the settings say of the layers; at(...) looks up a path in those of the backbone."""
        cells = {}
        for cell in ("seq_cell", "seq_cell1"):
            name = at(cell, "_name_")
            if name is None:
                continue
            if not isinstance(name, str) or name not in _CELLS:
                self._fail(f"settings: {cell}._name_ is {shown(name)}; must be one of "
                           f"{', '.join(_CELLS)}")
            cells[_CELLS[name]] = at(cell)
        rat, local = cells.get("rat", {}), cells.get("local_attention", {})
        found = {name: rat.get(name) for name in ("chunk_size", "num_head", "ngroups")}
        others = sorted(set(cells) - {"rat"})
        found["other"] = others[0] if len(others) == 1 else None
        found["window_size"] = local.get("window_size")
        return found


def _step(kinds):
    """The interleave_step that gives these layers: null for RAT alone, or if there is none."""
    rats = [i for i, kind in enumerate(kinds) if kind == "rat"]
    if len(rats) == len(kinds) or rats[0] != 0:
        return None
    step = rats[1] if len(rats) > 1 else len(kinds)
    return step if rats == list(range(0, len(kinds), step)) else None
