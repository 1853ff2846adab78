"""The denoiser: blocks, attention, embeddings, precision, rotary positions and the memory window.

The room's face. `model` has DiT; `cache` the window by name (2 reference, 2 long-term, 2 short-term, 8 current slots).
"""

from . import fp4  # noqa: F401 - adds its formats
from .attention import KeysValues
from .away import Memories
from .block import Prompt
from .cache import TWO_RANK_RELEASED, LayerMemory, Window
from .formats import FORMATS, Activation, Format, Weights, format_at
from .model import DiT, Time
from .plan import SIZES, Precision, patterns
from .precision import Linear
from .rope import rope_table
from .streamed import Streamed
from .trial import stored, tried

__all__ = [
    "FORMATS", "SIZES", "TWO_RANK_RELEASED", "Activation", "DiT", "Format", "KeysValues", "LayerMemory", "Linear",
    "Memories", "Precision", "Prompt", "Streamed", "Time", "Weights", "Window", "format_at", "patterns", "rope_table",
    "stored", "tried",
]  # fmt: skip
