"""The pelvis's tissues on T2-weighted MRI: painted one over the other as fractions of the signal range."""

__all__ = ["tissue"]

import numpy as np

from segcal.data.phantom.fields import Grid, smooth_field, soft_step, softer_max, to_mm
from segcal.data.phantom.pelvis import HALF_MM, Pelvis

SIGNAL = {
    "pz": 0.72,
    "tz": 0.42,
    "muscle": 0.18,
    "fat": 0.68,
    "urine": 0.95,
    "marrow": 0.50,
    "capsule": 0.12,
    "lesion": 0.30,
    "gas": 0.03,
    "stool": 0.35,
    "vein": 0.85,
}


def tissue(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, coil: str) -> np.ndarray:
    """The signal (Z, Y, X) of every tissue, before the coil and the scanner have their say."""
    signal = _surroundings(rng, grid, pelvis)
    _paint_rectum(rng, grid, pelvis, signal, coil)
    _paint_gland(rng, grid, pelvis, signal)
    return signal


def _surroundings(rng: np.random.Generator, grid: Grid, pelvis: Pelvis) -> np.ndarray:
    """Signal of everything but rectum and gland."""
    depth, height = pelvis.half_mm[1], pelvis.half_mm[0]
    z, y, x = pelvis.points
    side = np.stack([z, y, np.abs(x)])
    signal = SIGNAL["fat"] * (1 + smooth_field(rng, grid, 9.0, 0.05))
    _paint(signal, 0.35 * _sheets(rng, grid, 8.0, 0.13), 0.25)
    muscle = SIGNAL["muscle"] * (1 + smooth_field(rng, grid, 4.0, 0.20) + smooth_field(rng, grid, 14.0, 0.12))
    _paint(muscle, 0.6 * _sheets(rng, grid, 11.0, 0.12) * soft_step(smooth_field(rng, grid, 14.0, 1.0) + 0.3, 0.4), 0.5)
    # Thigh and buttock muscles, outside the bony ring.
    ruffle = smooth_field(rng, grid, 16.0, 2.5)
    _paint(signal, soft_step(side[2] * 0.55 + y - rng.uniform(60, 66) + 0.25 * z + ruffle, 1.0), muscle)
    _paint(signal, soft_step(side[2] * 0.6 - y - depth - 46 + 0.3 * z + ruffle, 1.0), muscle)
    _paint_bones(rng, grid, side, depth, signal, muscle)
    wall = max(pelvis.half_mm[2] + 12, rng.uniform(38, 44)) + 0.08 * z
    bow = np.clip((y - 1) / 33, -1.5, 1.5)
    plump = rng.uniform(7.0, 9.0) * np.sqrt(np.clip(1.05 - bow**2, 0, 1)) - 1.0
    obturator = np.abs(side[2] - wall + 3 * bow + 8 * bow**2) - plump
    _paint(signal, soft_step(-obturator - smooth_field(rng, grid, 12.0, 0.8), 0.8), muscle)
    _paint_levator(rng, grid, pelvis, signal, muscle)
    _paint_veins(rng, grid, pelvis, signal)
    sphincter = np.hypot(x, y + 0.15 * depth - 0.15 * z)
    below = soft_step(-z - 0.7 * height, 2.0)
    _paint(signal, below * soft_step(9.0 - sphincter, 1.0), 0.27)
    _paint(signal, below * soft_step(4.0 - sphincter, 0.8), 0.60)
    _paint_bladder(rng, grid, pelvis, signal)
    return signal


def _paint_bones(
    rng: np.random.Generator, grid: Grid, side: np.ndarray, depth: float, signal: np.ndarray, muscle: np.ndarray
) -> None:
    """Pubic bodies with the symphysis, rami, ischia and coccyx, of fatty marrow in a dark cortex; the rectus muscle."""
    front = -depth - rng.uniform(19, 23)
    low = rng.uniform(-6, 6)
    rods = [
        _capsule(side, [low - 18, front - 3, 12], [low + 4, front - 1, 11], 9.5),
        _capsule(side, [low - 12, front - 1, 12], [low + 2, front + 7, 27], 8.0),
        _capsule(side, [low + 4, front, 12], [low + 24, front + 17, 58], 9.0),
        _capsule(side, [low - 16, front + 2, 13], [low - 52, 2, 44], 8.0),
        _capsule(side, [low - 50, 8, 52], [low + 20, 4, 68], 16.0),
    ]
    ramus = -softer_max(softer_max(-rods[0], -rods[1], 5.0), -np.minimum(rods[2], rods[3]), 3.0)
    coccyx = _capsule(side, [low + 8, 51, 0], [low + 50, 62, 0], rng.uniform(4, 6))
    bone = np.minimum(np.minimum(ramus, rods[4]), coccyx) + smooth_field(rng, grid, 10.0, 0.8)
    marrow = SIGNAL["marrow"] * (1 + smooth_field(rng, grid, 4.0, 0.14) + smooth_field(rng, grid, 12.0, 0.14))
    rectus = np.maximum(np.abs(side[1] - front + 2 - 0.006 * side[2] ** 2) - 4.5, np.abs(side[2] - 15) - 13.5)
    rectus = softer_max(rectus, low + 12 - side[0], 2.0)
    _paint(signal, soft_step(-rectus - smooth_field(rng, grid, 12.0, 0.7), 0.8), muscle)
    cartilage = soft_step(3.5 - side[2], 0.6) * soft_step(2.0 - rods[0], 1.5)
    _paint(signal, cartilage, 0.30)
    _paint(signal, soft_step(-bone, 0.6), SIGNAL["capsule"])
    _paint(signal, soft_step(-bone - 1.8, 0.6), marrow)


def _paint_levator(
    rng: np.random.Generator, grid: Grid, pelvis: Pelvis, signal: np.ndarray, muscle: np.ndarray
) -> None:
    """The levator ani: a sling about gland and rectum, open to the front, that spreads towards the base."""
    height = pelvis.relative[0]
    depth = pelvis.half_mm[1]
    behind = np.abs(pelvis.points[1] - 0.25 * depth) - 0.7 * depth - 3.0
    bridge = softer_max(np.abs(pelvis.points[2]) - 8.0, behind, 6.0)
    sling = -softer_max(-np.minimum(pelvis.column, bridge), -pelvis.rectum - 2.0, 6.0)
    away = 2.8 + 1.4 * soft_step(height + 0.6, 0.3) + 7.0 * soft_step(height - 0.8, 0.5)
    away += smooth_field(rng, grid, 14.0, 0.9)
    half_width = (2.6 - soft_step(height + 0.5, 0.4)) * np.exp(smooth_field(rng, grid, 12.0, 0.3))
    _paint(signal, 0.75 * soft_step(-bridge, 1.5) * soft_step(-height - 0.75, 0.15), 0.30)  # the perineal body
    present = soft_step(pelvis.points[1] + 0.55 * depth, 3.0) * soft_step(1.3 - height, 0.2)
    _paint(signal, present * soft_step(half_width - np.abs(sling - away), 0.6), muscle)


def _paint_veins(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, signal: np.ndarray) -> None:
    """The venous plexus about the gland's front and sides, and the neurovascular bundles behind its corners."""
    _, y, x = pelvis.relative
    first, second = smooth_field(rng, grid, 9.0, 1.0), smooth_field(rng, grid, 9.0, 1.0)
    vessel = np.hypot(first, second)
    corner = np.hypot((np.abs(x) - 0.78) * pelvis.half_mm[2], (y - 0.88) * pelvis.half_mm[1])
    zone = soft_step(8.0 - pelvis.column, 2.0) * soft_step(0.35 - y, 0.3)
    zone = np.maximum(zone, soft_step(5.0 - corner, 1.2))
    _paint(signal, 0.5 * zone * soft_step(0.75 - vessel, 0.10), 0.25)
    _paint(signal, zone * soft_step(0.48 - vessel, 0.08), SIGNAL["vein"] * (1 + smooth_field(rng, grid, 8.0, 0.1)))
    _paint(signal, 0.7 * zone * _sheets(rng, grid, 5.0, 0.22), 0.22)
    # Small vessels and strands in the fat about the rectum and beside the levator.
    around = soft_step(16.0 - pelvis.rectum, 4.0)
    first, second = smooth_field(rng, grid, 8.0, 1.0), smooth_field(rng, grid, 8.0, 1.0)
    _paint(signal, 0.8 * around * soft_step(0.24 - np.hypot(first, second), 0.06), 0.2)
    _paint(signal, 0.5 * around * _sheets(rng, grid, 12.0, 0.08), 0.25)


def _paint_bladder(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, signal: np.ndarray) -> None:
    """The bladder above and before the base, the seminal vesicles above and behind it."""
    z, y, x = pelvis.points
    height, depth, _ = pelvis.half_mm
    tall, deep, wide = rng.uniform(20, 26), rng.uniform(20, 27), rng.uniform(26, 38)
    away = np.stack([(z - height - tall + rng.uniform(3, 8)) / tall, (y + 0.45 * depth) / deep, x / wide])
    bladder = to_mm(np.sqrt((away**2).sum(axis=0)) - 1 + smooth_field(rng, grid, 18.0, 0.05), grid)
    bladder = softer_max(bladder, 1.0 - pelvis.gland, 2.0)
    lie = 0.15 * (np.abs(x) - 14) - 0.2 * (z - height)
    horn = np.stack([(z - height - 6) / 11, (y - 0.66 * depth - 4 + lie) / 6, (np.abs(x) - 15) / 16])
    vesicle = to_mm(np.sqrt((horn**2).sum(axis=0)) - 1 + smooth_field(rng, grid, 7.0, 0.12), grid)
    vesicle = np.maximum(np.maximum(vesicle, 1.0 - pelvis.rectum), 1.0 - bladder)
    tubules = 1 - 0.75 * _sheets(rng, grid, 6.5, 0.32)
    _paint(signal, soft_step(-vesicle, 0.6), 0.25)
    _paint(signal, soft_step(-vesicle - 0.8, 0.6), 0.88 * tubules)
    _paint(signal, soft_step(-bladder, 0.7), 0.20)
    _paint(signal, soft_step(-bladder - rng.uniform(2.5, 4.5), 0.7), SIGNAL["urine"])


def _paint_rectum(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, signal: np.ndarray, coil: str) -> None:
    """The rectum's wall and content: gas above stool as the patient lies, or the coil's balloon."""
    rectum = pelvis.rectum
    _paint(signal, soft_step(-rectum, 0.6), 0.18)
    if coil == "endorectal":
        _paint(signal, soft_step(-rectum - 2.2, 0.5), rng.choice((SIGNAL["gas"], 0.08)))
        return
    wall = rng.uniform(2.4, 4.2) * np.exp(smooth_field(rng, grid, 8.0, 0.28))
    _paint(signal, soft_step(-rectum - 0.5 * wall, 0.6), 0.42 * (1 + smooth_field(rng, grid, 4.0, 0.25)))
    surface = pelvis.points[1] - 0.88 * pelvis.half_mm[1] - rng.uniform(-4, 24)
    stool = SIGNAL["stool"] * (1 + smooth_field(rng, grid, 6.0, 0.3) + smooth_field(rng, grid, 3.0, 0.15))
    content = SIGNAL["gas"] + (stool - SIGNAL["gas"]) * soft_step(surface, 1.5)
    _paint(signal, soft_step(-rectum - wall, 0.7), content)


def _paint_gland(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, signal: np.ndarray) -> None:
    """The gland's zones, nodules, capsules, urethra and lesions, blurred more at apex and base."""
    z, y, x = pelvis.relative
    gland = pelvis.gland
    inside = SIGNAL["pz"] * rng.uniform(0.85, 1.1) * (1 + smooth_field(rng, grid, 12.0, 0.10))
    inside *= 1 + smooth_field(rng, grid, 4.0, 0.07)
    _paint(inside, 0.35 * _sheets(rng, grid, 6.0, 0.16), 0.35)
    zone = _transition(rng, grid, pelvis)
    _paint(inside, 0.75 * soft_step(1.0 - np.abs(zone - 0.3), 0.4), 0.16)  # surgical capsule
    _paint(inside, soft_step(-zone, 0.5), _nodules(rng, grid, pelvis, zone))
    _paint(inside, 0.7 * soft_step(0.32 - np.hypot(x / 1.1, y - 0.25), 0.08) * soft_step(z - 0.5, 0.15), 0.28)
    rough = smooth_field(rng, grid, 6.0, 0.08)
    stroma = soft_step(-y - 0.62 + rough, 0.10) * soft_step(0.5 - np.abs(x) + rough, 0.12)
    _paint(inside, 0.9 * stroma, SIGNAL["muscle"] * 1.1)
    urethra = np.hypot(x * pelvis.half_mm[2], (y - 0.1 + 0.15 * z) * pelvis.half_mm[1])
    _paint(inside, 0.6 * soft_step(5.0 - urethra, 0.9) * soft_step(0.6 - z, 0.2), 0.30)
    _paint(inside, 0.8 * soft_step(2.6 - urethra, 0.6) * soft_step(0.5 - z, 0.2), 0.80)
    _paint_lesions(rng, grid, pelvis, zone, inside)
    vague = 0.5 + 1.3 * np.clip(np.abs(z), 0, 1.2) ** 4
    missing = soft_step(smooth_field(rng, grid, 10.0, 1.0) - 0.5, 0.3)
    _paint(signal, soft_step(-gland / vague, 1.0), inside)
    shell = np.exp(-(((gland + 0.1) / 0.75) ** 2)) / vague**0.5
    _paint(signal, np.clip(0.85 * shell * (1 - 0.8 * missing), 0, 1), SIGNAL["capsule"])


def _transition(rng: np.random.Generator, grid: Grid, pelvis: Pelvis) -> np.ndarray:
    """Distance to the transition zone: two lobes either side of the urethra, larger the larger the gland."""
    z, y, x = pelvis.relative
    volume = np.prod(pelvis.half_mm) / np.prod(HALF_MM)
    size = np.clip(0.50 * volume**0.28 * rng.uniform(0.9, 1.12), 0.36, 0.72)
    lobes = []
    for sign in (-1, 1):
        grown = size * np.exp(rng.normal(0, 0.07))
        off = np.stack([(z - 0.12) / (grown * 1.4), (y + 0.2) / (grown * 1.12), (x - sign * 0.5 * grown) / grown])
        lobes.append(np.sqrt((off**2).sum(axis=0)) - 1)
    level = -softer_max(-lobes[0], -lobes[1], 0.15)
    zone = to_mm(level + smooth_field(rng, grid, 9.0, 0.06), grid)
    # The peripheral zone reaches forward along the sides as two thin horns.
    margin = 1.5 + rng.uniform(1.5, 3.5) * soft_step(y + 0.55, 0.2) * soft_step(np.abs(x) - 0.4, 0.2)
    covered: np.ndarray = np.maximum(zone, pelvis.gland + margin)
    return covered


def _nodules(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, zone: np.ndarray) -> np.ndarray:
    """Signal of the transition zone: stroma packed with round nodules, some bright and glandular, some dark."""
    inside = zone < 2
    points = pelvis.points[:, inside].T
    count = int(np.clip(rng.normal(10, 2) * np.prod(pelvis.half_mm / HALF_MM) + 4, 5, 32))
    centres = points[rng.integers(len(points), size=count)]
    radii = rng.uniform(3.0, 8.5, count)
    levels = SIGNAL["tz"] * np.exp(np.clip(rng.normal(0.05, 0.45, count), -0.7, 0.7))
    rough = rng.uniform(0.05, 0.3, count)
    depth = np.full(len(points), np.inf, dtype=np.float32)
    nearest = np.zeros(len(points), dtype=int)
    for index, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        far = np.sqrt(((points - centre) ** 2).sum(axis=1)) - radius
        nearest[far < depth] = index
        depth = np.minimum(depth, far)
    depth += smooth_field(rng, grid, 7.0, 0.9)[inside]
    grain = smooth_field(rng, grid, 2.5, 1.0)[inside]
    values = SIGNAL["tz"] * (0.9 + 0.12 * grain + smooth_field(rng, grid, 7.0, 0.22)[inside])
    _paint(values, soft_step(-depth, 0.5), levels[nearest] * (1 + rough[nearest] * grain))
    _paint(values, 0.7 * np.exp(-((depth / 0.9) ** 2)), 0.18)
    signal = np.full(zone.shape, SIGNAL["tz"], dtype=np.float32)
    signal[inside] = values
    return signal


def _paint_lesions(rng: np.random.Generator, grid: Grid, pelvis: Pelvis, zone: np.ndarray, inside: np.ndarray) -> None:
    """None to two dark lesions, mostly in the peripheral zone, flat against the capsule."""
    peripheral = np.argwhere((zone > 2) & (pelvis.gland < -2) & (pelvis.relative[1] > 0))
    central = np.argwhere(zone < -4)
    for _ in range(rng.choice(3, p=(0.3, 0.45, 0.25))):
        among = peripheral if rng.random() < 0.8 or len(central) == 0 else central
        if len(among) == 0:
            continue
        at = pelvis.points[(slice(None), *among[rng.integers(len(among))])]
        radius = rng.uniform(3.5, 8.0) * np.exp(rng.normal(0, 0.15, 3))
        off = (pelvis.points - at[:, None, None, None]) / radius[:, None, None, None]
        lesion = (np.sqrt((off**2).sum(axis=0)) - 1) * radius.mean() + smooth_field(rng, grid, 6.0, 0.9)
        _paint(inside, 0.9 * soft_step(-lesion, 1.0), SIGNAL["lesion"] * (1 + smooth_field(rng, grid, 4.0, 0.08)))


def _paint(signal: np.ndarray, share: np.ndarray, level: np.ndarray | float) -> None:
    """Cover the share of each voxel with a tissue of the level."""
    signal += share * (level - signal)


def _sheets(rng: np.random.Generator, grid: Grid, correlation_mm: float, width: float) -> np.ndarray:
    """Thin curved walls (1 in them, 0 elsewhere), where a smooth field vanishes."""
    sheets: np.ndarray = np.exp(-((smooth_field(rng, grid, correlation_mm, 1.0) / width) ** 2))
    return sheets


def _capsule(points: np.ndarray, start: list[float], end: list[float], radius_mm: float) -> np.ndarray:
    """Distance in mm to a rod with round ends."""
    origin = np.array(start, dtype=np.float32)
    along = np.array(end, dtype=np.float32) - origin
    away = points - origin[:, None, None, None]
    share = np.clip(np.tensordot(along, away, 1) / (along @ along), 0, 1)
    distance: np.ndarray = np.sqrt(((away - along[:, None, None, None] * share) ** 2).sum(axis=0)) - radius_mm
    return distance
