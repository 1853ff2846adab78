"""A stand-in for the model: the Session API at no cost, so that media and command line are tested by themselves.

As a script it is the `liveact` command with this engine: `python fake_engine.py SECONDS_PER_BLOCK ARGS...`.
"""

import signal
import sys
import time
from types import ModuleType, SimpleNamespace

import torch

from liveact_model.errors import InputError

BLOCK_FRAMES = (21, 32)
loads = []
"""What `load_avatar` was asked for, call by call."""
encoded = []
"""The prompts that it was to encode."""


class Session:
    """Video frame k is grey level 4k mod 256."""

    delay_s = 0.0
    fail_at = None
    last = None

    def __init__(self, avatar, image, prompt, *, fps, seed=42, **options):
        assert image.dtype == torch.float32 and image.ndim == 3 and -1 <= image.min() and image.max() <= 1
        self.size, self.fps, self.prompts, self.pushed = image.shape[1:], fps, [prompt], 0
        self.total, self.made, self.blocks_made, self.ahead = None, 0, 0, 0
        self.options = SimpleNamespace(seed=seed, **options)
        self.most_held_s = 0.0
        Session.last = self

    @property
    def _next(self):
        return BLOCK_FRAMES[min(self.blocks_made, 1)]

    def push_audio(self, samples):
        assert samples.dtype == torch.float32 and samples.ndim == 1 and torch.isfinite(samples).all()
        self.pushed += len(samples)
        self.most_held_s = max(self.most_held_s, self.pushed / 16000 - self.made / self.fps)

    def close_audio(self):
        assert self.total is None, "closed twice"
        self.total = int(self.pushed / 16000 * self.fps)

    def close(self):
        pass

    def captured(self):
        return 0

    def live_compilations(self):
        return 0

    def set_prompt(self, text):
        self.prompts.append(text)

    def ready(self):
        return self.total is not None or int(self.pushed / 16000 * self.fps) >= self.made + self._next + 2

    @property
    def done(self):
        return self.total is not None and self.made >= self.total

    def next_block(self):
        assert self.ready() and not self.done
        if self.delay_s:
            print(f"engine: block {self.blocks_made}", file=sys.stderr, flush=True)
            time.sleep(self.delay_s)
        if self.fail_at == self.blocks_made:
            raise RuntimeError("the engine broke")
        levels = (torch.arange(self.made, self.made + self._next) * 4 % 256).to(torch.uint8)
        self.made, self.blocks_made = self.made + self._next, self.blocks_made + 1
        return levels[:, None, None, None].expand(-1, *self.size, 3).contiguous()


def load_avatar(
    name_or_dir, dtype="auto", wav2vec_dir=None, device="cpu", prompts=None, before=None, watch=None, **options
):
    if name_or_dir != "tiny":
        raise InputError(f"--model: expected tiny or a checkpoint directory, got {name_or_dir!r}")
    first, later = BLOCK_FRAMES
    sizes = {"dim": 8, "ffn_dim": 8, "first_block_video_frames": first, "block_video_frames": later}
    dit = SimpleNamespace(config=SimpleNamespace(**sizes))
    loads.append({"name": name_or_dir, "dtype": dtype, **options})
    encoded.append(prompts)
    return SimpleNamespace(
        name="tiny", default_size=(64, 48), default_fps=20, dit=dit, measure_audio=lambda pieces, fps: "levels"
    )


def modules():
    """Name -> module, to be put in sys.modules."""
    session, weights = ModuleType("liveact_model.session"), ModuleType("liveact_model.loading")
    session.Session, weights.load_avatar, weights.AVATARS = Session, load_avatar, ("tiny",)
    return {session.__name__: session, weights.__name__: weights}


if __name__ == "__main__":
    # A shell that starts the tests in the background has these ignored, and so would the command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from liveact_app.cli import main

    Session.delay_s = float(sys.argv[1])
    sys.modules.update(modules())
    sys.exit(main(sys.argv[2:]))
