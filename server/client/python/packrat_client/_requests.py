"""Python's arguments as the messages of the contract, whose comments have defaults and ranges."""
from __future__ import annotations

import json
import random
from typing import Any, Dict, Iterable, Iterator, Mapping, Optional, Sequence, Tuple, TypedDict, Union, cast

from packrat_client.proto import inference_pb2

# Text; token ids, taken as they are; messages of a chat, in the form of OpenAI's API ({"role": "user",
# "content": ..}); or nothing: a session goes on by itself.
Prompt = Union[str, Sequence[int], Sequence[Mapping[str, Any]], None]
Candidate = Union[str, Sequence[int]]
_PIECE = 256 << 10  # Bytes of a saved session in one message.


class ChatOptions(TypedDict, total=False):
    """Of a chat (ChatMessages)."""
    tools: Sequence[Mapping[str, Any]]
    add_generation_prompt: bool
    template_kwargs: Mapping[str, Any]
    answer_prefix: str


class GenerateOptions(ChatOptions, total=False):
    """The fields of GenerateRequest, SamplingParams, StopParams and SolverParams under their own names, but for
    `stop` (StopParams.strings) and `stop_token_ids` (StopParams.token_ids); and those of a chat."""
    add_bos: bool
    parse_special: bool
    skip_special_tokens: bool
    priority: int
    use_cache: bool
    cache_salt: str
    rat_plus_dial: str
    num_choices: int
    echo_prompt: bool
    grammar: str
    regex: str
    json_schema: Union[str, Mapping[str, Any]]
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]  # By token id.
    allowed_token_ids: Sequence[int]
    banned_token_ids: Sequence[int]
    seed: int
    num_logprobs: int
    stop: Union[str, Sequence[str]]
    stop_token_ids: Sequence[int]
    min_tokens: int
    max_tokens: int
    ignore_eos: bool
    cg_tolerance: float
    cg_max_steps: int


class ScoreOptions(ChatOptions, total=False):
    """The fields of ScoreRequest and SolverParams under their own names, and those of a chat."""
    add_bos: bool
    parse_special: bool
    num_logprobs: int
    priority: int
    use_cache: bool
    cache_salt: str
    rat_plus_dial: str
    cg_tolerance: float
    cg_max_steps: int


CHAT_OPTIONS = tuple(ChatOptions.__annotations__)
_RENAMED = {("stop", "strings"): "stop", ("stop", "token_ids"): "stop_token_ids"}
_MESSAGE = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")
_TEXTS = ("text", "input_text", "output_text")  # Types of parts, in OpenAI's two APIs.
# Not options: what is an argument of its own, and what servers refuse today.
_NO_OPTIONS = {"session", "fork_from", "snapshot"}


def given(**fields: Any) -> Dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def option_places(message: Any) -> Dict[str, Tuple[str, str]]:
    """Where each option lies: the name of a message inside the request, or "", and the field's name."""
    places = {}
    for field in message.DESCRIPTOR.fields:
        # An optional scalar lies in a oneof of its own, which is no choice.
        if field.containing_oneof is not None and len(field.containing_oneof.fields) > 1:
            continue
        if field.name in ("sampling", "stop", "solver"):
            for inner in field.message_type.fields:
                places[_RENAMED.get((field.name, inner.name), inner.name)] = (field.name, inner.name)
        elif field.name not in _NO_OPTIONS and field.message_type is None:
            places[field.name] = ("", field.name)
    return places


_GENERATE = option_places(inference_pb2.GenerateRequest)
_SCORE = option_places(inference_pb2.ScoreRequest)


def _set_options(request: Any, places: Dict[str, Tuple[str, str]], options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name not in places:
            raise TypeError("there is no option %r" % name)
        if value is None:  # As if it were not there.
            continue
        inside, field = places[name]
        message = getattr(request, inside) if inside else request
        if name == "logit_bias":
            value = [inference_pb2.LogitBias(token_id=token, bias=bias) for token, bias in value.items()]
        elif name == "stop" and isinstance(value, str):
            value = [value]
        elif name == "json_schema" and isinstance(value, Mapping):
            value = json.dumps(value)
        if isinstance(value, (str, bytes, int, float)):
            setattr(message, field, value)
        else:
            getattr(message, field).extend(value)


def _content(where: str, content: Any) -> str:
    """A text, or OpenAI's list of parts, which become lines as over HTTP."""
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _TEXTS or not isinstance(part.get("text"), str):
            raise TypeError("%s[%d] is %s; parts of text alone are taken"
                            % (where, number, "of type %r" % kind if kind else repr(part)))
        texts.append(part["text"])
    return "\n".join(texts)


def _message_fields(where: str, message: Mapping[str, Any]) -> Dict[str, str]:
    """Of a message as people write it, or as OpenAI's client dumps it, where much is None or empty."""
    if not isinstance(message, Mapping):
        raise TypeError("%s is %r; must be a mapping" % (where, message))
    fields: Dict[str, str] = {}
    for name, value in message.items():
        if value is None or value == []:
            continue
        if name not in _MESSAGE:
            raise TypeError("%s has %r, which is no field of a message" % (where, name))
        if name == "tool_calls":
            fields["tool_calls_json"] = json.dumps(value)
        else:
            fields[name] = _content("%s.content" % where, value) if name == "content" else value
    return fields


def _set_chat(chat: inference_pb2.ChatMessages, messages: Sequence[Mapping[str, Any]],
              options: Mapping[str, Any]) -> None:
    for number, message in enumerate(messages):
        chat.messages.add(**_message_fields("messages[%d]" % number, message))
    if options.get("tools") is not None:
        chat.tools_json = json.dumps(options["tools"])
    if options.get("template_kwargs") is not None:
        chat.template_kwargs_json = json.dumps(options["template_kwargs"])
    if options.get("add_generation_prompt") is not None:
        chat.add_generation_prompt = options["add_generation_prompt"]
    if options.get("answer_prefix") is not None:
        chat.answer_prefix = options["answer_prefix"]


def _set_prompt(request: Any, prompt: Prompt, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options that are not of the prompt."""
    if isinstance(prompt, str) or not prompt or not isinstance(prompt[0], Mapping):
        _set_text(request, prompt)
        return options
    _set_chat(request.chat, cast(Sequence[Mapping[str, Any]], prompt), options)
    return {name: value for name, value in options.items() if name not in CHAT_OPTIONS}


def _set_text(message: Any, text: Prompt) -> None:
    if isinstance(text, str):
        message.text = text
    elif text is not None:
        message.tokens.ids.extend(text)
        message.tokens.SetInParent()  # Also where there are none, which the server refuses by name.


def generate_request(prompt: Prompt, options: Mapping[str, Any], session: str = "",
                     resume: bool = False) -> inference_pb2.GenerateRequest:
    request = inference_pb2.GenerateRequest()
    _set_options(request, _GENERATE, _set_prompt(request, prompt, options))
    if session:
        request.session = session
    if resume and not request.sampling.HasField("seed"):
        # With a seed of our own a second try gives the same text.
        request.sampling.seed = random.getrandbits(63)
    return request


def score_request(prompt: Prompt, candidates: Iterable[Candidate], options: Mapping[str, Any],
                  session: str = "") -> inference_pb2.ScoreRequest:
    request = inference_pb2.ScoreRequest()
    _set_options(request, _SCORE, _set_prompt(request, prompt, options))
    for candidate in candidates:
        _set_text(request.candidates.add(), candidate)
    if session:
        request.session = session
    return request


def tokenize_request(prompt: Union[str, Sequence[Mapping[str, Any]]], options: Mapping[str, Any],
                     **fields: Any) -> inference_pb2.TokenizeRequest:
    """`fields`: of the request itself, or None."""
    request = inference_pb2.TokenizeRequest(**given(**fields))
    if isinstance(prompt, str):
        request.text = prompt
        _set_options(request, {}, options)  # A text has none.
    else:
        request.chat.SetInParent()  # Also where there are no messages, which the server refuses by name.
        _set_chat(request.chat, prompt, options)
    return request


def rewind_request(session: str, turns: Optional[int],
                   tokens: Optional[int]) -> inference_pb2.RewindSessionRequest:
    if (turns is None) == (tokens is None):
        raise TypeError("rewind() takes one of turns and tokens")
    if turns is not None:
        return inference_pb2.RewindSessionRequest(session=session, turns=turns)
    return inference_pb2.RewindSessionRequest(session=session, tokens=tokens)


def load_requests(data: bytes, options: Mapping[str, Any]) -> Iterator[inference_pb2.LoadSessionRequest]:
    yield inference_pb2.LoadSessionRequest(data=data[:_PIECE], **options)
    for begin in range(_PIECE, len(data), _PIECE):
        yield inference_pb2.LoadSessionRequest(data=data[begin:begin + _PIECE])
