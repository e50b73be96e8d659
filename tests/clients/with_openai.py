"""OpenAI's Python package: sync, async, streams, types, errors, tries, and what docs/http.md shows of it."""

from tests.clients import serving

PACKAGES = ["openai==3.51.0"]
TESTS = ("openai_calls", "openai_parse", "openai_page")


def run(folder, environment):
    keys = serving.key_file(folder)
    with serving.start(serving.chat_model(folder)) as server, \
            serving.start(serving.DEMO, "--max_running=1", "--max_queue=1", "--api_keys=" + keys) as small:
        said = serving.run([environment + "/bin/python", "-m", "unittest",
                            *("tests.clients." + name for name in TESTS)],
                           cwd=serving.ROOT, PACKRAT_HTTP="http://127.0.0.1:%d" % server.http_port,
                           PACKRAT_SMALL="http://127.0.0.1:%d" % small.http_port, PACKRAT_KEY=serving.KEY)
    return said.split("-----\n")[-1].splitlines()[0]  # Ran N tests in S s
