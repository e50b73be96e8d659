"""A grammar beside all else that a request may ask for: the tokens are those of the same seed without
it, up to where it ends them, and the text is one of the grammar, or the beginning of one."""

import itertools
import json
import math
import re
import threading
import unittest
import urllib.error
import urllib.request

from tests.server.processes import RealServer, wait_for

SCHEMA = {"type": "object", "required": ["a", "b"],
          "properties": {"a": {"type": "array", "items": {"enum": ["yes", "no"]}, "minItems": 3, "maxItems": 9},
                         "b": {"type": "string", "minLength": 8, "maxLength": 16}}}
LIST = re.compile(r"\{\s*\"a\":\s*\[\s*(\"(yes|no)\"(,\s*)?){3,9}\s*\],\s*\"b\":\s*\"([^\"\\]|\\.){8,96}\"\s*\}")
WORDS = re.compile("([a-z]{2,5} ){6,20}[.]")
# Each with what a whole text of it matches.
GRAMMARS = [({"regex": WORDS.pattern}, WORDS),
            ({"json_schema": json.dumps(SCHEMA)}, LIST),
            ({"grammar": 'root ::= ("- " %json {"type": "integer", "minimum": 1000, "maximum": 99999} "\\n"){5,9}'},
             re.compile("(- [0-9]{4,5}\n){5,9}"))]


class Refused(Exception):
    """Before the answer or within it."""

    def __init__(self, status):
        super().__init__(status["message"])
        self.code = status["code"]


class GrammarBesideTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.server = RealServer("models/demo", "--threads=1", "--max_running=2", "--max_context=512")
        cls.base = [cls.ask(grammar)[0] for grammar, _ in GRAMMARS]

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    @classmethod
    def call(cls, method, message):
        request = urllib.request.Request(
            f"http://127.0.0.1:{cls.server.http_port}/packrat/v1/{method}", json.dumps(message).encode(),
            {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                lines = [json.loads(line) for line in answer]
        except urllib.error.HTTPError as refusal:
            with refusal:
                raise Refused(json.load(refusal)) from None
        if "error" in lines[-1]:
            raise Refused(lines[-1]["error"])
        return lines

    @classmethod
    def ask(cls, grammar, seed=7, sampling=None, stop=None, **fields):
        """Of each choice its ids, text, log-probabilities, reason and what else `finished` tells."""
        message = {"text": "Once upon a time", **grammar, **fields,
                   "sampling": {"temperature": 3, "top_p": 1, "top_k": 0, "seed": seed, **(sampling or {})},
                   "stop": {"max_tokens": 200, **(stop or {})}}
        choices = [{"ids": [], "text": "", "logprobs": []} for _ in range(fields.get("num_choices", 1))]
        for piece in cls.call("Generate", message):
            choice = choices[piece.get("choice", 0)]
            choice["ids"] += piece.get("token_ids", [])
            choice["text"] += piece.get("text", "")
            choice["logprobs"] += piece.get("logprobs", [])
            choice.update(piece.get("finished", {}))
        return choices

    def expect(self, choice, base, whole, stop=None):
        """That it is `base`, or a beginning of it."""
        count = len(choice["ids"])
        self.assertEqual(choice["ids"], base["ids"][:count])
        if stop is not None:
            self.assertNotIn(stop, choice["text"])
        if choice["reason"] == "FINISH_REASON_EOS":
            self.assertEqual(choice["text"], base["text"])
            self.assertIsNotNone(whole.fullmatch(choice["text"]), choice["text"])
        else:
            self.assertTrue(base["text"].startswith(choice["text"]), choice["text"])

    def test_the_texts_themselves(self):
        for base, (_, whole) in zip(self.base, GRAMMARS):
            self.assertEqual(base["reason"], "FINISH_REASON_EOS")
            self.assertIsNotNone(whole.fullmatch(base["text"]), base["text"])

    def test_all_at_once(self):
        for (grammar, whole), base in zip(GRAMMARS, self.base):
            alone = {7: base}  # By seed.
            # A text that comes, here and in most others.
            stop = base["text"][len(base["text"]) // 2:][:2]
            for logprobs, stops, choices, most, session in itertools.product(
                    (None, 2), ((), (stop,), ("never", "\ufffd")), (1, 3), (3, 200), (False, True)):
                fields = {"num_choices": choices} if choices > 1 else {}
                if session:
                    if choices > 1:
                        continue  # Refused: see below.
                    fields["session"] = self.call("CreateSession", {})[0]["session"]
                shown = self.ask(grammar, sampling={"num_logprobs": logprobs} if logprobs else {},
                                 stop={"strings": stops, "max_tokens": most}, **fields)
                for i, choice in enumerate(shown):
                    with self.subTest(logprobs=logprobs, stops=stops, most=most, session=session, choice=i):
                        seed = int(choice["seed"])
                        if seed not in alone:
                            alone[seed] = self.ask(grammar, seed=seed)[0]
                        self.expect(choice, alone[seed], whole, stop if stop in stops else None)
                        if most == 3:
                            self.assertLessEqual(len(choice["ids"]), 3)
                        if not logprobs:
                            self.assertEqual(choice["logprobs"], [])
                            continue
                        self.assertEqual(len(choice["logprobs"]), len(choice["ids"]))
                        for one in choice["logprobs"]:
                            values = [it.get("logprob", 0) for it in [one, *one["top"]]]
                            # Of what the grammar leaves, which may be one token alone.
                            self.assertIn(len(one["top"]), range(1, logprobs + 1))
                            self.assertLess(sum(math.exp(x) for x in values[1:]), 1.001)
                            self.assertTrue(all(math.isfinite(x) and x <= 0 for x in values), values)

    def test_cut_at_every_token(self):
        (grammar, whole), base = GRAMMARS[1], self.base[1]
        for most in range(1, len(base["ids"]) + 2):
            choice = self.ask(grammar, stop={"max_tokens": most})[0]
            self.expect(choice, base, whole)
            if most < len(base["ids"]):
                self.assertEqual((len(choice["ids"]), choice["reason"]), (most, "FINISH_REASON_LENGTH"))
        self.assertEqual(choice["reason"], "FINISH_REASON_EOS")

    def test_forks_and_rewinds(self):
        for grammar, whole in GRAMMARS:
            session = self.call("CreateSession", {})[0]["session"]
            first = self.ask(grammar, session=session)[0]
            self.assertIsNotNone(whole.fullmatch(first["text"]))
            fork = self.call("ForkSession", {"session": session})[0]["session"]
            # The grammar begins with each answer.
            answers = [self.ask(grammar, session=one)[0] for one in (session, fork)]
            self.call("RewindSession", {"session": session, "turns": 1})
            answers.append(self.ask(grammar, session=session)[0])
            for answer in answers:
                self.assertIsNotNone(whole.fullmatch(answer["text"]), answer["text"])
                self.assertEqual(answer["ids"], answers[0]["ids"])
            self.assertGreater(answers[0]["usage"]["cached_tokens"], 0)

    def test_who_makes_way_goes_on_where_it_was(self):
        texts = [([], whole, base) for (_, whole), base in zip(GRAMMARS, self.base)]
        parks = self.server.metric("packrat_parks_total")

        def run(into, grammar):
            into += self.ask(grammar, priority=-5)

        for _ in range(20):
            threads = [threading.Thread(target=run, args=(into[0], grammar))
                       for into, (grammar, _) in zip(texts, GRAMMARS)]
            for thread in threads:
                thread.start()
            wait_for(lambda: self.server.metric("packrat_requests_running") > 0 or
                     not any(thread.is_alive() for thread in threads))
            for _ in range(4):
                self.ask({}, stop={"max_tokens": 2}, priority=5, num_choices=2)
            for thread in threads:
                thread.join()
            if self.server.metric("packrat_parks_total") > parks:
                break
        self.assertGreater(self.server.metric("packrat_parks_total"), parks)
        for answers, whole, base in texts:
            for answer in answers:
                self.expect(answer, base, whole)
                self.assertEqual(answer["reason"], "FINISH_REASON_EOS")

    def test_what_excludes_each_other_is_said(self):
        session = self.call("CreateSession", {})[0]["session"]
        for fields, words in (({"num_choices": 2, "session": session}, "session"),
                              ({"sampling": {"allowed_token_ids": [1]}}, "grammar")):
            with self.assertRaisesRegex(Refused, words) as refused:
                self.ask(GRAMMARS[0][0], **fields)
            self.assertEqual(refused.exception.code, 3)  # INVALID_ARGUMENT


if __name__ == "__main__":
    unittest.main()
