"""What to generate: the checked arguments of one video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from liveact_app.generate.edits import Edit, TimedEdit
from liveact_app.media.files import check_output
from liveact_model.config import BLOCK_LATENT_FRAMES

if TYPE_CHECKING:
    from liveact_model.dit import Precision

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")


@dataclass(frozen=True)
class Job:
    """A generation with every argument checked that can be checked without opening media or a model.

    `size` and `fps` are None for the avatar's own; `size` is (W, H) in pixels; see `liveact generate --help`.

    Raises:
        InputError: `out` or `report` cannot be written, or has an unknown ending.
    """

    image: str
    audio: str
    prompt: str
    out: str
    model: str = "tiny"
    size: tuple[int, int] | None = None
    fps: float | None = None
    seed: int = 42
    backend: str | None = None
    dtype: str | Precision = "auto"
    device: str = "auto"
    wav2vec_dir: str | None = None
    sampler: str = "renoise"
    audio_cfg: float = 1.0
    eight_bit_memory: bool = False
    eight_bit_attention: bool = False
    mean_memory: bool = False
    text_on_cpu: bool = False
    live_audio: bool = False
    block_times: bool = False
    block_offload: bool = False
    offload_cache: bool = False
    decode_latent_frames: int = BLOCK_LATENT_FRAMES
    eager: bool = False
    parallel: str = "auto"
    edits: tuple[Edit | TimedEdit, ...] = ()
    edit_files: tuple[str, ...] = ()
    scale: int = 1
    report: str | None = None
    audio_track: int | None = None

    @property
    def prompts(self) -> tuple[str, ...]:
        """Every prompt that the video may have."""
        return (self.prompt, *(edit.text for edit in self.edits))

    def session(self, device: str) -> dict[str, Any]:
        """The options of a Session on which all processes of a run must agree."""
        return {
            "seed": self.seed, "audio_cfg": self.audio_cfg, "sampler": self.sampler,
            "eight_bit_memory": self.eight_bit_memory, "eight_bit_attention": self.eight_bit_attention,
            "memory_offload": self.offload_cache and device != "cpu",
            "decode_latent_frames": self.decode_latent_frames, "graphs": False if self.eager else None,
        }  # fmt: skip

    def __post_init__(self) -> None:
        """Check the outputs, and put their real paths in place."""
        inputs = {"--image": self.image, "--audio": self.audio, **{f"--edit-prompt {f}": f for f in self.edit_files}}
        object.__setattr__(self, "out", check_output(self.out, "--out", VIDEO_SUFFIXES, inputs))
        if self.report is not None:
            object.__setattr__(self, "report", check_output(self.report, "--report", (".json",), inputs))
