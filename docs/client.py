#!/usr/bin/python3
"""Streams a completion from a server on this machine.

    ./dev python docs/client.py "Once upon a time"
"""
import sys

from packrat_client import Client

with Client("127.0.0.1:50051", timeout=30) as client:
    for message in client.stream(" ".join(sys.argv[1:]), max_tokens=100):
        print(message.text, end="", flush=True)
print()
