"""How many bytes a model and a Session of it take, before anything is allocated: a run without values on `meta`."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from liveact_kernels.cost.memory import Live, nbytes

from .avatar import Avatar
from .dry import Rows
from .parallel import ALONE, SeqParallel
from .session import Session
from .steps import Steps

STEADY_BLOCK = 2
"""The first block that begins with everything that stays: full windows, and the audio of the block before."""
STEPS, START, REST = "denoise steps", "start", "rest"
WEIGHTS = {"dit": "denoiser", "vae": "VAE", "text": "text encoder", "image": "image encoder", "audio": "audio encoder"}
WINDOW, PROMPT, CACHES, SMALL = "memory window", "prompt and audio", "VAE caches", "latents, conditioning, time"
WORK = ("working memory, denoise steps", "working memory, VAE and encoders")
BLOCKS, TEXT_WORK = "weights of the blocks", "working memory, text encoder"
EARLY = "text encoder, more than follows it"
"""What an encoder that is freed before the rest is read takes on top of the rest."""


@dataclass(frozen=True)
class Needs:
    """Bytes by component, predicted: `model` where the denoiser lives, `host` beside it.

    Where the denoiser lives on the host, `host` is empty. `mapped` are the parts whose values stay in their files and
    are read through a mapping, which the system may drop: not in the sums. `moved` are the bytes that a steady block
    copies to the device, and back.
    """

    model: dict[str, int]
    host: dict[str, int] = field(default_factory=dict)
    mapped: dict[str, int] = field(default_factory=dict)
    moved: tuple[int, int] = (0, 0)

    @property
    def model_bytes(self) -> int:
        """The sum where the denoiser lives."""
        return sum(self.model.values())

    @property
    def host_bytes(self) -> int:
        """The sum on the host beside it."""
        return sum(self.host.values())


def weights(avatar: Avatar) -> dict[str, int]:
    """Bytes of the parameters and constants of each part."""
    return {name: nbytes(_parameters(avatar, part)) for part, name in WEIGHTS.items()}


def _parameters(avatar: Avatar, part: str) -> list[Tensor]:
    module = getattr(avatar, part)
    module = getattr(module, "network", module)
    return [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []


def predict(
    avatar: Avatar, size: tuple[int, int], *, place: torch.device | None = None, captured: bool = False,
    text_on_host: bool = False, text_freed: bool = False, mapped: Iterable[str] = (), parallel: SeqParallel = ALONE,
    **options: Any,
) -> Needs:  # fmt: skip
    """What `avatar`, which is on `meta`, and a Session of it at (width, height) pixels take at their worst moment.

    place         where it will run, for what ops on plain torch hold besides their results; None: kernels, which
                    allocate nothing
    captured      whether the denoise steps are captured: their temporaries then stay theirs
    text_on_host  the text encoder lives on the host, the denoiser elsewhere
    text_freed    it is freed once all prompts are encoded, before the rest is read
    mapped        parts, by their names in WEIGHTS, that stay in their files
    parallel      the share of one process (parallel.dry)
    options       of the Session

    The worst moment has a new prompt in it. What an encoder of audio keeps of a recording that waits is not counted,
    nor what the process itself takes.
    """
    found, host = weights(avatar), {}
    picture = torch.empty(3, size[1], size[0], device="meta")
    known = [t for part in WEIGHTS for t in _parameters(avatar, part)]
    text: dict[str, int] = {}
    if text_on_host or (text_freed and found[WEIGHTS["text"]]):
        text[WEIGHTS["text"]] = found.pop(WEIGHTS["text"])
        with torch.no_grad(), Live(known, picture.device.type) as live:
            avatar.text.encode("")
        text[TEXT_WORK] = live.peak
        avatar = replace(avatar, text=Rows(avatar.text.text_len, avatar.text.text_dim))
    live = Live([*known, picture], picture.device.type, place, _phase)
    with live:
        session = Session(avatar, picture, "", graphs=False, parallel=parallel, **options)
        first = session._first if captured else None  # what is captured keeps its memory after its block
        for _ in range(STEADY_BLOCK):
            earlier = _moved(session)
            session.next_block()
        now = _moved(session)
        before = live.now
        peak, started = live.peak, live.peaks
        live.forget_peaks()
        session._prompt_text = "\n"  # any other one
        session.set_prompt("")
        session.next_block()
    steps = max(0, live.peaks.get(STEPS, 0) - before)
    rest = max(started.get(START, 0), started.get(REST, 0), live.peaks.get(REST, 0))
    later = _held(session, first, before) | {WORK[0]: steps}
    later[WORK[1]] = max(0, rest - before) if captured else max(0, max(peak, live.peak) - before - steps)
    if avatar.dit.streamed is not None:
        host[BLOCKS] = avatar.dit.streamed.host_bytes
    if session._memories is not None:
        host[WINDOW] = session._memories.belt.host_bytes
    model = found | later
    there = {name: count for name in mapped if (count := model.pop(name, 0) or text.pop(name, 0))}
    if text_freed:
        text = {EARLY: max(0, sum(text.values()) - sum((host if text_on_host else model).values()))}
    (host if text_on_host else model).update(text)
    model, host = ({k: v for k, v in part.items() if v} for part in (model, host))
    return Needs(model, host, there, (now[0] - earlier[0], now[1] - earlier[1]))


def _moved(session: Session) -> tuple[int, int]:
    """Bytes that a Session and its model have copied to the device, and back."""
    streamed, memories = session.avatar.dit.streamed, session._memories
    belts = [*([] if streamed is None else streamed.belts), *([] if memories is None else [memories.belt])]
    to, back = zip((0, 0), *(belt.copies.moved for belt in belts))
    return sum(to), sum(back)


def _phase(scopes: tuple[str, ...]) -> str:
    """Whether a moment belongs to what is captured: hearing and the denoise steps of a block."""
    if not any(s.startswith("block[") for s in scopes):
        return START
    return STEPS if any(s == "audio" or s.startswith("step[") for s in scopes) else REST


def _held(session: Session, first: Steps | None, before: int) -> dict[str, int]:
    """Bytes that stay between two blocks, by what they are for; `first` are the first block's steps if they stay."""
    prompt = [session._prompt, *((s._heard, s._silence) for s in (first, session._later) if s is not None)]
    vae = {t.untyped_storage()._cdata for t in _parameters(session.avatar, "vae")}
    caches = [t for t in tensors(session._decoder) if t.untyped_storage()._cdata not in vae]
    window = (t for t in tensors(session._all_windows) if t.is_meta)  # not what stands for host memory
    found = {
        WINDOW: nbytes(window), PROMPT: nbytes(tensors(prompt)), CACHES: nbytes(caches),
    }  # fmt: skip
    return found | {SMALL: max(0, before - sum(found.values()))}


def tensors(root: Any) -> Iterator[Tensor]:
    """The tensors that can be reached from an object of this package, lists and dicts; modules with theirs."""
    seen, waiting = set(), [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, nn.Module):
            waiting += [*value.parameters(), *value.buffers()]
        elif isinstance(value, dict):
            waiting += [*value.values()]
        elif isinstance(value, list | tuple):
            waiting += value
        elif type(value).__module__.startswith(__package__ or ""):
            waiting += vars(value).values() if hasattr(value, "__dict__") else gc.get_referents(value)
