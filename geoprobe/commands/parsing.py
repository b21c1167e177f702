"""What the argument parser has to say, as one of our sentences."""

from __future__ import annotations

from typing import Any

import typer


def sentence(error: Exception) -> str | None:
    """The parser's complaint and where to look, or None where the error is not the parser's.

    typer brings its own copy of click in some versions and uses the installed one in others, so the
    class is found through typer's.
    """
    parser_error = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
    if not isinstance(error, parser_error):
        return None
    found: Any = error
    context = getattr(found, "ctx", None)
    command = context.command_path if context is not None else "geoprobe"
    if type(found).__name__ == "NoArgsIsHelpError":
        return ""  # the help was printed
    message = str(found.format_message()).strip().rstrip(".")
    return f"{message}; see `{command} --help`."
