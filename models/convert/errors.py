"""The one exception that a user is meant to read."""


class ConvertError(Exception):
    """What is wrong with the input or the output: file, tensor where there is one, reason."""


def shown(value, limit=200):
    """Text of a file for a message: on one line, not endless, nothing that moves the cursor."""
    text = str(value)
    text = text if len(text) <= limit else text[:limit] + "..."
    return "".join(c if c.isprintable() else "?" for c in text)
