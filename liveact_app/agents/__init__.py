"""A face for voice agents: the live engine as a part of Pipecat's and LiveKit's pipelines."""

MISSING = "expected the packages of the extra {0!r}; pip install liveact[{0}]"
