"""Replay of recorded text, image and audio encoder runs, in float32, at whatever sizes the golden has."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from liveact_app.verify.golden import Golden, Row, mismatches, rel_l2
from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder, embedding_count
from liveact_model.audio.windows import latent_indices, latent_rows, window_indices
from liveact_model.errors import InputError
from liveact_model.image.clip import CLIPImageEncoder
from liveact_model.text.umt5 import UMT5Shape, UMT5TextEncoder

FLOAT32 = 2e-5  # rel L2; float32 against float64 differs by about 1e-6 at these sizes, see `measured` in the sidecars
EXACT = 0.0


@torch.no_grad()
def replay_t5(g: Golden) -> Iterator[Row]:
    """umT5: relative position buckets, the padded and masked run, and the unpadded run the DiT gets."""
    weights = g.weights()
    encoder = UMT5TextEncoder(weights, shape=UMT5Shape.of(weights, max_distance=int(g.number("max_dist"))))
    ids, mask = g.get("in.ids"), g.get("in.mask")
    yield g.row("buckets", mismatches(encoder.buckets(ids.shape[1]), g.get("out.buckets")), EXACT)
    padded = encoder.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    yield g.row("all_positions", rel_l2(padded, g.get("out.all_positions")), FLOAT32)
    rows = encoder.encode_ids(ids[mask.bool()])
    yield g.row("context", rel_l2(rows, g.get("out.context")), FLOAT32, "only the real tokens were run")


def replay_clip(g: Golden) -> Iterator[Row]:
    """CLIP vision tower: the resized input and the rows the DiT gets."""
    encoder = CLIPImageEncoder(g.weights(), int(g.number("heads")), g.number("norm_eps"))
    image = g.get("in.image")[0, :, 0]
    yield g.row("preprocessed", rel_l2(encoder.preprocess(image)[None], g.get("out.preprocessed")), FLOAT32)
    yield g.row("visual", rel_l2(encoder.encode(image)[None], g.get("out.visual")), FLOAT32)
    yield g.skip("all_blocks", "the last block is never used, so it is never loaded")


def replay_wav2vec2(g: Golden) -> Iterator[Row]:
    """wav2vec2 in one pass: every stage on the way, then the embedding."""
    encoder = Wav2Vec2AudioEncoder(g.weights(), g.config)
    waveform = g.get("in.waveform")
    meter = encoder.meter()
    meter.update(waveform)
    levels = meter.levels()
    features = encoder.features(waveform, levels)
    at_frames = encoder.at_frames(features, embedding_count(len(waveform)))
    states = encoder.hidden_states(at_frames)
    stages = {
        "normalized_waveform": encoder.normalised(waveform, levels),
        "conv_features": features,
        "interpolated_features": at_frames,
        "hidden_states_0": states[0],
        "last_hidden_state": states[-1],
        "embedding": encoder.embed(waveform),
    }
    for name, got in stages.items():
        yield g.row(name, rel_l2(got, g.get(f"out.{name}")), FLOAT32)


def replay_audio_window(g: Golden) -> Iterator[Row]:
    """Audio windows: the released window of video frames, and the rows per latent frame cut straight from the audio."""
    for n, (start, end, total, latents) in enumerate(_window_cases(g)):
        embedding, window = g.get(f"in.{n}.embedding"), window_indices(start, end - start, total)
        got = {"window_frame_idx": window, "windows": embedding[window][None]}
        # the window is that of the latent frames from start / 4 on; only the first of a video has no frames before it
        latent = start // 4
        first, latter = latent_rows(embedding, latent + bool(start), latents - bool(start))
        first_index = window_indices(start, 1, total)
        got |= {
            "first_frame_idx": first_index,
            "latter_frame_idx": latent_indices(latent + 1, latents - 1, total),
            "first": (embedding[first_index[0]] if first is None else first)[None, None],
            "latter": latter[None],
        }
        for name, value in got.items():
            if start % 4 and name.startswith("latter"):
                yield g.skip(f"{n} {name}", f"video frame {start} does not begin a latent frame")
            else:
                yield g.row(f"{n} {name}", mismatches(value, g.get(f"out.{n}.{name}")), EXACT)


def _window_cases(g: Golden) -> list[list[int]]:
    """[start, end, T, latent_frames] of every recorded window; none at all would be a check that cannot fail."""
    cases, names = g.meta.get("cases"), ("start", "end", "T", "latent_frames")
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
        raise InputError(f"golden sidecar {g.path.name}: expected a non-empty list of objects 'cases'")
    numbers = [[case.get(name) for name in names] for case in cases]
    if not all(isinstance(value, int) for row in numbers for value in row):
        raise InputError(f"golden sidecar {g.path.name}: expected whole numbers {', '.join(names)} in every case")
    return numbers


REPLAYS: dict[str, Callable[[Golden], Iterator[Row]]] = {
    "t5": replay_t5,
    "clip": replay_clip,
    "wav2vec2": replay_wav2vec2,
    "audio_window": replay_audio_window,
}
