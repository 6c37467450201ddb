"""The one exception that the converter's user is meant to see."""


class ConvertError(Exception):
    """What is wrong with the user's network, file or option, and what to do: one line that names it."""


def first_line(problem):
    """The first line of an exception's text without control characters, for messages of one line."""
    line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
    return "".join(c if c.isprintable() else " " for c in line)[:300]


def describe(shapes):
    """[3,224,224] and [10] for messages."""
    return " and ".join("[" + ",".join(map(str, shape)) + "]" for shape in shapes)
