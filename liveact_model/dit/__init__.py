"""The denoiser: blocks, attention, embeddings, precision, rotary positions and the memory window.

The room's face. `model` has DiT; `cache` the window by name (2 reference, 2 long-term, 2 short-term, 8 current slots).
"""

from .attention import KeysValues
from .away import Memories
from .block import Prompt
from .cache import TWO_RANK_RELEASED, LayerMemory, Window
from .model import DiT, Time
from .precision import Linear
from .rope import rope_table
from .streamed import Streamed

__all__ = [
    "TWO_RANK_RELEASED", "DiT", "KeysValues", "LayerMemory", "Linear", "Memories", "Prompt", "Streamed", "Time",
    "Window", "rope_table",
]  # fmt: skip
