"""The denoiser: blocks, attention, embeddings, precision, rotary positions and the memory window.

The room's face. `model` has DiT; `cache` the window by name (2 reference, 2 long-term, 2 short-term, 8 current slots).
"""

from .attention import KeysValues
from .block import Prompt
from .cache import TWO_RANK_RELEASED, LayerMemory, Window
from .model import DiT, Time
from .plan import SIZES, Precision, patterns
from .precision import Linear
from .rope import rope_table

__all__ = [
    "SIZES", "TWO_RANK_RELEASED", "DiT", "KeysValues", "LayerMemory", "Linear", "Precision", "Prompt", "Time", "Window",
    "patterns", "rope_table",
]  # fmt: skip
