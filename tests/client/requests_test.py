"""Python's arguments against the contract, and the wheel."""

import base64
import email.parser
import hashlib
import inspect
import unittest
import zipfile

import packrat_client
from packrat_client import AsyncClient, AsyncSession, AsyncStream, Client, GenerateOptions, ScoreOptions, Session
from packrat_client import Stream, _requests
from packrat_client.proto import inference_pb2


class OptionsTest(unittest.TestCase):

    def test_every_field_of_the_contract_is_an_option(self):
        for options, message, more in ((GenerateOptions, inference_pb2.GenerateRequest, _requests.CHAT_OPTIONS),
                                       (ScoreOptions, inference_pb2.ScoreRequest, _requests.CHAT_OPTIONS)):
            self.assertLessEqual({*_requests.option_places(message), *more}, set(options.__annotations__))

    def test_options_arrive_in_their_messages(self):
        made = _requests.generate_request("text", {
            "temperature": 0, "max_tokens": 7, "stop": "end", "stop_token_ids": [4, 5], "cg_max_steps": 3,
            "num_choices": 2, "logit_bias": {9: -1.5}, "banned_token_ids": (1, 2), "ignore_eos": False,
            "top_k": None})
        self.assertEqual(made, inference_pb2.GenerateRequest(
            text="text", num_choices=2, solver=inference_pb2.SolverParams(cg_max_steps=3),
            stop=inference_pb2.StopParams(strings=["end"], token_ids=[4, 5], max_tokens=7, ignore_eos=False),
            sampling=inference_pb2.SamplingParams(
                temperature=0, banned_token_ids=[1, 2],
                logit_bias=[inference_pb2.LogitBias(token_id=9, bias=-1.5)])))
        self.assertTrue(made.sampling.HasField("temperature"))

    def test_prompts(self):
        self.assertEqual(_requests.generate_request([1, 2], {}).tokens.ids, [1, 2])
        self.assertEqual(_requests.generate_request(None, {}, "handle").WhichOneof("prompt"), None)
        self.assertEqual(_requests.generate_request([], {}).WhichOneof("prompt"), "tokens")
        chat = _requests.generate_request(
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}],
            {"template_kwargs": {"thinking": False}, "max_tokens": 3})
        self.assertEqual(chat.chat, inference_pb2.ChatMessages(
            messages=[inference_pb2.ChatMessage(role="user", content="Hi"),
                      inference_pb2.ChatMessage(role="assistant", tool_calls_json='[{"id": "1"}]')],
            template_kwargs_json='{"thinking": false}'))
        self.assertEqual(chat.stop.max_tokens, 3)

    def test_a_chat_is_scored_and_tokenized_too(self):
        messages = [{"role": "user", "content": "Hi"}]
        options = {"tools": [{"type": "function"}], "answer_prefix": "So", "template_kwargs": {"a": 1},
                   "add_generation_prompt": False}
        self.assertEqual(set(options), set(_requests.CHAT_OPTIONS))
        expected = inference_pb2.ChatMessages(
            messages=[inference_pb2.ChatMessage(role="user", content="Hi")], tools_json='[{"type": "function"}]',
            answer_prefix="So", template_kwargs_json='{"a": 1}', add_generation_prompt=False)
        self.assertEqual(len(expected.ListFields()), len(inference_pb2.ChatMessages.DESCRIPTOR.fields))
        scored = _requests.score_request(messages, [" yes", [3]], {**options, "num_logprobs": 2})
        self.assertEqual((scored.chat, scored.num_logprobs, len(scored.candidates)), (expected, 2, 2))
        ids = _requests.tokenize_request(messages, options, add_bos=None, parse_special=True)
        self.assertEqual(ids, inference_pb2.TokenizeRequest(chat=expected, parse_special=True))
        self.assertTrue(_requests.tokenize_request([], {}).HasField("chat"))
        with self.assertRaisesRegex(TypeError, "there is no option"):
            _requests.tokenize_request("a text", options)
        with self.assertRaisesRegex(TypeError, r"messages\[1\] is 'Hi'; must be a mapping"):
            _requests.score_request([*messages, "Hi"], [], {})

    def test_messages_as_openai_has_them(self):
        def messages(*given):
            return list(_requests.generate_request(list(given), {}).chat.messages)

        user, assistant = messages(
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            # What model_dump() gives of an answer.
            {"content": "Hi", "refusal": None, "role": "assistant", "annotations": [], "audio": None,
             "function_call": None, "tool_calls": None})
        self.assertEqual(user, inference_pb2.ChatMessage(role="user", content="a\nb"))
        self.assertEqual(assistant, inference_pb2.ChatMessage(role="assistant", content="Hi"))
        self.assertEqual(messages({"role": "assistant", "content": [], "tool_calls": []}),
                         [inference_pb2.ChatMessage(role="assistant")])
        self.assertTrue(messages({"role": "user", "content": ""})[0].HasField("content"))
        for message, named in (
                ({"content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]},
                 r"messages\[0\]\.content\[1\] is of type 'image_url'"),
                ({"content": ["a"]}, r"messages\[0\]\.content\[0\] is 'a'"),
                ({"refusal": "No."}, r"messages\[0\] has 'refusal'"),
                ({"annotations": [1]}, "'annotations'"), ({"tool_calls_json": "[]"}, "'tool_calls_json'")):
            with self.assertRaisesRegex(TypeError, named):
                messages({"role": "user", **message})

    def test_an_option_that_is_none_of_the_contract_is_refused(self):
        for options in ({"max_token": 3}, {"session": "x"}, {"tools": []}, {"strings": ["a"]}):
            with self.assertRaises(TypeError):
                _requests.generate_request("text", options)

    def test_a_seed_where_texts_are_to_go_on(self):
        self.assertFalse(_requests.generate_request("a", {}).sampling.HasField("seed"))
        self.assertTrue(_requests.generate_request("a", {}, resume=True).sampling.HasField("seed"))
        self.assertEqual(_requests.generate_request("a", {"seed": 5}, resume=True).sampling.seed, 5)

    def test_a_saved_session_is_cut_into_messages(self):
        data = bytes(range(256)) * 3000
        messages = list(_requests.load_requests(data, {"ttl_seconds": 5, "cache_salt": None}))
        self.assertEqual(b"".join(message.data for message in messages), data)
        self.assertLess(max(len(message.data) for message in messages), 1 << 19)
        self.assertEqual([message.HasField("ttl_seconds") for message in messages], [True, False, False])
        self.assertEqual(len(list(_requests.load_requests(b"", {}))), 1)


class TwinsTest(unittest.TestCase):

    def test_both_clients_have_the_same_calls(self):
        for one, other in ((Client, AsyncClient), (Session, AsyncSession), (Stream, AsyncStream)):
            def calls(which):
                return {name: [(each.name, each.kind, each.default)
                               for each in inspect.signature(value).parameters.values()]
                        for name, value in vars(which).items() if callable(value) and not name.startswith("_")}
            self.assertEqual(calls(one), calls(other))
            self.assertIn("__init__", vars(one))


class WheelTest(unittest.TestCase):

    def test_it_is_whole_and_says_what_it_needs(self):
        with zipfile.ZipFile("server/client/python/packrat_client.whl") as wheel:
            names = wheel.namelist()
            info = next(name for name in names if name.endswith("/METADATA")).rpartition("/")[0]
            metadata = email.parser.Parser().parsestr(wheel.read(info + "/METADATA").decode())
            self.assertEqual(info, "packrat_client-%s.dist-info" % metadata["Version"])
            self.assertRegex(metadata["Version"], r"^\d+\.\d+\.\d+")
            self.assertEqual((metadata["Name"], metadata["License"]), ("packrat-client", "Apache-2.0"))
            self.assertEqual({need.split(">")[0] for need in metadata.get_all("Requires-Dist")},
                             {"grpcio", "protobuf"})
            self.assertIn("Apache License", wheel.read(info + "/LICENSE").decode())
            for name in ("__init__.py", "py.typed", "sync.py", "aio.py", "proto/__init__.py",
                         "proto/inference_pb2.py", "proto/inference_pb2.pyi", "proto/inference_pb2_grpc.py"):
                self.assertIn("packrat_client/" + name, names)
            # Nothing but the package can be imported; the examples are among the documents.
            beside = {name for name in names if not name.startswith(("packrat_client/", info + "/"))}
            examples = "packrat_client-%s.data/data/share/doc/packrat-client/examples/" % metadata["Version"]
            self.assertIn(examples + "complete.py", beside)
            self.assertEqual({name for name in beside if not name.startswith(examples)}, set())
            recorded = {}
            for line in wheel.read(info + "/RECORD").decode().splitlines():
                name, digest, size = line.rsplit(",", 2)
                recorded[name] = (digest, size)
            self.assertEqual(set(recorded), set(names))
            for name in names:
                data = wheel.read(name)
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                if not name.endswith("/RECORD"):
                    self.assertEqual(recorded[name], ("sha256=" + digest, str(len(data))), name)
            self.assertNotIn(b"proto.packrat", wheel.read("packrat_client/proto/inference_pb2_grpc.py"))

    def test_messages_know_where_they_live(self):
        """So that they can be pickled."""
        self.assertEqual(inference_pb2.Usage.__module__, "packrat_client.proto.inference_pb2")
        for name in packrat_client.__all__:
            self.assertTrue(hasattr(packrat_client, name), name)


if __name__ == "__main__":
    unittest.main()
