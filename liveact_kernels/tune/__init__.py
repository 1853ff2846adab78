"""The tuner: `search` what to try and what to keep, `gpu` compiling and timing, `command` for people.

`liveact_kernels.tuned` has the tables that come of it; kernels read those and never this room.
"""
