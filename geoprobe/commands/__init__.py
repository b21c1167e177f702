"""One file a verb: parse, call, show."""
