"""From a name or a directory to an Avatar: models that ship, models trained here, the released checkpoint.

The room's face. It stands above the encoders and the denoiser, which read their files through `checkpoint`.
"""

from .converted import convert
from .keymap import infer_config, load
from .weights import ASSETS, AVATARS, load_avatar, save_ours

__all__ = ["ASSETS", "AVATARS", "convert", "infer_config", "load", "load_avatar", "save_ours"]
