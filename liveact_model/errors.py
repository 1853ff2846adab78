"""The one exception that means "the user gave us something we cannot use"."""


class InputError(ValueError):
    """Bad input: one clear sentence naming the argument, what was expected and what came.

    The command line prints the sentence and exits with code 2; anything else that escapes is a bug.
    """
