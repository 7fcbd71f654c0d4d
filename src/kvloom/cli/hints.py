"""What to do next where an error does not say: by its kind, and by the verb that it ended."""

from __future__ import annotations

from collections.abc import Sequence

from kvloom import errors

_FILE = "look at the file's name, its form and your rights to it"
_BY_KIND: dict[type[BaseException], str] = {
    errors.TraceError: "a trace has a JSON object per line: timestamp (ms), input_length, output_length, hash_ids",
    errors.ModelNotFound: "`kvloom pull NAME` fetches a model",
    errors.ModelFileError: "fetch the model again with `kvloom pull`, or look at the file that it came from",
    errors.UnsupportedModel: "take another model, or another file of this one: the README lists what runs",
    errors.PullError: "look at the network, the free disk space and your rights, and pull again",
    errors.DataFileError: _FILE,
    errors.NumericsError: "fetch the model again, or compute with --activations float32",
    errors.SessionRefused: "save the session anew with the server that is to restore it",
    OSError: _FILE.replace("the file's name", "the name"),
}
_BUG = "this is a bug in kvloom: set KVLOOM_DEBUG=1 to see where, and please report it"


def hint_for(error: BaseException, arguments: Sequence[str]) -> str:
    """Its own hint, else one for its kind, else the help of the verb that ``arguments`` name."""
    own = getattr(error, "hint", None)
    if own:
        return str(own)
    if not isinstance(error, errors.KvloomError | OSError) or isinstance(error, errors.InternalError):
        return _BUG
    for kind in type(error).__mro__:
        if kind in _BY_KIND:
            return _BY_KIND[kind]
    return f"run `{' '.join(('kvloom', *_verb(arguments)))} --help`"


def _verb(arguments: Sequence[str]) -> list[str]:
    """The words that name a verb: ``chunks add``."""
    import typer.main

    from kvloom.cli.app import app

    commands, words = getattr(typer.main.get_command(app), "commands", {}), list[str]()
    for word in arguments:
        if word not in commands:
            break
        commands = getattr(commands[word], "commands", {})
        words.append(word)
    return words
