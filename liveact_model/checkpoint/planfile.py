"""The file of a precision plan, as it is written and read."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = "liveact-plan-1"
Size = Annotated[int, Field(ge=1, le=1 << 20)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
_WHOLE, _TEXT, _SWITCH = f"a whole number from 1 to {1 << 20}", "text of 1 to 200 characters", "true or false"


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Sizes(_Strict):
    """Sizes of the denoiser that a plan is for: those that shape its linear layers."""

    dim: Size = Field(description=_WHOLE)
    num_heads: Size = Field(description=_WHOLE)
    num_layers: int = Field(ge=1, le=1024, description="a whole number from 1 to 1024")
    ffn_dim: Size = Field(description=_WHOLE)
    in_dim: Size = Field(description=_WHOLE)
    text_dim: Size = Field(description=_WHOLE)
    clip_dim: Size = Field(description=_WHOLE)
    audio_hidden: Size = Field(description=_WHOLE)
    audio_dim: Size = Field(description=_WHOLE)


class Measured(_Strict):
    """What a plan's error was measured on; errors are relative L2 of the latents against a run in `dtype`.

    cost, chip, ms, ms_wide  what the plan was chosen by: of what, where, for the plan and for the wide model
    """

    image: str = Field(max_length=4096, description="a file's name")
    audio: str = Field(max_length=4096, description="a file's name")
    prompt: str = Field(max_length=1 << 16, description="text")
    size: list[Size] = Field(min_length=2, max_length=2, description="[W, H] in pixels")
    blocks: Size = Field(description=_WHOLE)
    seed: int = Field(ge=0, description="a whole number from 0 on")
    dtype: Name = Field(description=_TEXT)
    device: Name = Field(description=_TEXT)
    chip: Name = Field(description=_TEXT)
    cost: Name = Field(description=_TEXT)
    ms_per_video_frame: float = Field(ge=0, description="a number from 0 on")
    ms_per_video_frame_wide: float = Field(ge=0, description="a number from 0 on")


class PlanFile(_Strict):
    """A plan: `linears` names formats of layers by path, see dit.Precision; the rest have `default`."""

    format: Literal["liveact-plan-1"] = Field(description=f"'{FORMAT}'")
    model: Name = Field(description=_TEXT)
    sizes: Sizes = Field(description="an object with the denoiser's sizes")
    default: Name = Field(description="a format's name")
    linears: dict[str, str] = Field(max_length=1 << 14, description="an object of formats by path")
    eight_bit_memory: bool = Field(description=_SWITCH)
    eight_bit_attention: bool = Field(description=_SWITCH)
    bound: float | None = Field(None, gt=0, description="a number above 0")
    reached: float | None = Field(None, ge=0, description="a number from 0 on")
    measured: Measured | None = Field(None, description="an object that says how it was measured")

    def text(self) -> str:
        """The file's content."""
        return json.dumps(self.model_dump(exclude_none=True), indent=1) + "\n"
