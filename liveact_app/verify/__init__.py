"""Checks of an installation: recorded runs of the released model replayed through ours. `command` is light, `cases` not."""
