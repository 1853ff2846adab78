"""Checks of an installation: recorded runs of the released model replayed through ours.

`command` is light to import; `cases`, with what it replays, is not.
"""
