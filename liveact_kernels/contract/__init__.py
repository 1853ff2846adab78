"""The op contract: what an op states, which backend a call runs on, who listens, and what is missing here.

This is the room's face: ops, the model and the tools import from here and never from the files inside.
`op` has Op; `spec` tensors, dims and cases; `tolerance` how wrong; `dispatch` the choice of backends, scopes and
recorders; `available` why a backend cannot run; `library` the same ops for torch.compile.
"""

from . import library  # noqa: F401 - gives traced calls to Op
from .available import FLASH, VENDORS, capability, found, lacks_instructions, missing
from .dispatch import (
    FUNCTIONAL,
    OPTIONAL,
    PREFERRED,
    STATE,
    Call,
    CallList,
    Recorder,
    backend_of,
    chosen_for,
    mark,
    parse_backends,
    poisoned,
    record,
    scope,
    unusable,
    use,
    with_gradients,
)
from .op import REGISTRY, Op
from .spec import (
    ACT,
    FP8_MAX,
    INT8_MAX,
    SHORT,
    Case,
    Dims,
    DType,
    T,
    bf16,
    cast,
    compute_kind,
    f32,
    fp8,
    int8,
    to_fp8,
    u8,
)
from .tolerance import ByDtype, Exact, Measured, Nibbles, Rel, Tolerance, Ulp
from .trust import Outcome, check, distrusted, reason, small

__all__ = [
    "ACT", "FLASH", "FP8_MAX", "FUNCTIONAL", "INT8_MAX", "OPTIONAL", "PREFERRED", "REGISTRY", "SHORT", "STATE",
    "VENDORS", "ByDtype", "Call", "CallList", "Case", "DType", "Dims", "Exact", "Measured", "Nibbles", "Op", "Outcome",
    "Recorder", "Rel", "T", "Tolerance", "Ulp", "backend_of", "bf16", "capability", "cast", "check", "chosen_for",
    "compute_kind", "distrusted", "f32", "found", "fp8", "int8", "lacks_instructions", "mark", "missing",
    "parse_backends", "poisoned", "reason", "record", "scope", "small", "to_fp8", "u8", "unusable", "use",
    "with_gradients",
]  # fmt: skip
