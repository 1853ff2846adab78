"""Prompt encoder of the tiny model: a fixed vocabulary of emotions and actions, nothing learned."""

import re

import torch
from torch import Tensor

# One concept per line: the tiny model knows these words and ignores all others. Synonyms share one vector.
EMOTIONS = {
    "neutral": ("neutral", "calm", "relaxed", "serious"),
    "happy": ("happy", "smiling", "smile", "smiles", "joyful", "cheerful", "glad"),
    "sad": ("sad", "unhappy", "gloomy", "sorrowful"),
    "angry": ("angry", "mad", "furious", "annoyed"),
    "surprised": ("surprised", "amazed", "astonished", "shocked"),
}
ACTIONS = {
    "none": ("still", "motionless"),
    "nod": ("nod", "nods", "nodding"),
    "wave": ("wave", "waves", "waving"),
    "shake": ("shake", "shakes", "shaking"),
}
CONCEPTS = (*EMOTIONS, *ACTIONS)
_CONCEPT_OF = {word: concept for table in (EMOTIONS, ACTIONS) for concept, words in table.items() for word in words}


def _hadamard(size: int) -> Tensor:
    """Sylvester's matrix [size, size]: entries +-1, orthogonal rows, the first row all ones; size a power of two."""
    rows = torch.ones(1, 1)
    while len(rows) < size:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows


class WordEncoder:
    """Words of a prompt -> rows of a Hadamard matrix, so concepts are orthogonal and have unit mean square.

    The first row is always the constant row of ones, then one row per distinct concept in order of appearance. A prompt
    without a known word means "neutral". Case and punctuation do not matter; unknown words are ignored.
    """

    text_dim = 64
    text_len = 8

    def __init__(self):
        self._rows = _hadamard(self.text_dim)

    def concepts(self, prompt: str) -> list[str]:
        """Names of the distinct concepts in `prompt`, in order of appearance, at most text_len - 1."""
        words = re.findall(r"[a-z]+", prompt.lower())
        known = dict.fromkeys(_CONCEPT_OF[word] for word in words if word in _CONCEPT_OF)
        return list(known)[: self.text_len - 1] or ["neutral"]

    def encode(self, prompt: str) -> Tensor:
        """Encode one prompt -> [L, 64] float32, 2 <= L <= 8: the constant row, then one row per concept."""
        index = [0] + [1 + CONCEPTS.index(concept) for concept in self.concepts(prompt)]
        return self._rows[index].clone()
