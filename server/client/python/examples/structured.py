"""An answer that is JSON of a schema, whatever the model is.

    python3 structured.py "Lily has a dog. This is what we know of it:"
"""
import argparse
import json
import sys

from packrat_client import Client

# Bounds, so that no model goes on in a string for ever.
PET = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "kind": {"enum": ["bird", "cat", "dog"]},
        "years": {"type": "integer", "minimum": 0, "maximum": 20},
    },
    "required": ["name", "kind", "years"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()

    with Client(arguments.address, timeout=60) as client:
        answer = client.complete(arguments.prompt, json_schema=PET, max_tokens=200)
    if answer.reason == "length":
        sys.exit("It was cut off: " + answer.text)
    pet = json.loads(answer.text)
    print("%s is a %s of %d years." % (pet["name"], pet["kind"], pet["years"]))


if __name__ == "__main__":
    main()
