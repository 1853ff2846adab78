"""The denoiser: blocks, attention, embeddings, precision, rotary positions and the memory window.

The room's face. `model` has DiT; `cache` the window by name (2 reference, 2 long-term, 2 short-term, 8 current slots).
"""

from .attention import KeysValues
from .block import Prompt
from .formats import FORMATS, Activation, Format, Weights
from .cache import TWO_RANK_RELEASED, LayerMemory, Window
from .model import DiT, Time
from .plan import SIZES, Precision, patterns
from .precision import Linear
from .rope import rope_table
from .trial import stored, tried

__all__ = [
    "SIZES", "TWO_RANK_RELEASED", "DiT", "KeysValues", "LayerMemory", "Linear", "Precision", "Prompt", "Time", "Window",
    "FORMATS", "Activation", "Format", "Weights", "patterns", "rope_table", "stored", "tried",
]  # fmt: skip
