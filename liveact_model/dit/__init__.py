"""The denoiser: blocks, attention, embeddings, precision, rotary positions and the memory window.

The room's face. `model` has DiT; `cache` the window by name (2 reference, 2 long-term, 2 short-term, 8 current slots).
"""

from . import fp4  # noqa: F401 - adds its formats
from .attention import KeysValues
from .block import Prompt
from .cache import TWO_RANK_RELEASED, LayerMemory, Window
from .formats import format_at
from .model import DiT, Time
from .precision import Linear
from .rope import rope_table

__all__ = [
    "TWO_RANK_RELEASED", "DiT", "KeysValues", "LayerMemory", "Linear", "Prompt", "Time", "Window", "format_at",
    "rope_table",
]  # fmt: skip
