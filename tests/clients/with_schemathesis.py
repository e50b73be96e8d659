"""schemathesis: requests made from the OpenAPI description, good and bad; answers must be as it says."""

import os
import re

from tests.clients import serving

PACKAGES = ["schemathesis==4.32.5"]


def run(folder, environment):
    with serving.start(serving.chat_model(folder), "--max_context=256") as server:
        url = "http://127.0.0.1:%d" % server.http_port
        said = serving.run(
            [environment + "/bin/schemathesis", "--no-color", "run", url + "/openapi.json", "--url", url,
             "--phases", "examples,coverage,fuzzing", "--max-examples", os.environ.get("PACKRAT_EXAMPLES", "50"),
             "--seed", "1", "--generation-database", "none", "--request-timeout", "60"], timeout=1200)
        status, log = server.stop()
    assert status == 0, log[-5:]
    found = re.search(r"(\d+) generated.*", said)
    return found.group(0).strip() if found else said.strip().splitlines()[-1]
