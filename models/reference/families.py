"""Brings four model families to one description and one set of tensor names.

`parse_config` turns a family's config.json into a ModelSpec. `to_internal` renames (and splits)
a checkpoint's tensors to the names of models/reference/model.py, which are the packrat family's.
"""

import dataclasses
from typing import List, Optional, Tuple


@dataclasses.dataclass
class LayerSpec:
    # "rat", "rat_plus", "attention" (full or windowed), "mesa", "gated_delta_net", "mamba2",
    # "short_conv" or "rg_lru"
    kind: str
    num_heads: int  # gated_delta_net: of values
    head_dim: int  # gated_delta_net: of values
    kv_heads: int = 0  # attention, gated_delta_net: key heads; rat, mamba2: groups
    # attention: visible keys, the query's own included; rat_plus: positions before the query's own
    window: Optional[int] = None
    rope_theta: float = 10000.0
    qkv_bias: bool = False
    chunk_size: int = 16  # rat
    conv_size: int = 4  # mesa, gated_delta_net, mamba2, short_conv, rg_lru
    conv_bias: bool = False
    lambda_lower_bound: float = 0.25
    output_gate: bool = True
    key_dim: int = 0  # gated_delta_net; mamba2: the state's size
    norm: str = "after_gate"  # mamba2: or "before_gate" or "none"
    norm_groups: int = 1
    in_bias: bool = False
    step_limits: Tuple[float, float] = (0.0, float("inf"))
    dilation: int = 1  # rat_plus; -1: no position for that reason
    sinks: int = 0  # rat_plus


@dataclasses.dataclass
class ExpertsSpec:
    num_experts: int
    num_chosen: int  # of a token
    width: int
    score: str = "softmax"  # or "sigmoid"
    normalize: bool = True
    scale: float = 1.0
    bias: bool = False


@dataclasses.dataclass
class ModelSpec:
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: List[LayerSpec]
    norm_eps: float = 1e-6
    ffn: str = "swiglu"  # or "gelu" (two matrices, exact erf)
    tie: bool = True
    experts: Optional[ExpertsSpec] = None  # beside each feed-forward


def parse_config(config):
    """ModelSpec of a config.json's dictionary."""
    parsers = {"rat": _parse_rat, "ratplus": _parse_rat_plus, "rat_plus": _parse_rat_plus,
               "mesa_net": _parse_mesa_net, "packrat": _parse_packrat}
    family = config.get("model_type")
    if family not in parsers:
        raise ValueError(f"model_type: unknown family {family!r}, expected one of {list(parsers)}")
    return parsers[family](config)


def to_internal(config, tensors):
    """Tensors of any family under the internal names, as float32."""
    renamers = {"rat": _rename_rat, "ratplus": _rename_rat, "rat_plus": _rename_rat,
                "mesa_net": _rename_mesa_net, "packrat": lambda c, t: dict(t)}
    renamed = renamers[config["model_type"]](config, tensors)
    return {name: tensor.float() for name, tensor in renamed.items()}


def _parse_rat(c):
    d, heads = c["d_model"], c["num_head"]
    theta = float(c.get("rope_base", 10000))
    layers = []
    for kind in _rat_layer_types(c):
        layer = LayerSpec("rat", heads, d // heads, c["ngroups"], rope_theta=theta)
        if kind == "rat":
            layer.chunk_size = c["chunk_size"]
        else:  # this family's window does not count the query's own key
            window = None if kind == "attention" else c["window_size"] + 1
            layer = LayerSpec("attention", heads, d // heads, heads, window, theta)
        layers.append(layer)
    return _rat_model(c, layers)


def _parse_rat_plus(c):
    d, heads = c["d_model"], c["num_head"]
    theta = float(c.get("rope_base", 10000))

    def dial(name, default):
        value = c.get(name, default)
        return value if isinstance(value, list) else [value] * c["num_layers"]

    dials = zip(dial("dilation_size", 1), dial("local_size", 0), dial("initial_size", 0))
    return _rat_model(c, [LayerSpec("rat_plus", heads, d // heads, heads, window, theta,
                                    dilation=dilation, sinks=sinks)
                          for dilation, window, sinks in dials])


def _rat_model(c, layers):
    return ModelSpec(
        c["vocab_size"], c["d_model"], c["d_ffn"], layers, c.get("norm_eps", 1e-6),
        "swiglu" if c.get("act_fn", "gelu") == "swiglu" else "gelu", c.get("tie_embedding", True))


def _rat_layer_types(c):
    if c["model_type"] != "rat":
        return ["rat_plus"] * c["num_layers"]
    if c.get("layer_types"):
        return c["layer_types"]
    step = c.get("interleave_step")
    return ["rat" if step is None or i % step == 0 else "local_attention"
            for i in range(c["num_layers"])]


def _parse_mesa_net(c):
    d = c["hidden_size"]
    mesa = LayerSpec(
        "mesa", c["num_heads"], c.get("head_dim") or d // c["num_heads"],
        conv_size=c.get("conv_size", 4), conv_bias=c.get("conv_bias", False),
        lambda_lower_bound=c.get("lambda_lower_bound", 0.25),
        output_gate=c.get("use_output_gate", False))
    layers = [mesa] * c["num_hidden_layers"]
    attn = c.get("attn") or []
    for group in [attn] if isinstance(attn, dict) else attn:
        heads = group["num_heads"]
        spec = LayerSpec(
            "attention", heads, d // heads, group.get("num_kv_heads") or heads,
            group.get("window_size"), float(group.get("rope_theta") or 10000.0),
            bool(group.get("qkv_bias", False)))
        for i in group["layers"]:
            layers[i] = spec
    ffn = c.get("intermediate_size")
    if not ffn:
        ffn = -(-int(d * c.get("hidden_ratio", 4) * 2 / 3) // 256) * 256
    return ModelSpec(c["vocab_size"], d, ffn, layers, c.get("norm_eps", 1e-6),
                     tie=c.get("tie_word_embeddings", False))


def _size(c, name, where="", least=1, divides=None):
    """A field that is an integer of at least `least`, and a divisor of (value, name) `divides`."""
    value = c[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{where}{name}: is {value!r}; must be an integer of {least} or more")
    if divides and divides[0] % value:
        raise ValueError(f"{where}{name}: is {value}; must divide {divides[1]} {divides[0]}")
    return value


def _parse_packrat(c):
    d = _size(c, "hidden_size")
    theta = float(c.get("rope_theta", 10000.0))
    layers = []
    for kind in c["layer_types"]:
        if kind not in ("rat", "rat_plus", "mesa", "local_attention", "attention",
                        "gated_delta_net", "mamba2", "short_conv", "rg_lru"):
            raise ValueError(f"layer_types: unknown layer {kind!r}")
        o, where = c[kind], kind + "."
        if kind == "gated_delta_net":
            heads = _size(o, "num_value_heads", where)
            layers.append(LayerSpec(
                kind, heads, _size(o, "value_dim", where),
                _size(o, "num_key_heads", where, divides=(heads, "num_value_heads")),
                key_dim=_size(o, "key_dim", where), conv_size=_size(o, "conv_size", where)))
            continue
        if kind == "mamba2":
            heads = _size(o, "num_heads", where)
            low, high = o.get("time_step_limit", (0.0, float("inf")))
            layers.append(LayerSpec(
                kind, heads, _size(o, "head_dim", where),
                _size(o, "num_groups", where, divides=(heads, "num_heads")),
                key_dim=_size(o, "state_size", where), conv_size=_size(o, "conv_size", where),
                conv_bias=o.get("conv_bias", True), in_bias=o.get("in_bias", False),
                norm=o.get("norm", "after_gate"), norm_groups=o.get("norm_groups", 1),
                step_limits=(low, float("inf") if isinstance(high, dict) else high)))
            continue
        if kind == "short_conv":
            layers.append(LayerSpec(kind, 0, 0, conv_size=_size(o, "conv_size", where),
                                    conv_bias=o.get("bias", False)))
            continue
        if kind == "rg_lru":
            width = _size({"width": d, **o}, "width", where)
            heads = _size(o, "num_heads", where, divides=(width, "width"))
            layers.append(LayerSpec(kind, heads, width // heads,
                                    conv_size=_size(o, "conv_size", where)))
            continue
        heads = _size(o, "num_heads", where, divides=None if kind == "mesa" else (d, "hidden_size"))
        if kind == "rat":
            layer = LayerSpec(
                "rat", heads, d // heads,
                _size(o, "num_groups", where, divides=(heads, "num_heads")), rope_theta=theta,
                chunk_size=_size(o, "chunk_size", where))
        elif kind == "rat_plus":
            layer = LayerSpec("rat_plus", heads, d // heads, heads, o.get("window", 0), theta,
                              dilation=o.get("dilation", 1), sinks=o.get("sinks", 0))
        elif kind == "mesa":
            layer = LayerSpec("mesa", heads, _size(o, "head_dim", where),
                              conv_size=_size(o, "conv_size", where),
                              lambda_lower_bound=o["lambda_lower_bound"],
                              output_gate=o["use_output_gate"])
        else:
            kv_heads = _size(dict({"num_kv_heads": heads}, **o), "num_kv_heads", where,
                             divides=(heads, "num_heads"))
            window = _size(o, "window_size", where) if kind == "local_attention" else None
            layer = LayerSpec("attention", heads, d // heads, kv_heads, window, theta)
        if kind != "mesa" and layer.head_dim % 2:
            raise ValueError(f"{where}num_heads: is {heads}; leaves heads of {layer.head_dim} "
                             "channels, and rotary embeddings turn pairs of them")
        layers.append(layer)
    if len(layers) != c["num_hidden_layers"]:
        raise ValueError(f"layer_types: {len(layers)} layers, num_hidden_layers says "
                         f"{c['num_hidden_layers']}")
    return ModelSpec(_size(c, "vocab_size"), d, _size(c, "intermediate_size"), layers,
                     c.get("norm_eps", 1e-6), tie=c.get("tie_word_embeddings", True),
                     experts=_parse_experts(c["experts"]) if c.get("experts") else None)


def _parse_experts(o):
    where = "experts."
    experts = ExpertsSpec(
        _size(o, "num_experts", where), _size(o, "num_chosen", where), _size(o, "width", where),
        o.get("score", "softmax"), o.get("normalize", True), o.get("scale", 1.0),
        o.get("bias", False))
    if experts.num_chosen > experts.num_experts:
        raise ValueError(f"{where}num_chosen: is {experts.num_chosen}; must be at most "
                         f"num_experts, {experts.num_experts}")
    if experts.score not in ("softmax", "sigmoid"):
        raise ValueError(f"{where}score: is {experts.score!r}; must be softmax or sigmoid")
    return experts


def _rename_rat(c, tensors):
    out = {"model.embeddings.weight": tensors["embedding.wte.weight"],
           "model.norm.weight": tensors["backbone.ln.weight"]}
    if not c.get("tie_embedding", True):
        out["lm_head.weight"] = tensors["head.lm_head.weight"]
    for i, kind in enumerate(_rat_layer_types(c)):
        old, new = f"backbone.layers.{i}.", f"model.layers.{i}."
        out[new + "mixer_norm.weight"] = tensors[old + "seq_layer.input_norm.weight"]
        out[new + "mlp_norm.weight"] = tensors[old + "hidden_layer.ln.weight"]
        fc1 = tensors[old + "hidden_layer.fc1.weight"]
        if c.get("act_fn", "gelu") == "swiglu":
            out[new + "mlp.up_proj.weight"], out[new + "mlp.gate_proj.weight"] = fc1.chunk(2)
        else:
            out[new + "mlp.up_proj.weight"] = fc1
        out[new + "mlp.down_proj.weight"] = tensors[old + "hidden_layer.fc2.weight"]
        mixed = tensors[old + "seq_layer.in_proj.weight"]
        projected = tensors[old + "seq_layer.out_proj.weight"]
        if kind in ("rat", "rat_plus"):
            out[new + "mixer.in_proj.weight"] = mixed
            if kind == "rat":
                out[new + "mixer.gate_bias"] = tensors[old + "seq_layer.gate_bias"]
            out[new + "mixer.out_proj.weight"] = projected
        else:
            for name, part in zip("vqk", mixed.chunk(3)):
                out[new + f"mixer.{name}_proj.weight"] = part
            out[new + "mixer.o_proj.weight"] = projected
    return out


def _rename_mesa_net(c, tensors):
    names = {name: name.replace(".attn.", ".mixer.").replace(".attn_norm.", ".mixer_norm.")
             for name in tensors}
    return {names[name]: tensor for name, tensor in tensors.items()}
