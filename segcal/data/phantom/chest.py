"""What lies about the heart in a short-axis slice: lungs, organs, ribs, fat; painted layer over layer."""

__all__ = ["Canvas", "surroundings"]

from dataclasses import dataclass

import numpy as np

from segcal.data.phantom.fields import Grid, smooth_field, soft_step
from segcal.data.phantom.ventricles import Frame, Heart


@dataclass(frozen=True)
class Organ:
    """An ellipse of even signal: its centre from the middle of the view and half axes (y, x) in mm, how fast it climbs
    towards the apex (mm per mm), its rim, how far its outline wanders, what gives it texture, the depth it ends at."""

    y: float
    x: float
    half: tuple[float, float]
    climb: float
    signal: float
    rim: float = 0.0
    rim_signal: float = 0.2
    rough: float = 1.0
    texture: float = 0.0
    vessels: float = 0.0
    fat: float = 0.0
    ends: float = 200.0


ORGANS = (
    Organ(70, -8, (34, 36), -0.3, 0.45, texture=0.25, fat=0.5, ends=50),  # posterior mediastinum
    Organ(92, 54, (54, 58), 0.5, 0.28, texture=0.16),  # stomach and spleen
    Organ(100, -38, (72, 98), 0.5, 0.34, vessels=0.36),  # liver
    Organ(49, -46, (9, 12), 0.2, 0.66, rough=0.1, ends=28),  # inferior vena cava
    Organ(106, -18, (22, 26), -0.35, 0.34, rim=1.8, rim_signal=0.17, rough=0.7, texture=0.10),  # spine
    Organ(74, 16, (12.0, 11.5), -0.35, 0.78, rim=1.5, rim_signal=0.22, rough=0.1),  # descending aorta
)


class Canvas:
    """Signal and share of fat, painted over layer by layer with soft edges."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.signal, self.fat = np.zeros(shape), np.zeros(shape)

    def paint(self, distance: np.ndarray, value: np.ndarray | float, fat: float = 0.0, width: float = 0.9) -> None:
        """Lay the value over where the distance is negative."""
        share = soft_step(-distance, width)
        self.signal += share * (value - self.signal)
        self.fat += share * (fat - self.fat)


def surroundings(rng: np.random.Generator, grid: Grid, frame: Frame, heart: Heart) -> Canvas:
    """Everything but the heart: lungs, organs, chest wall, fat about the heart. The slices are oblique to the body, so
    that towards the apex the spine moves away and diaphragm and ribs come nearer."""
    _, y, x = grid.points_mm()
    grain, cloud = smooth_field(rng, grid, 4.0, 1.0), smooth_field(rng, grid, 16.0, 1.0)
    wobble = smooth_field(rng, grid, 30.0, 3.0)
    vessel = np.exp(-(smooth_field(rng, grid, 12.0, 1.0) ** 2 + smooth_field(rng, grid, 12.0, 1.0) ** 2) / 0.20**2)
    hilly = 1 + 0.09 * cloud + 0.08 * grain
    hilum = soft_step(40 - frame.depth, 30.0)
    canvas = Canvas(grid.shape)
    canvas.signal += 0.06 * (1 + 0.3 * cloud + 0.3 * grain) + (0.20 + 0.35 * hilum) * vessel
    for organ in ORGANS:
        at = (organ.y + rng.normal(0, 4), organ.x + rng.normal(0, 4))
        distance = _ellipse(y + organ.climb * (frame.depth - 40) + organ.rough * wobble, x, at, organ.half)
        distance = np.maximum(distance, frame.depth - organ.ends)
        canvas.paint(distance - organ.rim, organ.rim_signal * hilly, organ.fat)
        texture = organ.texture * soft_step(cloud + 0.7 * grain - 0.6, 0.5) + organ.vessels * vessel
        canvas.paint(distance, organ.signal * hilly + texture, organ.fat)
    _chest_wall(rng, canvas, grid, frame, (wobble, hilly, cloud))
    surface = np.minimum(heart.epi, heart.rv - 2.2)
    grooves = 5.0 * np.exp(-((heart.epi**2 + (heart.rv - 2.2) ** 2) / 90)) + 4.0 * soft_step(4 - heart.below_base, 4)
    pad = 0.5 + 3.0 * soft_step(frame.septal, 20.0) + smooth_field(rng, grid, 16.0, 2.2) + grooves
    pad += 0.13 * np.clip(frame.depth, 0, 90) * soft_step(-y - 15, 8.0)  # more of it ahead of the apex
    pad = surface - np.clip(pad, -1, None)
    canvas.paint(pad - 1.8, 0.20 * hilly)  # the pericardium
    canvas.paint(pad, 0.78 * hilly, fat=1.0)
    return canvas


def _chest_wall(
    rng: np.random.Generator, canvas: Canvas, grid: Grid, frame: Frame, textures: tuple[np.ndarray, ...]
) -> None:
    """Fat in front of the heart, muscle with ribs in it, fat under the skin, and air outside."""
    _, y, x = grid.points_mm()
    wobble, hilly, cloud = textures
    nearer = 0.22 * (frame.depth - 40)
    at = (34 + rng.normal(0, 5), -38 + rng.normal(0, 6))
    body = _ellipse(y - nearer, x + 0.6 * nearer, at, (124, 162)) + 0.5 * wobble
    under_skin = rng.uniform(7, 17) + 0.5 * wobble + 1.2 * cloud
    inner = body + under_skin + rng.uniform(13, 17)
    ahead = _ellipse(y - nearer, x, (-66 + rng.normal(0, 4), -22 + rng.normal(0, 8)), (26, 52)) + 2.2 * wobble
    canvas.paint(ahead + 2.5 * cloud, 0.70 * hilly - 0.16 * soft_step(cloud - 0.8, 0.4), fat=1.0, width=2.0)
    canvas.paint(-inner - 1.5 * cloud, 0.23 * hilly + 0.30 * soft_step(cloud - 1.1, 0.3))
    around = np.arctan2(y - at[0], x - at[1]) * 140 + 1.2 * wobble + 0.3 * frame.depth
    apart = rng.uniform(42, 54)
    along = (around + rng.uniform(0, apart)) % apart - apart / 2
    rib = np.hypot(along / 2.2, inner - 6.0 + 0.12 * along) - 4.6
    canvas.paint(rib, 0.10)
    canvas.paint(rib + 1.8, 0.40 * hilly)
    canvas.paint(-(body + under_skin), 0.85 * hilly, fat=1.0)
    canvas.paint(-(body + 1.8), 0.30)
    canvas.paint(-body, 0.01)


def _ellipse(y: np.ndarray, x: np.ndarray, at: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """Distance in mm to an ellipse (y, x), good near its edge."""
    rho = np.hypot((y - at[0]) / half[0], (x - at[1]) / half[1]) + 1e-6
    distance: np.ndarray = np.hypot(y - at[0], x - at[1]) * (1 - 1 / rho)
    return distance
