"""Exceptions that mean something to a user: everything else that escapes is a bug."""


class InputError(ValueError):
    """Bad input: one clear sentence naming the argument, what was expected and what came.

    The command line prints the sentence and exits with code 2.
    """


class PeerError(RuntimeError):
    """A run of several processes cannot go on: one of them died, hangs or failed, or the leading one has ended it.

    `code` is the exit code; an empty message means that the process that knows why has said so. Not `aloud`: another
    process tells the user the same.
    """

    def __init__(self, message: str = "", code: int = 1, aloud: bool = True):
        super().__init__(message)
        self.code, self.aloud = code, aloud


class CheckpointWarning(UserWarning):
    """Something in a checkpoint was passed over: one sentence; the model is whole without it."""
