"""A training run in a folder: progress, curves, and checkpoints from which it continues bit for bit.

Everything random in a step is drawn from (seed, step), so weights, optimiser and the step's number are the whole state.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from liveact_model.errors import InputError
from liveact_train.shards import Shards, like, local, whole

CHECKPOINT = "checkpoint.safetensors"
TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}
"""Names that safetensors has for the types of a run's tensors."""
FREE = (
    "checkpoint_activations", "data", "device", "dry_run", "latents", "made", "out", "start", "start_audio", "steps",
    "teacher", "threads", "vae",
)  # fmt: skip
"""Fields of a config that may differ when a run continues: where things lie, how long and on what it runs."""
ONCE = {"model": "tiny", "optimiser": "adam"}
"""What was so before a config had these fields."""


class Diverged(RuntimeError):
    """The loss or a gradient is no finite number any more."""


def seed_of(*key: object) -> int:
    """A seed in 0..2^63 that depends on the key alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def learning_rate(
    step: int, steps: int, peak: float, warm_up: int = 100, fall: float = 0.4, end: float = 0.02
) -> float:
    """Rate of step 1, 2, .. `steps`: linear to `peak` in `warm_up` steps, level, linear to `end * peak` at the end.

    The last part takes the share `fall`; until then a run can be made longer without having gone another way.
    """
    left = (steps - step) / max(1.0, fall * steps)
    return peak * min(1.0, step / warm_up, end + (1.0 - end) * max(0.0, left))


class Run:
    """Steps of one stage, from the folder's checkpoint on if there is one.

    name       of the stage, in messages
    folder     gets checkpoint.safetensors and TensorBoard's files
    config     the stage's dataclass: seed, steps and rate are read; a checkpoint with other values is refused
    module     what is trained; `average` is its exponential moving average
    optimiser  of (some of) its parameters
    ema        decay of the average
    shards     the processes that train together; each of them makes a Run of the same module
    average    a copy of the module that takes no gradients, where the module itself cannot be copied
    """

    def __init__(
        self, name: str, folder: Path, config: Any, module: nn.Module, optimiser: torch.optim.Optimizer,
        ema: float = 0.999, warm_up: int = 100, report_every_s: float = 60.0, save_every_s: float = 300.0,
        shards: Shards | None = None, average: nn.Module | None = None,
    ):  # fmt: skip
        self.name, self.folder, self.config, self.module, self.optimiser = name, folder, config, module, optimiser
        self.ema, self.warm_up, self.report_every_s, self.save_every_s = ema, warm_up, report_every_s, save_every_s
        self.average = average or copy.deepcopy(module).requires_grad_(False)
        self.shards = shards or Shards()
        self._said = json.dumps(dataclasses.asdict(config))
        self.step = self.saved = 0
        self.loss = math.nan  # running mean
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._resume()
        self._curves = _curves(folder, self.step) if self.shards.leads else None

    @property
    def path(self) -> Path:
        """The checkpoint."""
        return self.folder / CHECKPOINT

    def __iter__(self) -> Iterator[random.Random]:
        """One item a step: a source of random choices that, like torch's own, depends on (seed, step) alone."""
        began = said = written = time.monotonic()
        first = self.step
        while self.step < self.config.steps:
            torch.manual_seed(seed_of(self.config.seed, self.step))
            yield random.Random(seed_of(self.config.seed, self.step, "choices"))
            now, done = time.monotonic(), self.step == self.config.steps
            if self.shards.agree(now - said > self.report_every_s) or done:
                said = now
                self._report((now - began) / (self.step - first))
            if self.shards.agree(now - written > self.save_every_s) or done:
                written = now
                self.save()

    def update(self, loss: Tensor) -> None:
        """Follow the gradient of a loss. Raises Diverged before anything is spoilt."""
        value = self.shards.mean(loss.item())
        self._finite(value, "loss")
        loss.backward()  # several processes: gradients come back as their mean
        trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self._finite(whole(nn.utils.clip_grad_norm_(trained, 1.0)).item(), "gradient")
        self.step += 1
        rate = learning_rate(self.step, self.config.steps, self.config.rate, self.warm_up)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            weight = 1.0 - min(self.ema, self.step / (self.step + 20))
            average, now = (list(map(local, m.parameters())) for m in (self.average, self.module))
            torch._foreach_lerp_(average, now, weight)
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value

    def measure(self) -> Mapping[str, float]:
        """What a report says of `average`; a stage puts its own in place."""
        return {}

    def export(self) -> None:
        """Called with every checkpoint; a stage puts its own in place."""

    def save(self) -> None:
        """Write the checkpoint beside the old one and put it in its place, whole or not at all."""
        about = {"name": self.name, "step": str(self.step), "loss": repr(self.loss), "config": self._said}
        save_shares(self.path, self._state(), about, self.shards.leads, self._kept)
        self.saved = self.step
        self.export()

    def _kept(self) -> str:
        if not self.path.exists():
            return f"no checkpoint is in {self.folder} yet"
        return f"the checkpoint of step {self.saved} is kept in {self.folder}"

    def _finite(self, value: float, what: str) -> None:
        if not math.isfinite(value):
            raise Diverged(f"{self.name}: the {what} became {value} at step {self.step + 1}; {self._kept()}")

    def _report(self, seconds: float) -> None:
        found = {"loss": self.loss, **self.measure()}
        if not self.shards.leads:
            return
        left = seconds * (self.config.steps - self.step) / 3600
        pace = f"{self.name} {self.step}/{self.config.steps}  {seconds:.3f} s a step  {left:.1f} h left"
        print(pace, *(f"{key} {value:.4g}" for key, value in found.items()), sep="  ", flush=True)
        if self._curves is not None:
            for key, value in found.items():
                self._curves.add_scalar(f"{self.name}/{key}", value, self.step)
            self._curves.add_scalar(f"{self.name}/rate", self.optimiser.param_groups[0]["lr"], self.step)
            self._curves.flush()

    # ---- what a checkpoint holds --------------------------------------------------------------------------------

    def _names(self) -> dict[str, nn.Parameter]:
        ids = {id(p): name for name, p in self.module.named_parameters()}
        return {ids[id(p)]: p for group in self.optimiser.param_groups for p in group["params"]}

    def _state(self) -> dict[str, Tensor]:
        parts = {"module": self.module.state_dict(), "average": self.average.state_dict()}
        for name, p in self._names().items():
            parts[f"optimiser/{name}"] = self.optimiser.state[p]
        return {f"{a}/{b}": t for a, part in parts.items() for b, t in part.items()}

    def _resume(self) -> None:
        try:
            with safe_open(str(self.path), framework="pt") as file:
                about = file.metadata()
                self._same(about)
                self._take(file)
        except (SafetensorError, OSError) as error:
            raise InputError(f"--out: expected a checkpoint of this stage in {self.path}, found {error}") from None
        self.step = self.saved = int(about["step"])
        self.loss = float(about["loss"])
        if self.shards.leads:
            print(f"{self.name} continues after step {self.step}", flush=True)

    def _take(self, file: Any) -> None:
        """A checkpoint's values, one at a time."""
        for prefix, module in (("module", self.module), ("average", self.average)):
            for key, tensor in module.state_dict().items():
                tensor.copy_(like(tensor, file.get_tensor(f"{prefix}/{key}")))
        keys = list(file.keys())
        for name, p in self._names().items():
            prefix = f"optimiser/{name}/"
            state = self.optimiser.state[p] = {}
            for key in (k for k in keys if k.startswith(prefix)):
                t = file.get_tensor(key)
                state[key.removeprefix(prefix)] = (
                    torch.empty_like(p, requires_grad=False).copy_(like(p, t)) if t.shape == p.shape else t
                )

    def _same(self, about: dict[str, str]) -> None:
        if about["name"] != self.name:
            found = f"found one of {about['name']}"
            raise InputError(f"--out: expected a checkpoint of the stage {self.name} in {self.folder}, {found}")
        before, now = ONCE | json.loads(about["config"]), ONCE | json.loads(self._said)
        for key in sorted(before | now):
            if key not in FREE and before.get(key) != now.get(key):
                flag, old, new = "--" + key.replace("_", "-"), before.get(key), now.get(key)
                raise InputError(f"{flag}: expected {old}, with which the run in {self.folder} began, got {new}")


class Later(NamedTuple):
    """A tensor that is there when it is asked for."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def save_shares(
    path: Path, state: Mapping[str, Tensor], about: Mapping[str, str], leads: bool = True,
    kept: Callable[[], str] = lambda: "",
) -> None:  # fmt: skip
    """Write tensors as safetensors, each made whole by itself; all processes must ask, the leading one writes.

    A large model's state is many times what a process holds of it.
    """
    parts = {key: Later(t.dtype, tuple(t.shape), partial(whole, t.detach())) for key, t in state.items()}
    if leads:
        write_whole(path, lambda part: write_tensors(part, parts, about), kept)
        return
    for key in _in_file(parts):
        parts[key].read()


def _in_file(parts: Mapping[str, Later]) -> list[str]:
    """Wide types first, as safetensors orders them: that keeps all aligned."""
    return sorted(parts, key=lambda key: (-parts[key].dtype.itemsize, key))


def write_tensors(path: Path, parts: Mapping[str, Later], about: Mapping[str, str]) -> None:
    """A file of safetensors whose values are asked for one at a time."""
    names, at = _in_file(parts), 0
    header: dict[str, Any] = {"__metadata__": dict(about)} if about else {}
    for key in names:
        dtype, shape, _ = parts[key]
        start, at = at, at + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [start, at]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in names:
            value = parts[key].read().to("cpu", parts[key].dtype).contiguous()
            file.write(value.flatten().view(torch.uint8).numpy().data)


def write_whole(path: Path, write: Callable[[Path], None], kept: Callable[[], str] = lambda: "") -> None:
    """Let `write` make a file beside `path` and put it in its place; InputError, and `path` as it was, if it cannot.

    `kept` says what is left then.
    """
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        after = f"; {kept()}" if kept() else ""
        raise InputError(f"--out: {path} could not be written ({error}){after}") from None


def _curves(folder: Path, step: int) -> Any:
    """TensorBoard's writer, or None with one line where the package is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no curves: TensorBoard is not installed (pip install liveact[train])", flush=True)
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
