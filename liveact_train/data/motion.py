"""What a face does over time: lips follow the audio, emotion and action the prompt, the rest happens by itself."""

import math
import random

import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_model.audio.mel import BANDS, FRAMES_PER_VIDEO
from liveact_model.text.words import ACTIONS, EMOTIONS
from liveact_train.data.faces import EXTRA, POSE, still_pose
from liveact_train.data.processes import BLINKS, BREATHING, FPS, SACCADES, SWAY

RAMP = 12  # video frames an emotion, an action or the head's sway takes to set in
REFERENCE_FRAMES = 5  # video frames that the reference slots hold: no action shows its secret in them
MOUTH_RAMP = 4  # video frames before the lips follow the audio fully
# smile, brow_angle, brow_height, eye_open, wide
EMOTION_POSE = {
    "neutral": (0.0, 0.0, 0.0, 1.0, 0.0),
    "happy": (1.0, 0.0, 0.25, 0.85, 0.1),
    "sad": (-1.0, -0.9, 0.1, 0.8, -0.1),
    "angry": (-0.6, 1.0, -0.6, 0.85, 0.1),
    "surprised": (0.0, 0.0, 1.1, 1.3, -0.7),
}
Segment = tuple[int, str, str]  # first video frame, emotion, action


def smoothstep(frames: Tensor, length: int) -> Tensor:
    """0 at frame 0, 1 from `length` on, with zero slope at both ends."""
    x = (frames / length).clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def lips(mel: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Mouth opening (0..1) and width (-1..1) per video frame from embeddings [>= frames, 128]; each [frames].

    The opening is loudness, more for open vowels and less for hissing; the width compares higher with lower bands.
    """
    power = torch.exp(mel.reshape(-1, BANDS) * 4.0 - 4.0) - 1e-4
    loudness = ((power.sum(1).clamp_min(1e-6).log() + 1.0) / 6.0).clamp(0.0, 1.0)
    low, middle, high, hiss = (power[:, a:b].sum(1) for a, b in ((2, 9), (9, 17), (17, 24), (26, BANDS)))
    vowel = 0.55 + 0.45 * (2.0 * middle / (low + middle + 1e-3)).clamp(0.0, 1.0)
    opening = loudness * vowel * (1.0 - 0.7 * hiss / (low + middle + high + hiss + 1e-3))
    width = ((high / (middle + 1e-3) + 1e-2).log() * 0.6).clamp(-1.0, 1.0) * opening
    kernel = torch.hann_window(13)[1:-1]
    kernel = (kernel / kernel.sum())[None, None]

    def per_video_frame(curve: Tensor) -> Tensor:
        smooth = F.conv1d(curve[None, None], kernel, padding=5)[0, 0]
        return smooth[: FRAMES_PER_VIDEO * frames].reshape(frames, FRAMES_PER_VIDEO).mean(1)

    return per_video_frame(opening).clamp(0.0, 1.0), per_video_frame(width)


def _prompt_curves(frames: int, segments: list[Segment]) -> tuple[Tensor, Tensor]:
    """Emotion pose [frames, 5] and action weights [frames, 3] (nod, wave, shake), easing in after each switch."""
    time = torch.arange(frames).float()
    emotion = torch.tensor(EMOTION_POSE["neutral"]).expand(frames, 5)
    action = torch.zeros(frames, 3)
    for start, name, act in segments:
        blend = smoothstep(time - start, RAMP)[:, None]
        emotion = torch.lerp(emotion, torch.tensor(EMOTION_POSE[name]).expand(frames, 5), blend)
        goal = torch.tensor([float(act == other) for other in ("nod", "wave", "shake")])
        blend = smoothstep(time - max(start, REFERENCE_FRAMES), RAMP)[:, None]
        action = torch.lerp(action, goal.expand(frames, 3), blend)
    return emotion, action


def random_pose(rng: random.Random) -> dict[str, Tensor]:
    """The pose of a reference picture: neutral and silent, head placed at random."""
    spread = {"dx": 0.03, "dy": 0.02, "roll": 0.035, "yaw": 0.03, "pitch": 0.02}
    return still_pose(**{name: max(-2 * sd, min(2 * sd, rng.gauss(0.0, sd))) for name, sd in spread.items()})


def move(
    mel: Tensor, frames: int, segments: list[Segment], rest: dict[str, Tensor], rng: random.Random
) -> dict[str, Tensor]:
    """Poses of a whole clip, each value [frames]; frame 0 is exactly `rest` and everything eases in from there.

    `mel` [>= frames, 128] are the audio embeddings, `segments` the prompts. The head sways about the pose of the
    reference picture, so a clip never leaves the picture it was given.
    """
    time = torch.arange(frames).float()
    opening, width = lips(mel, frames)
    emotion, action = _prompt_curves(frames, segments)
    settle, begun = smoothstep(time, RAMP), (time >= RAMP).float()
    blink, gaze = BLINKS.draw(frames, rng) * begun, SACCADES.draw(frames, rng) * begun[:, None]
    breath = BREATHING.draw(frames, rng) * settle
    nod, wave, shake = action.unbind(1)
    phase = rng.random() * 2.0 * math.pi
    swing = {hz: torch.sin(2.0 * math.pi * hz * time / FPS + phase) for hz in (1.2, 1.3, 1.5)}
    turn, bend = shake * swing[1.2] * 0.15, nod * swing[1.3] * 0.09
    talk = (time / MOUTH_RAMP).clamp(0.0, 1.0)
    pose = {name: rest[name] + settle * process.draw(frames, rng) for name, process in SWAY.items()}
    pose["yaw"] = pose["yaw"] + turn
    pose["pitch"] = pose["pitch"] + bend
    pose["dy"] = pose["dy"] + bend / 3.0 - 0.015 * breath
    pose |= {"gaze_x": gaze[:, 0], "gaze_y": gaze[:, 1], "breath": breath, "turn": turn, "bend": bend}
    pose |= {"open": opening * talk, "wide": width * talk + emotion[:, 4], "blink": blink}
    pose |= {"smile": emotion[:, 0], "brow_angle": emotion[:, 1], "brow_height": emotion[:, 2]}
    pose |= {"eye_open": emotion[:, 3] * (1.0 - blink), "wave": wave, "hand_swing": swing[1.5] * 0.28 * wave}
    return {name: pose[name] for name in (*POSE, *EXTRA)}


RETURNS = ("A..A", "A.A.", ".A.A", "A..A.", "A...A", ".A..A")
"""Where an action of a clip that needs memory is asked for, block by block: what it showed is hidden and comes back."""


def random_segments(
    rng: random.Random, starts: tuple[int, ...], switch: float, returning: float = 0.5
) -> list[Segment]:
    """A prompt per block start. A share `returning` of the clips asks for one action, for others, and for it again.

    In the rest a new prompt comes with probability `switch` after the first one.
    """

    def draw(names: tuple[str, ...], plain: float) -> str:
        return names[0] if rng.random() < plain else rng.choice(names[1:])

    emotions, actions = tuple(EMOTIONS), tuple(ACTIONS)
    emotion, action = draw(emotions, 0.25), draw(actions, 0.45)
    patterns = [pattern for pattern in RETURNS if len(pattern) == len(starts)]
    pattern = rng.choice(patterns) if patterns and rng.random() < returning else None
    comes_back = rng.choice(actions[1:])
    others = tuple(name for name in actions if name != comes_back)
    segments = []
    for i, start in enumerate(starts):
        if start and rng.random() < switch:
            emotion, action = draw(emotions, 0.25), draw(actions, 0.45)
        if pattern is not None:
            action = comes_back if pattern[i] == "A" else draw(others, 0.6)
        segments.append((start, emotion, action))
    return segments


def random_prompt(emotion: str, action: str, rng: random.Random) -> str:
    """A sentence around the two words; 'neutral' and 'still' are left out half of the time, as people would."""
    words = ["a", rng.choice(["person", "man", "woman", "character"]), rng.choice(["talking", "speaking"])]
    if emotion != "neutral" or rng.random() < 0.5:
        words.append(rng.choice(EMOTIONS[emotion]))
    if action != "none" or rng.random() < 0.5:
        words.append(rng.choice(ACTIONS[action]))
    return " ".join(words)
