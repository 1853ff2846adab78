"""Cartoon faces drawn from signed distances: any size, any number of frames at once, antialiased.

Coordinates: x to the right and y down, both from -1 to 1 over the picture.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from liveact_train.data.identity import Colour, Identity

# One pose per frame; the order is that of the attribute arrays.
POSE = ("open", "wide", "blink", "smile", "brow_angle", "brow_height", "dx", "dy", "roll", "yaw", "pitch", "wave")
POSE += ("gaze_x", "gaze_y", "breath")
EXTRA = ("eye_open", "hand_swing", "turn", "bend")  # drawn too; turn and bend: what an action adds to yaw and pitch


def still_pose(**values: float) -> dict[str, Tensor]:
    """One neutral frame, mouth closed, eyes open, with the given pose values (dx, dy, roll, yaw, pitch...)."""
    pose = {name: torch.zeros(1) for name in (*POSE, *EXTRA)}
    pose["eye_open"] = torch.ones(1)
    pose.update({name: torch.tensor([value]) for name, value in values.items()})
    return pose


class _Canvas:
    """Pictures [T, 3, N, N] in 0..1 with antialiased shapes painted over each other; coverage is [T, N, N]."""

    def __init__(self, frames: int, size: int):
        self.pixel = 2.0 / size
        axis = (torch.arange(size) + 0.5) * self.pixel - 1.0
        self.y, self.x = (grid.expand(frames, size, size) for grid in torch.meshgrid(axis, axis, indexing="ij"))
        self.image = torch.zeros(frames, 3, size, size)

    def paint(self, coverage: Tensor, colour: Colour, light: Tensor | None = None) -> None:
        """Cover with a colour; `light` [T, N, N] multiplies it pixel by pixel."""
        alpha, over = coverage.clamp(0.0, 1.0)[:, None], torch.tensor(colour).view(1, 3, 1, 1)
        over = over.expand_as(self.image) if light is None else (over * light[:, None]).clamp(0.0, 1.0)
        self.image.lerp_(over, alpha)

    def ellipse(self, x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
        radius = ((x / rx) ** 2 + (y / ry) ** 2).clamp_min(1e-6).sqrt() - 1.0
        smaller = torch.minimum(torch.as_tensor(rx), torch.as_tensor(ry))
        # The scaled radius is no true distance: without the box a thin ellipse would leak along its long axis.
        return torch.minimum(0.5 - radius * smaller / self.pixel, self.below(x.abs() - rx))

    def box(self, x: Tensor, y: Tensor, half_width: float, half_height: Tensor | float) -> Tensor:
        return self.below(torch.maximum(x.abs() - half_width, y.abs() - half_height))

    def below(self, distance: Tensor) -> Tensor:
        """Coverage of the half space distance < 0."""
        return 0.5 - distance / self.pixel


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(channel * factor for channel in colour)


def render(identity: Identity, pose: dict[str, Tensor], size: int = 64) -> Tensor:
    """Draw one face in T poses (each value of `pose` is [T]) -> [T, 3, size, size] float32 in 0..1."""
    p = {name: value.float().view(-1, 1, 1) for name, value in pose.items()}
    canvas = _Canvas(len(pose["open"]), size)
    _paint_background(canvas, identity)
    _paint_body(canvas, identity, p)
    # Head coordinates: shifted, then rolled about the chin; the face itself also moves by yaw and pitch.
    cos, sin = torch.cos(p["roll"]), torch.sin(p["roll"])
    hx, hy = canvas.x - p["dx"], canvas.y - p["dy"] - 0.5
    x, y = cos * hx + sin * hy, -sin * hx + cos * hy + 0.5
    _paint_head(canvas, identity, x, y, p)
    fx, fy = x - p["yaw"], y - p["pitch"]
    _paint_cheeks(canvas, identity, x, y, fx, fy, p)
    _paint_eyes(canvas, identity, fx, fy, p)
    canvas.paint(canvas.ellipse(fx, fy - 0.13, 0.05, 0.06), _shade(identity.skin, 0.78))
    _paint_mouth(canvas, identity, fx, fy, p)
    _paint_accessory(canvas, identity, x, y, fx, fy)
    _paint_hand(canvas, identity, p)
    return canvas.image


def render_uint8(identity: Identity, pose: dict[str, Tensor], size: int = 64) -> Tensor:
    """`render`, rounded to uint8."""
    return (render(identity, pose, size) * 255.0).round().to(torch.uint8)


def _paint_background(canvas: _Canvas, identity: Identity) -> None:
    first, second = identity.background
    canvas.image[:] = torch.tensor(first).view(1, 3, 1, 1)
    if identity.gradient == "vertical":
        canvas.paint((canvas.y + 1.0) / 2.0, second)
    elif identity.gradient == "round":
        canvas.paint(1.0 - (canvas.x**2 + (canvas.y + 0.1) ** 2) / 2.0, second)
    if identity.backdrop != "plain":
        pattern = _pattern(identity, canvas.x[:1], canvas.y[:1])
        canvas.image.mul_(1.0 + identity.backdrop_contrast * pattern[:, None]).clamp_(0.0, 1.0)


def _pattern(identity: Identity, x: Tensor, y: Tensor) -> Tensor:
    """What the backdrop multiplies the background by, -1..1, at x, y [1, N, N]."""
    if identity.backdrop == "cloth":  # smooth noise
        grid = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(identity.seed)) * 2.0 - 1.0
        return F.interpolate(grid, size=x.shape[-2:], mode="bicubic", align_corners=True)[0].clamp(-1.0, 1.0)
    angle, speed = torch.tensor(identity.backdrop_angle), 2.0 * math.pi / identity.backdrop_period
    u = (torch.cos(angle) * x + torch.sin(angle) * y) * speed
    v = (torch.cos(angle) * y - torch.sin(angle) * x) * speed
    if identity.backdrop == "stripes":
        return torch.sin(u)
    wave = torch.sin(u) * torch.sin(v)
    return torch.tanh(3.0 * wave) if identity.backdrop == "checks" else 2.0 * torch.sigmoid(8.0 * (wave - 0.4)) - 1.0


def _paint_body(canvas: _Canvas, identity: Identity, p: dict[str, Tensor]) -> None:
    """Shirt and neck; breathing lifts and widens the shoulders."""
    x, y = canvas.x - p["dx"] * 0.5, canvas.y + 0.06 * p["breath"]
    wide = 0.8 + identity.shoulders + 0.03 * p["breath"]
    if not identity.shoulders:
        canvas.paint(canvas.ellipse(x, y - 1.2, wide, 0.5), identity.shirt)
        canvas.paint(canvas.box(x, canvas.y - 0.72, 0.17, 0.2), _shade(identity.skin, 0.85))
        return
    light = 1.0 + identity.light[0] * x - 0.5 * (y - 0.8).clamp_min(0.0)
    canvas.paint(canvas.ellipse(x, y - 1.25, wide, 0.52), identity.shirt, light)
    canvas.paint(canvas.box(x, y - 1.1, wide * 0.55, 0.3), identity.shirt, light)
    if identity.collar is not None:
        canvas.paint(canvas.ellipse(x, y - 0.82, 0.30, 0.15), identity.collar, light)
    neck = 0.85 - 0.3 * (0.78 - canvas.y).clamp(0.0, 0.6)  # the chin's shadow
    canvas.paint(canvas.box(x, canvas.y - 0.70, 0.17, 0.16), identity.skin, neck)
    canvas.paint(canvas.ellipse(x, canvas.y - 0.86, 0.17, 0.08), identity.skin, neck)


def _lit(identity: Identity, x: Tensor, y: Tensor) -> Tensor:
    """Light on the head, seen as half of an egg: a bright side, a dark side and a darker rim."""
    rx, ry = identity.radius
    u, v = x / rx, y / ry
    rim = 0.6 * (abs(identity.light[0]) + abs(identity.light[1])) * (u * u + v * v).clamp_max(1.2) ** 2
    return 1.0 + identity.light[0] * u + identity.light[1] * v - 0.5 * rim


def _paint_head(canvas: _Canvas, identity: Identity, x: Tensor, y: Tensor, p: dict[str, Tensor]) -> None:
    rx, ry = identity.radius
    speed = 2.0 * math.pi / identity.strand_width
    strand = 1.0 + identity.strands * torch.sin(speed * (x * (1.0 + 0.4 * y) + 0.05 * torch.sin(5.0 * y)))
    lit = _lit(identity, x, y)
    hair = strand * lit
    if identity.bow is not None:  # behind the crown, and above it when the head bends
        up = (0.26 if identity.style == "bald" else 0.14) - ry - 3.2 * p["bend"].clamp_min(0.0)
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(x - side * 0.15, y - up, 0.17, 0.12), identity.bow)
    if identity.style == "long":
        canvas.paint(canvas.ellipse(x, y - 0.12, rx + 0.15, ry + 0.16), identity.hair, 0.8 * hair)
    if identity.style == "bun":
        canvas.paint(canvas.ellipse(x, y + ry + 0.1, 0.22, 0.16), identity.hair, hair)
    if identity.style != "bald":
        canvas.paint(canvas.ellipse(x, y + 0.07, rx + 0.08, ry + 0.07), identity.hair, hair)
    if identity.shoulders:
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(x - side * (rx + 0.01), y - 0.06, 0.09, 0.13), _shade(identity.skin, 0.8))
    if identity.accessory == "earring":
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(x - side * (rx + 0.03), y - 0.22, 0.08, 0.1), identity.accent)
    canvas.paint(canvas.ellipse(x, y - 0.02, rx, ry), identity.skin, lit)
    if identity.style != "bald":
        edge = y + ry - identity.fringe + 0.25 * (x - 0.1) ** 2 - p["pitch"] * 0.5
        cap = canvas.ellipse(x, y - 0.02, rx + 0.02, ry + 0.02)  # wider than the skin, or a thin seam shows through
        canvas.paint(torch.minimum(cap, canvas.below(edge)), identity.hair, hair)


def _paint_cheeks(
    canvas: _Canvas, identity: Identity, x: Tensor, y: Tensor, fx: Tensor, fy: Tensor, p: dict[str, Tensor]
) -> None:
    """Blush, and the mark beside the face that only a turn of the head brings into view."""
    if identity.blush:
        for side in (-1, 1):
            away = ((fx - side * 0.30) / 0.16) ** 2 + ((fy - 0.18) / 0.12) ** 2
            canvas.paint(identity.blush * torch.exp(-away), identity.lip)
    if identity.mark is not None:
        colour, side = identity.mark
        rx, ry = identity.radius
        head = canvas.ellipse(x, y - 0.02, rx, ry)
        spot = canvas.ellipse(x - side * (rx + 0.16) - 2.0 * p["turn"], y - 0.16, 0.13, 0.16)
        canvas.paint(torch.minimum(spot, head), colour)


def _paint_eyes(canvas: _Canvas, identity: Identity, fx: Tensor, fy: Tensor, p: dict[str, Tensor]) -> None:
    size, closed = identity.eye_size, p["eye_open"] < 0.35
    for side in (-1, 1):
        x, y = fx - side * identity.eye_distance, fy + 0.10
        slant = side * x * p["brow_angle"]  # grows towards the temple when angry, towards the nose when sad
        lid = -y - 0.10 * size + 0.05 * p["brow_angle"].abs() - 0.7 * slant
        height = 0.105 * size * p["eye_open"].clamp_min(0.1)
        eye = torch.minimum(canvas.ellipse(x, y, 0.135 * size, height), canvas.below(lid)) * ~closed
        canvas.paint(eye, (1.0, 1.0, 1.0))
        gx, gy = x - p["gaze_x"], y - p["gaze_y"]
        canvas.paint(torch.minimum(canvas.ellipse(gx, gy, 0.075, 0.085), eye), identity.iris)
        canvas.paint(torch.minimum(canvas.ellipse(gx, gy, 0.035, 0.04), eye), (0.0, 0.0, 0.0))
        canvas.paint(canvas.box(x, y, 0.13, 0.022) * closed, _shade(identity.skin, 0.4))
        brow = fy + 0.29 + 0.09 * p["brow_height"] + 0.55 * slant
        canvas.paint(canvas.box(x, brow, 0.14, identity.brow), _shade(identity.hair, 0.5))


def _paint_mouth(canvas: _Canvas, identity: Identity, fx: Tensor, fy: Tensor, p: dict[str, Tensor]) -> None:
    width = identity.mouth_width * (1.0 + 0.3 * p["wide"] + 0.15 * p["smile"].clamp_min(0.0))
    height = 0.015 + 0.17 * p["open"]
    y = fy - 0.38 + 0.13 * p["smile"] * ((fx / width).clamp(-1.3, 1.3) ** 2 - 0.45)
    canvas.paint(canvas.ellipse(fx, y, width + 0.045, height + 0.05), identity.lip)
    inside = canvas.ellipse(fx, y, width, height)
    canvas.paint(inside, (0.18, 0.03, 0.05))
    gaps = 1.0 - identity.teeth * (0.5 + 0.5 * torch.cos(2.0 * math.pi * fx / 0.11)) ** 4
    canvas.paint(torch.minimum(inside, canvas.below(y + height * 0.4)), (0.98, 0.98, 0.96), gaps)
    tongue = canvas.ellipse(fx, y - height * 0.9, width * 0.6, height * 0.6)
    canvas.paint(torch.minimum(inside, tongue), (0.85, 0.35, 0.40))


def _paint_accessory(canvas: _Canvas, identity: Identity, x: Tensor, y: Tensor, fx: Tensor, fy: Tensor) -> None:
    rx, ry = identity.radius
    if identity.accessory == "glasses":
        for side in (-1, 1):
            cx = fx - side * identity.eye_distance
            outer = canvas.ellipse(cx, fy + 0.10, 0.235, 0.205).clamp(0.0, 1.0)
            canvas.paint(outer - canvas.ellipse(cx, fy + 0.10, 0.175, 0.145).clamp(0.0, 1.0), identity.accent)
    elif identity.accessory == "hat":
        canvas.paint(canvas.box(x, y + ry - 0.12, rx + 0.22, 0.06), identity.accent)
        canvas.paint(canvas.box(x, y + ry + 0.14, rx, 0.22), identity.accent)


def _paint_hand(canvas: _Canvas, identity: Identity, p: dict[str, Tensor]) -> None:
    """A mitten on a sleeve that rises from below the lower right corner and swings about the elbow."""
    cos, sin = torch.cos(p["hand_swing"]), torch.sin(p["hand_swing"])
    ox, oy = canvas.x - 0.70, canvas.y - 1.05
    x, y = cos * ox + sin * oy, -sin * ox + cos * oy - (1.0 - p["wave"]) * 1.3
    canvas.paint(canvas.box(x, y + 0.15, 0.14, 0.35), identity.shirt)
    hand = identity.skin if identity.mitten is None else identity.mitten
    for grow, colour in ((0.03, _shade(hand, 0.55)), (0.0, hand)):
        canvas.paint(canvas.ellipse(x + 0.2, y + 0.62, 0.10 + grow, 0.075 + grow), colour)
        canvas.paint(canvas.ellipse(x, y + 0.70, 0.17 + grow, 0.27 + grow), colour)
