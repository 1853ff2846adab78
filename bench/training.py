"""What a step of training costs: all blocks of a clip in one pass or one after the other; at 64x64 and 128x128 pixels.

    python bench/training.py [--steps 5] [--out bench/results/cpu/training.jsonl]

One thread, random weights and inputs of the shipped sizes, medians of processor seconds (what others do on the
machine counts little). Other rows say what a video frame of such a model costs to generate: a size is chosen by both.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from manifest import manifest
from root import ROOT
from rows import Rows
from torch import Tensor
from torch.func import functional_call, vmap

from liveact_app.cli import answer
from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.media.image import load_image
from liveact_model.audio.mel import MelEncoder
from liveact_model.avatar import Avatar
from liveact_model.dit import DiT
from liveact_model.image.patches import PatchEncoder
from liveact_model.session import Session
from liveact_model.text.words import WordEncoder
from liveact_model.vae.tiny import TinyVAE
from liveact_train.alive import Alive
from liveact_train.clips_at_once import Conditions, blocks_of
from liveact_train.dit import TINY_TIMESTEPS
from liveact_train.forcing import tokens_of, velocity_loss
from liveact_train.layers import Held, parts_of
from liveact_train.sizes import tiny
from liveact_train.start import initialise
from liveact_train.vae import picture_loss

Z, CLIPS, FRAMES = 32, 8, 30


def denoiser(side: int) -> DiT:
    """The shipped denoiser for pictures of `side` pixels, as training has it, with a head that is not silent."""
    torch.manual_seed(0)
    dit = initialise(DiT(tiny(Z).with_(clip_tokens=(side // 16) ** 2)))
    torch.nn.init.normal_(dit.head.head.weight, std=0.02)
    dit.dtype = torch.bfloat16
    return dit


def clips(dit: DiT, side: int) -> tuple[Tensor, Conditions]:
    """Random clips of FRAMES latent frames."""
    c, n = dit.config, side // 8

    def r(*shape: int) -> Tensor:
        return torch.randn(CLIPS, *shape)

    text = r(len(blocks_of(FRAMES, c)), c.text_len, c.text_dim)
    audio = r(FRAMES, 8, c.audio_blocks, c.audio_channels)
    return r(Z, FRAMES, n, n), Conditions(r(4 + Z, c.window_slots, n, n), text, r(c.clip_tokens, c.clip_dim), audio)


def one_after_the_other(dit: DiT, z: Tensor, x: Conditions, t: Tensor, noise: Tensor) -> Tensor:
    """The loss of `velocity_loss` by generation's own loop over the blocks, through `Window` with a graph."""
    c = dit.config
    sigma = (t[:, 0] / 1000).view(-1, 1, 1, 1, 1)

    def loop(latent: Tensor, t: Tensor, y: Tensor, text: Tensor, image: Tensor, audio: Tensor) -> Tensor:
        window, out, pictures = dit.window(z.shape[-2] // 2, z.shape[-1] // 2), [], dit.image_kv(image)
        for b, f in enumerate(blocks_of(FRAMES, c)):
            cond = y[:, : c.memory_slots] if b == 0 else y[:, c.memory_slots :]
            rest = dit.at(t), dit.prompt(text[b], pictures), dit.hear(audio[max(1, f.start) : f.stop])
            out.append(dit(latent[:, f].contiguous(), cond, *rest, window, b == 0))
        return torch.cat(out)

    held, clips_ = Held(dit), [part.to(dit.dtype) for part in x]
    weights, noisy = held.cast(dit.dtype), ((1 - sigma) * z + sigma * noise).to(dit.dtype)
    out = vmap(lambda *sample: functional_call(held, weights, (loop, *sample)))(noisy, t[:, :1], *clips_)
    return (out.float() - vmap(tokens_of)(noise - z)).square().mean()


def recomputed(dit: DiT, z: Tensor, x: Conditions, t: Tensor, noise: Tensor) -> Tensor:
    """The loss of `velocity_loss`, whose activations are made again in the backward pass."""
    parts_of(dit).recompute = True
    try:
        return velocity_loss(dit, z, x, t, noise, True)
    finally:
        parts_of(dit).recompute = False


def most(step: Callable[[], Tensor]) -> float:
    """MiB of tensors that a step makes, at most at a time: weights and old gradients are not among them."""
    with Alive() as memory:
        step().backward()
    return memory.most / 2**20


def seconds(step: Callable[[], Tensor], steps: int) -> float:
    """Median processor seconds of forward and backward, after one to warm up."""
    spent = []
    for _ in range(steps + 1):
        began = time.process_time()
        step().backward()
        spent.append(time.process_time() - began)
    return statistics.median(spent[1:])


def generation(side: int, blocks: int = 6) -> float:
    """Processor milliseconds per video frame of a Session in float32 with random weights: steady blocks."""
    dit = denoiser(side).to_precision("float32").requires_grad_(False).eval()
    vae = TinyVAE(Z, overlap=True).requires_grad_(False).eval()
    encoders = (WordEncoder(), PatchEncoder(Z, side // 8, side // 8), MelEncoder())
    avatar = Avatar("random", dit, vae, *encoders, (side, side), 20.0, TINY_TIMESTEPS)
    session = Session(avatar, load_image(str(ROOT / "examples/face.png"), (side, side)), "happy")
    voice = torch.cat([torch.from_numpy(c) for c in model_audio(AudioReader(str(ROOT / "examples/speech.wav")))])
    spent = []
    for _ in range(blocks):
        while not session.ready():
            session.push_audio(voice)
        began = time.process_time()
        session.next_block()
        spent.append(time.process_time() - began)
    return 1e3 * statistics.median(spent[2:]) / dit.config.block_video_frames


def run(argv: Sequence[str] | None) -> int:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", metavar="FILE", help="append the rows to this .jsonl file")
    args = parser.parse_args(argv)
    rows, about = Rows(args.out), manifest()
    torch.set_num_threads(1)
    for side in (64, 128):
        dit = denoiser(side)
        z, x = clips(dit, side)
        noise, t = torch.randn(z.shape), torch.full((CLIPS, len(blocks_of(FRAMES, dit.config))), 850.0)
        losses: dict[str, Callable[[], Tensor]] = {
            "one pass": lambda d=dit, z=z, x=x, t=t, n=noise: velocity_loss(d, z, x, t, n, True),
            "one pass, recomputed": lambda d=dit, z=z, x=x, t=t, n=noise: recomputed(d, z, x, t, n),
            "block by block": lambda d=dit, z=z, x=x, t=t, n=noise: one_after_the_other(d, z, x, t, n),
        }
        for form in losses if side == 64 else ["one pass"]:
            row = {"what": f"denoiser, a step of {CLIPS} clips of {FRAMES} latent frames", "form": form, "pixels": side}
            cost = {"cpu_seconds": round(seconds(losses[form], args.steps), 3), "most_mib": round(most(losses[form]))}
            print(json.dumps(rows.add(about | row | cost)))
        vae, video = TinyVAE(Z, overlap=True).to(memory_format=torch.channels_last), torch.rand(5, 3, 13, side, side)

        def step(vae=vae, video=video) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                decoded = vae.generate(vae.posterior(video)[0])[0][:, :, 3:].float()
            return picture_loss(decoded[..., :64, :64], video[..., :64, :64], 3, 20.0, 6.0)

        row = {"what": "VAE, a step of 5 crops of 13 video frames", "form": "", "pixels": side}
        print(json.dumps(rows.add(about | row | {"cpu_seconds": round(seconds(step, args.steps), 3)})))
        row = {"what": "generation, a video frame of 50 ms", "form": "", "pixels": side}
        print(json.dumps(rows.add(about | row | {"cpu_seconds": round(generation(side) / 1e3, 5)})))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "training.py")


if __name__ == "__main__":
    sys.exit(main())
