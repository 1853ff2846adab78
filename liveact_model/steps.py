"""The denoise steps of one kind of block on fixed tensors, so that they can be captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from liveact_kernels import ops
from liveact_kernels.contract import scope
from liveact_kernels.graphs import Graphs

from .config import PATCH
from .dit import DiT, KeysValues, Prompt, Time, Window
from .schedule import Coefficients


class Steps:
    """What a block does between its noise and its latents; the first block has one of these, all later ones another.

    dit        the denoiser
    y          [4 + Z, F, Y, X] mask and image latents of the block's F latent frames
    times      one per denoise step, with its coefficients and its memory window
    prompt     shared by a Session's Steps; new keys and values are copied into it
    hearing    latent frames that have audio: F, or F - 1 in the first block
    null       windows of the guidance's forwards without audio (one per step), or None
    audio_cfg  guidance strength, with `null`

    Inputs are copied into `rows` [hearing, 8, blocks, channels], `latent` and `noise` [Z, F, Y, X]; the result is in
    `latent`.
    """

    def __init__(
        self, dit: DiT, y: Tensor, times: list[Time], coefficients: list[Coefficients], windows: list[Window],
        prompt: Prompt, first: bool, hearing: int, null: list[Window] | None, audio_cfg: float,
    ):  # fmt: skip
        self.dit, self.y, self.times, self.coefficients, self.windows = dit, y, times, coefficients, windows
        self.prompt, self.first, self.null, self.audio_cfg = prompt, first, null, audio_cfg
        c = dit.config
        self.latent, self.noise = (y.new_zeros(c.out_dim, *y.shape[1:]) for _ in range(2))
        self.rows = y.new_zeros(hearing, c.audio_window + 3, c.audio_blocks, c.audio_channels)
        self._heard: list[KeysValues] = []
        self._silence = None if null is None else dit.hear(self.rows)  # audio of zeros never changes
        self._replays: list[Callable[[], None]] | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the block."""
        return self.latent[0].numel() // PATCH**2

    def _calls(self) -> list[Callable[[], None]]:
        return [self._hear, *(lambda i=i: self._step(i) for i in range(len(self.times)))]

    def _hear(self) -> None:
        self._heard = self.dit.hear(self.rows)

    def _step(self, i: int) -> None:
        latent, y, time, c = self.latent, self.y, self.times[i], self.coefficients[i]
        audio = self._heard if i > 0 else None  # the released schedule hears nothing at the first step
        tokens = self.dit(latent, y, time, self.prompt, audio, self.windows[i], self.first)
        if self.null is not None and i > 0:
            without = self.dit(latent, y, time, self.prompt, self._silence, self.null[i], self.first)
            tokens = without + self.audio_cfg * (tokens - without)
        noise = self.noise if c.c_noise else None
        latent.copy_(ops.denoise_update(tokens=tokens, latent=latent, noise=noise, **c._asdict()))

    def warm(self, graphs: Graphs) -> None:
        """Run every call once: what the capture launches is compiled then. Leaves garbage in the windows."""
        for call in self._calls():
            graphs.warm(call)

    def capture(self, graphs: Graphs) -> None:
        """Record every call; from now on a block replays them."""
        self._replays = [graphs.capture(call) for call in self._calls()]

    def run(self, rows: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """Denoise one block: audio rows, and noise(i) [Z, F, Y, X] by step -> latents, a tensor of their own.

        noise(0) is the block's initial latent, noise(i) follows denoise step i - 1.
        """
        calls = self._replays or self._calls()
        self.rows.copy_(rows)
        self.latent.copy_(noise(0))
        calls[0]()
        for i, c in enumerate(self.coefficients):
            with scope(f"step[{i}]"):
                if c.c_noise:
                    self.noise.copy_(noise(i + 1))
                calls[1 + i]()
        return self.latent.clone()


def forget(windows: list[Window]) -> None:
    """Empty memory windows, as before a first block."""
    for window in windows:
        window.layers.clear()


def capture(first: Steps, later: Steps, windows: list[Window]) -> Graphs:
    """Capture both kinds of block of a Session that has made none; its windows start empty afterwards.

    The first block's capture makes the memory that the later ones' capture reads and writes, so the second block and
    all after it are one signature.
    """
    graphs = Graphs()
    forget(windows)
    first.warm(graphs)
    forget(windows)
    first.capture(graphs)
    later.warm(graphs)
    later.capture(graphs)
    return graphs
