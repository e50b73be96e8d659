"""Servers for other people's clients, and Python environments for these."""

import hashlib
import http.client
import json
import os
import shutil
import subprocess

from tests.server.processes import ROOT, RealServer

DEMO = os.path.join(ROOT, "models/demo")
KEY = "the key of somebody"
CHAT = "chat-demo"  # The name of chat_model().
# So that there are chats to have: the bundled model has no template of its own, and no name for its BOS.
# It writes calls of tools as many models do.
TEMPLATE = ("<s>{% if tools %}Tools: {{ tools | tojson }} Answer <tool_call>CALL</tool_call>\n{% endif %}"
            "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n"
            "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}")
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "packrat-clients")


def chat_model(folder):
    """The bundled model with a chat template; its path."""
    model = os.path.join(folder, CHAT)
    os.mkdir(model)
    for name in os.listdir(DEMO):
        os.symlink(os.path.realpath(os.path.join(DEMO, name)), os.path.join(model, name))
    with open(os.path.join(model, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(TEMPLATE)
    return model


def start(model, *flags):
    return RealServer(model, "--threads=1", *flags)


def answered(server, path):
    """How many requests of a path the server has answered well; it has chat_model()."""
    return server.metric('packrat_http_requests_total{model="%s",code="200",path="%s"}' % (CHAT, path))


def key_file(folder):
    path = os.path.join(folder, "keys")
    with open(path, "w", encoding="utf-8") as file:
        file.write("somebody sha256:%s\n" % hashlib.sha256(KEY.encode()).hexdigest())
    return path


def environment(*packages):
    """A folder of its own with these packages of PyPI; one without the file `complete` was interrupted."""
    name = hashlib.sha256("\n".join(sorted(packages)).encode()).hexdigest()[:16]
    path = os.path.join(CACHE, name)
    if not os.path.exists(path + "/complete"):
        shutil.rmtree(path, ignore_errors=True)
        subprocess.run(["/usr/bin/python3", "-m", "venv", path], check=True)
        subprocess.run([path + "/bin/python", "-m", "pip", "install", "--quiet",
                        "--disable-pip-version-check", "--prefer-binary", *packages], check=True)
        with open(path + "/complete", "w", encoding="utf-8"):
            pass
    return path


def tokenizer_folder(folder):
    """The bundled model's tokenizer as `transformers` reads it, for clients that count tokens; its path."""
    from sentencepiece import sentencepiece_model_pb2  # pylint: disable=import-outside-toplevel
    model = sentencepiece_model_pb2.ModelProto()
    with open(os.path.join(DEMO, "tokenizer.model"), "rb") as file:
        model.ParseFromString(file.read())
    special = ["<unk>", "<s>", "</s>"]
    assert [piece.piece for piece in model.pieces[:3]] == special
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": spaces,
        "added_tokens": [{"id": i, "content": name, "special": True, "normalized": False, "single_word": False,
                          "lstrip": False, "rstrip": False} for i, name in enumerate(special)],
        "post_processor": {"type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, spaces]},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": True,
                  "vocab": [[piece.piece, piece.score] for piece in model.pieces]}}
    path = os.path.join(folder, "tokenizer")
    os.mkdir(path)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>",
              "eos_token": "</s>", "pad_token": "</s>", "model_max_length": 4096}
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", config)):
        with open(os.path.join(path, name), "w", encoding="utf-8") as file:
            json.dump(content, file)
    return path


def files(folder, begin):
    """The paths of files below a folder whose names begin so."""
    return sorted(os.path.join(where, name) for where, _, names in os.walk(folder) for name in names
                  if name.startswith(begin))


def ask(port, path, body=None, headers=(), timeout=120):
    """Status, headers and the body of an answer; `body`: JSON to post."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Content-Type": "application/json", **dict(headers)}
        connection.request("GET" if body is None else "POST", path,
                           None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def model_name(port):
    """Of the model that an HTTP port serves."""
    return json.loads(ask(port, "/v1/models")[2])["data"][0]["id"]


def run(command, timeout=600, cwd=None, **environment_variables):
    """Runs a program to its end; what it prints. One that fails raises, with the end of what it said."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=timeout,
                          cwd=cwd, encoding="utf-8", errors="replace", env={**os.environ, **environment_variables})
    if done.returncode:
        raise AssertionError("%s ended with %d:\n%s" % (command[0], done.returncode, done.stdout[-8000:]))
    return done.stdout
