"""torch.library ops and fakes from the contracts, for torch.compile and export; eager calls never come here.

`liveact::<op>` returns fresh tensors, `liveact::<op>_out` writes into given ones. Both take the op's arguments in
order: tensors, then scalars. An output that does not exist under the given dims is a tensor without elements.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from .op import REGISTRY, Op, when_tracing

_LIB = torch.library.Library("liveact", "DEF")
_TYPES = {bool: "bool", int: "int", float: "float", str: "str", torch.dtype: "ScalarType", tuple: "int[]"}
_DEFINED: set[str] = set()


def flat(schedule: tuple) -> list[int]:
    """((slot, (sources)), ...) -> [slot, count, source, source, ..., slot, ...]: what a schema can carry."""
    return [n for slot, sources in schedule for n in (slot, len(sources), *sources)]


def unflat(numbers: list[int]) -> tuple:
    """The inverse of `flat`."""
    out, i = [], 0
    while i < len(numbers):
        slot, count = numbers[i], numbers[i + 1]
        out.append((slot, tuple(numbers[i + 2 : i + 2 + count])))
        i += 2 + count
    return tuple(out)


def scalar_types(op: Op) -> dict[str, type]:
    """Type of each scalar argument, from the reference's annotations."""
    hints = {"bool": bool, "int": int, "float": float, "str": str, "tuple": tuple, "torch.dtype": torch.dtype}
    out = {}
    for name in op.scalars:
        hint = inspect.signature(op.reference).parameters[name].annotation
        out[name] = hint if isinstance(hint, type) else hints[str(hint)]
    return out


def schema(op: Op, into: bool = False) -> str:
    """The torch schema of an op; `into` is the variant that writes into given tensors."""
    args = [f"Tensor{'?' if spec.optional else ''} {name}" for name, spec in op.args.items()]
    args += [f"{_TYPES[kind]} {name}" for name, kind in scalar_types(op).items()]
    if into:
        outs = [f"Tensor({chr(97 + i)}!){'?' if s.when else ''} out_{n}" for i, (n, s) in enumerate(op.out.items())]
        return f"{op.name}_out({', '.join(args + outs)}) -> ()"
    returns = ", ".join("Tensor" for _ in op.out)
    return f"{op.name}({', '.join(args)}) -> {returns if len(op.out) == 1 else f'({returns})'}"


def _keywords(op: Op, values: tuple) -> dict[str, Any]:
    kw = dict(zip([*op.args, *op.scalars], values))
    return {k: unflat(list(v)) if isinstance(v, (list, tuple)) else v for k, v in kw.items()}


def _define(op: Op) -> None:
    def run(*values):
        out = op(**_keywords(op, values))
        anchor = next(v for v in values if isinstance(v, Tensor))
        out = out if isinstance(out, tuple) else (out,)
        whole = [anchor.new_empty(0) if o is None else o.contiguous() for o in out]
        return whole[0] if len(whole) == 1 else tuple(whole)

    def run_into(*values):
        n = len(op.args) + len(op.scalars)
        out = values[n:]
        op(**_keywords(op, values[:n]), out=out[0] if len(out) == 1 else out)

    def fake(*values):
        d = op.dims(_keywords(op, values))
        anchor = next(v for v in values if isinstance(v, Tensor))
        made = [
            anchor.new_empty(s.shape(d) if s.present(d) else 0, dtype=s.dtype_of(d) if s.present(d) else None)
            for s in op.out.values()
        ]
        return made[0] if len(made) == 1 else tuple(made)

    _LIB.define(schema(op))
    _LIB.impl(op.name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"liveact::{op.name}", fake, lib=_LIB)
    _LIB.define(schema(op, into=True))
    _LIB.impl(f"{op.name}_out", run_into, "CompositeExplicitAutograd")
    torch.library.register_fake(f"liveact::{op.name}_out", lambda *values: None, lib=_LIB)


def register() -> None:
    """Define every op of the registry that is not defined yet."""
    for name, op in REGISTRY.items():
        if name not in _DEFINED:
            _define(op)
            _DEFINED.add(name)


def call(op: Op, out: Any, kw: dict[str, Any]) -> Any:
    """One op call while torch.compile traces: through the dispatcher, with the result in the op's own form."""
    values = [kw.get(a) for a in op.args]
    for name, default in op.scalars.items():
        value = kw.get(name, default)
        values.append(flat(value) if isinstance(value, tuple) else value)
    if out is not None:
        outs = [out] if isinstance(out, Tensor) else list(out)
        getattr(torch.ops.liveact, f"{op.name}_out")(*values, *outs)
        return out
    result = getattr(torch.ops.liveact, op.name)(*values)
    if isinstance(result, Tensor):
        return result
    return tuple([None if r.numel() == 0 else r for r in result])


when_tracing(call)
