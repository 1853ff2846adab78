"""A backend against float64 at any size: fenced and poisoned outputs, the reference in slices that fit.

An op's `rows` names a dim of whose indices each is computed alone. Cutting arguments and results along it and running
the reference on the pieces compares every element in a fraction of the memory; each piece must be within tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ..contract import Case, Op, T, poisoned, use

SLICES = 16
"""Pieces of a large call's reference: attention over 16380 keys then needs about 3 GB for its scores."""

WHOLE = 2**24
"""Bytes of arguments up to which a call is one piece: a tolerance's fractions and means want many elements."""

GUARD = 256
"""Bytes around each output that a kernel must leave alone."""

_FENCE = 0x5A


class Result(NamedTuple):
    """One output's worst piece: accepted or not, error and bound in its tolerance's unit, and words."""

    output: str
    ok: bool
    error: float
    bound: float
    said: str


def fenced(op: Op, inputs: dict[str, Any]) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """Outputs cut from the middle of larger buffers -> (buffers, outputs), on the device of the inputs."""
    d = op.dims(inputs)
    device = next(v.device for v in inputs.values() if isinstance(v, torch.Tensor))
    buffers: list[torch.Tensor] = []
    outs: list[torch.Tensor | None] = []
    for spec in op.out.values():
        if not spec.present(d):
            outs.append(None)
            continue
        n = spec.nbytes(d)
        buffers.append(torch.full((n + 2 * GUARD,), _FENCE, dtype=torch.uint8, device=device))
        outs.append(buffers[-1][GUARD : GUARD + n].view(spec.dtype_of(d)).view(spec.shape(d)))
    return buffers, outs


def intact(buffers: list[torch.Tensor]) -> bool:
    """Whether nothing was written outside the outputs."""
    return all(bool((b[:GUARD] == _FENCE).all() and (b[-GUARD:] == _FENCE).all()) for b in buffers)


def _cut(spec: T, tensor: torch.Tensor | None, rows: str, piece: slice) -> torch.Tensor | None:
    names = spec.dims.split()
    if tensor is None or rows not in names:
        return tensor
    return tensor[(slice(None),) * names.index(rows) + (piece,)]


def pieces(op: Op, inputs: dict[str, Any], outs: tuple, count: int | None = None) -> Iterator[tuple[tuple, tuple]]:
    """(results, float64 reference) of each piece of a call; one piece for a small call and for an op without `rows`."""
    if count is None:
        count = SLICES if sum(v.nbytes for v in inputs.values() if isinstance(v, torch.Tensor)) > WHOLE else 1
    size = getattr(op.dims(inputs), op.rows) if op.rows else 1
    step = -(-size // count)
    for start in range(0, size, step):
        piece = slice(start, start + step)
        got, kw = outs, inputs
        if op.rows:
            got = tuple(_cut(spec, o, op.rows, piece) for spec, o in zip(op.out.values(), outs))
            kw = inputs | {a: _cut(spec, inputs.get(a), op.rows, piece) for a, spec in op.args.items()}
        want = op.reference(**kw)
        yield got, want if isinstance(want, tuple) else (want,)


def compare(op: Op, inputs: dict[str, Any], outs: tuple, backend: str = "reference") -> list[Result]:
    """Every output's worst piece: the first that is refused, else the one nearest to its bound."""
    worst: dict[str, Result] = {}
    for got, want in pieces(op, inputs, outs):
        for name, g, w in zip(op.out, got, want):
            if g is None:
                continue
            found = Result(name, *op.tolerance(name, backend).measure(g, w.double()))
            old = worst.get(name)
            if old is None or (old.ok and (not found.ok or found.error > old.error)):
                worst[name] = found
    return list(worst.values())


def make(op: Op, case: Case, device: torch.device | str) -> dict[str, Any]:
    """Arguments of a case, drawn on the device itself: on the host the large ones take seconds."""
    device = torch.device(device)
    return op.make(case, device, generator=torch.Generator(device).manual_seed(0))


def run(op: Op, backend: str, inputs: dict[str, Any]) -> list[Result]:
    """One call into fenced, poisoned outputs, compared with float64.

    Raises AssertionError when the call writes outside its outputs or changes an argument.
    """
    before = {k: v.clone() for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    buffers, outs = fenced(op, inputs)
    with use(**{op.name: backend}), poisoned(), torch.no_grad():
        op(**inputs, out=outs)
    if not intact(buffers):
        raise AssertionError(f"{op.name} on {backend} wrote outside its outputs")
    for k, v in before.items():
        if not torch.equal(v.view(torch.uint8), inputs[k].view(torch.uint8)):
            raise AssertionError(f"{op.name} on {backend} changed its argument {k}")
    return compare(op, inputs, tuple(outs), backend)


def twice(op: Op, backend: str, inputs: dict[str, Any]) -> list[str]:
    """Outputs whose bytes differ between two calls with the same arguments."""
    with use(**{op.name: backend}), torch.no_grad():
        first, second = (r if isinstance(r, tuple) else (r,) for r in (op(**inputs), op(**inputs)))
    pairs = [(n, a, b) for n, a, b in zip(op.out, first, second) if a is not None]
    return [n for n, a, b in pairs if not torch.equal(a.view(torch.uint8), b.view(torch.uint8))]
