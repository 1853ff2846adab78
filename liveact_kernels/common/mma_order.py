"""The order in which 8-bit attention wants the tokens of V^T: chosen so that probabilities change hands nowhere.

Scores leave the tensor cores with columns 2t, 2t + 1, 8 + 2t and 9 + 2t of every 16 in lane t of four; an 8-bit left
operand is read with columns 4t .. 4t + 3 there. A sum over tokens does not mind their order, so the values are stored
in the order in which the probabilities already lie.
"""

import torch

GROUP, PAD = 16, 128
"""Tokens that change places among each other, and the multiple to which a segment's tokens are padded with zeros: 16
bytes would do for the tensor copy engine's row pitch, 128 lets every tile be read without a mask."""


def padded(tokens: int) -> int:
    """Tokens rounded up to whole tiles."""
    return -(-tokens // PAD) * PAD


def to_mma_order(x: torch.Tensor) -> torch.Tensor:
    """[.., tokens] in natural order -> the order of V^T; tokens must be a multiple of 16."""
    return x.unflatten(-1, (-1, 2, 4, 2)).transpose(-3, -2).flatten(-4)


def from_mma_order(x: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_mma_order`."""
    return x.unflatten(-1, (-1, 4, 2, 2)).transpose(-3, -2).flatten(-4)
