"""The wheel's types, as a strict checker reads them: the package, its examples, and programs that use it."""

import glob
import os
import subprocess
import tempfile
import unittest
import zipfile

ENVIRONMENT = os.environ.get("PACKRAT_PYTHON_ENV", "")
# gRPC has no types of its own, and what protoc writes is not ours.
SETTINGS = """[mypy]
strict = True
warn_return_any = False
untyped_calls_exclude = packrat_client.proto
[mypy-grpc.*,google.*]
ignore_missing_imports = True
[mypy-packrat_client.proto.*]
ignore_errors = True
"""
PROGRAM = """
from typing import List, Optional
from typing_extensions import assert_type
from packrat_client import AsyncClient, AsyncStream, Client, Session, Stream
from packrat_client.proto import inference_pb2

def threads(client: Client) -> None:
    done = client.complete("Once", max_tokens=5, stop=["."], logit_bias={3: -1.0})
    assert_type(done.text, str)
    assert_type(done.token_ids, List[int])
    assert_type(done.usage.cached_tokens, int)
    for message in client.stream([1, 2], temperature=0.5):
        assert_type(message, inference_pb2.GenerateResponse)
    client.complete([{"role": "user", "content": "Hello"}], tools=[])
    with client.create_session() as session:
        assert_type(session, Session)
        assert_type(session.stream("and", timeout=2), Stream)
        assert_type(session.save(), bytes)
        assert_type(session.affinity, Optional[str])
    assert_type(client.tokenize("a"), inference_pb2.TokenizeResponse)
    client.tokenize([{"role": "user", "content": "Hello"}], add_generation_prompt=False)
    client.score([{"role": "user", "content": "Hello"}], ["yes"], tools=[])

async def tasks(client: AsyncClient) -> None:
    assert_type((await client.complete("Once", regex="a|b")).text, str)
    assert_type(client.stream("Once"), AsyncStream)
    async for message in client.stream("Once"):
        assert_type(message.text, str)
    scores = await client.score("Once", [" upon", [3]])
    assert_type(scores[0].finished.score.logprob, float)
"""
# What is wrong with each, as the checker says it.
WRONG = (
    ('Client("a").complete("Once", max_tokens="5")', "expected \"int\""),
    ('Client("a").complete("Once", max_token=5)', 'Unexpected keyword argument "max_token"'),
    ('Client("a").complete(5)', "expected \"str | Sequence[int]"),
    ('Client("a").create_session(ttl_seconds="soon")', "expected \"float | None\""),
    ('x: int = Client("a").complete("Once").text', "expression has type \"str\""),
    ('x: str = AsyncClient("a").complete("Once").text', 'has no attribute "text"'),
)


@unittest.skipUnless(ENVIRONMENT, "needs the packages of deploy/requirements-test.txt: ./dev deps test")
class TypesTest(unittest.TestCase):

    def check(self, program):
        """Whether there is nothing to find, and what was found, in the wheel, its examples and a program."""
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile("server/client/python/packrat_client.whl") as wheel:
                wheel.extractall(folder)
            for name, text in (("mypy.ini", SETTINGS), ("program.py", program)):
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write(text)
            examples = glob.glob("*.data/data/share/doc/packrat-client/examples/*.py", root_dir=folder)
            self.assertGreaterEqual(len(examples), 7)
            run = subprocess.run([os.path.join(ENVIRONMENT, "bin/mypy"), "--cache-dir=" + folder + "/cache",
                                  "program.py", "packrat_client", *examples], cwd=folder, capture_output=True,
                                 text=True, check=False)
            self.assertEqual(run.stderr, "")
            return run.returncode == 0, run.stdout

    def test_the_package_its_examples_and_a_program_that_uses_it(self):
        clean, found = self.check(PROGRAM)
        self.assertTrue(clean, found)

    def test_wrong_uses_are_found(self):
        lines = ["from packrat_client import AsyncClient, Client", *(line for line, _ in WRONG)]
        _, found = self.check("\n".join(lines))
        for number, (line, said) in enumerate(WRONG, 2):
            of_line = "\n".join(one for one in found.splitlines() if one.startswith("program.py:%d:" % number))
            self.assertIn(said, of_line, line + "\n" + found)


if __name__ == "__main__":
    unittest.main()
