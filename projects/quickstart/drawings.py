"""Drawing code for twelve classes of objects.

Every ``draw_*`` function is one class. Shape, colors, pattern and outline are sampled,
so two objects of a class differ widely.
"""

import cv2
import numpy as np

SIDE = 160  # px: canvas of a drawn cut-out before it is cropped
CANVAS = 2 * SIDE  # drawn at twice the size, then averaged down for soft edges
FAINT = 25  # alpha (0-255) up to which a border pixel is cropped away
GRID_Y, GRID_X = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / CANVAS


def pick_color(rng, hue=(0, 180), value=(90, 255)):
    """One saturated RGB color; hue in OpenCV degrees (0-180), value 0-255."""
    hsv = [rng.uniform(*hue) % 180, rng.uniform(70, 255), rng.uniform(*value)]
    return cv2.cvtColor(np.uint8([[hsv]]), cv2.COLOR_HSV2RGB)[0, 0]


def pattern(rng):
    """Weights in [0, 1] (CANVAS x CANVAS) that mix the two colors of a paint."""
    turn, rate = rng.uniform(0, np.pi), rng.uniform(5, 13)
    along = np.cos(turn) * GRID_X + np.sin(turn) * GRID_Y
    across = np.cos(turn) * GRID_Y - np.sin(turn) * GRID_X
    kind = rng.integers(6)
    if kind == 0:
        return np.zeros_like(GRID_X)
    if kind == 1:
        return np.clip(along, 0, 1)
    if kind == 2:
        return ((along * rate) % 1 < rng.uniform(0.25, 0.6)).astype(np.float32)
    if kind == 3:
        far = np.hypot((along * rate) % 1 - 0.5, (across * rate) % 1 - 0.5)
        return (far < rng.uniform(0.2, 0.4)).astype(np.float32)
    if kind == 4:
        return (np.floor(along * rate) + np.floor(across * rate)) % 2
    coarse = rng.random((int(rate) + 3, int(rate) + 3), dtype=np.float32)
    smooth = cv2.resize(coarse, (CANVAS, CANVAS), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 1)


def pick_paint(rng, hue=(0, 180)):
    """A patterned RGB sheet (CANVAS x CANVAS x 3, uint8) to fill shapes with."""
    one, two = pick_color(rng, hue), pick_color(rng, hue)
    steps = np.linspace(one, two, 256).astype(np.uint8)
    return steps[(pattern(rng) * 255).astype(np.uint8)]


def box(left, top, right, bottom):
    """Corners of an upright rectangle, in canvas units (0-1)."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse(x, y, width, height, start=0.0, stop=360.0, tilt=0.0):
    """Points of an elliptic arc; half axes in canvas units, angles in degrees."""
    angle = np.radians(np.linspace(start, stop, 48))
    points = np.stack([width * np.cos(angle), height * np.sin(angle)], 1)
    return points @ rotation(tilt) + (x, y)


def rotation(degrees):
    """2 x 2 matrix that turns row vectors by ``degrees``."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, sin], [-sin, cos]])


def spikes(x, y, outer, inner, count, start=-90.0):
    """Points of a star with ``count`` tips, in canvas units."""
    angle = np.radians(start + np.arange(2 * count) * 180 / count)
    radius = np.where(np.arange(2 * count) % 2, inner, outer)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1)


class Pen:
    """Paints shapes given in canvas units (0-1, y down) on one canvas.

    A random stretch and slant apply to all shapes of the object, so two
    objects of a class never share proportions.
    """

    def __init__(self, rng):
        self.color = np.zeros((CANVAS, CANVAS, 3), np.uint8)
        self.alpha = np.zeros((CANVAS, CANVAS), np.uint8)
        self.outline = int(rng.choice([0, 0, 3, 5, 7]))
        self.ink = pick_color(rng, value=(0, 70))
        stretch = np.exp(rng.uniform(-0.2, 0.2))
        slant = rng.uniform(-0.15, 0.15)
        self.warp = 0.8 * np.array([[stretch, 0], [slant, 1 / stretch]])

    def _pixels(self, points):
        placed = (np.asarray(points) - 0.5) @ self.warp + 0.5
        return np.round(placed * CANVAS).astype(np.int32).reshape(-1, 1, 2)

    def _lay(self, mask, paint):
        left, top, width, height = cv2.boundingRect(mask)
        part = np.s_[top : top + height, left : left + width]
        sheet = np.broadcast_to(np.uint8(paint), self.color.shape)
        np.copyto(self.color[part], sheet[part], where=mask[part][..., None] > 0)
        np.maximum(self.alpha[part], mask[part], out=self.alpha[part])

    def fill(self, points, paint):
        """Fill a polygon with a paint sheet or one RGB color, then outline it."""
        mask, points = np.zeros_like(self.alpha), self._pixels(points)
        cv2.fillPoly(mask, [points], 255)
        self._lay(mask, paint)
        if self.outline:
            edge = np.zeros_like(self.alpha)
            cv2.polylines(edge, [points], True, 255, self.outline)
            self._lay(edge, self.ink)

    def stroke(self, points, width, paint):
        """Draw an open line; ``width`` in canvas units."""
        points, width = self._pixels(points), max(2, int(0.8 * width * CANVAS))
        for extra, sheet in ((2 * self.outline, self.ink), (0, paint)):
            mask = np.zeros_like(self.alpha)
            cv2.polylines(mask, [points], False, 255, width + extra)
            self._lay(mask, sheet)

    def cut(self, points):
        """Make the inside of a polygon transparent."""
        cv2.fillPoly(self.alpha, [self._pixels(points)], 0)

    def lift(self, rng):
        """The finished cut-out: shaded, averaged down and cropped (RGBA)."""
        painted = self.alpha > 0
        inside = shrink(painted.astype(np.float32))
        # Averaging mixes in the empty canvas: divide it out again at the edge.
        color = shrink(self.color * painted[..., None])
        color = color / np.maximum(inside, 1e-3)[..., None]
        shaded = np.clip(color * shading(rng, inside)[..., None], 0, 255)
        return trim(np.dstack([shaded, shrink(self.alpha)]).astype(np.uint8))


def shrink(sheet):
    """Average a sheet of the canvas down to SIDE x SIDE."""
    return cv2.resize(sheet, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def shading(rng, inside):
    """Light factors (about 0.5-1.3): one light direction, dark rim, fine grain."""
    turn = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(turn) * GRID_X[::2, ::2] + np.sin(turn) * GRID_Y[::2, ::2]
    light = 1 + rng.uniform(0.1, 0.6) * (ramp - ramp.mean())
    depth = cv2.GaussianBlur(inside, (0, 0), rng.uniform(2, 6))
    rim = rng.uniform(0, 0.5)
    grain = rng.normal(0, rng.uniform(0.01, 0.05), inside.shape)
    return light * (1 - rim + rim * depth) + grain


def trim(rgba):
    """Crop an H x W x 4 picture to the pixels of more than a tenth alpha."""
    seen = (rgba[..., 3] > FAINT).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(seen)
    return np.ascontiguousarray(rgba[top : top + height, left : left + width])


def draw_arrow(pen, rng):
    """Arrow with one or two heads; shaft and head proportions vary."""
    half, wing = rng.uniform(0.05, 0.13), rng.uniform(0.2, 0.4)
    neck, sweep = rng.uniform(0.25, 0.4), rng.uniform(-0.05, 0.12)
    head = [(neck + sweep, 0.5 - wing), (0, 0.5), (neck + sweep, 0.5 + wing)]
    above, below = [(neck, 0.5 - half)], [(neck, 0.5 + half)]
    if rng.random() < 0.3:
        tail = [(1 - x, y) for x, y in below + head[::-1] + above]
    else:
        tail = [(1, 0.5 + half), (rng.uniform(0.88, 1), 0.5), (1, 0.5 - half)]
    pen.fill(above + head + below + tail, pick_paint(rng))


def draw_bottle(pen, rng):
    """Bottle with neck, cap and label."""
    body, neck = rng.uniform(0.14, 0.25), rng.uniform(0.05, 0.09)
    shoulder, start = rng.uniform(0.35, 0.55), rng.uniform(0.15, 0.3)
    side = [(neck, 0.08), (neck, start), (body, shoulder), (body, 0.95), (0, 1)]
    right = [(0.5 + x, y) for x, y in side]
    pen.fill(right + [(1 - x, y) for x, y in right[::-1]], pick_paint(rng))
    pen.fill(box(0.48 - neck, 0, 0.52 + neck, 0.1), pick_color(rng))
    label = rng.uniform(shoulder + 0.03, 0.7)
    pen.fill(box(0.5 - body, label, 0.5 + body, label + 0.2), pick_paint(rng))


def draw_butterfly(pen, rng):
    """Butterfly: two pairs of wings with spots, a body and feelers."""
    upper, lower, spot = pick_paint(rng), pick_paint(rng), pick_color(rng)
    tall, wide = rng.uniform(0.24, 0.34), rng.uniform(0.14, 0.2)
    low, tilt = rng.uniform(0.13, 0.22), rng.uniform(30, 55)
    dot = rng.uniform(0.03, 0.07)
    for side in (-1, 1):
        pen.fill(ellipse(0.5 + side * low, 0.72, low, 0.2, tilt=side * 40), lower)
        pen.fill(ellipse(0.5 + side * 0.25, 0.32, wide, tall, tilt=side * tilt), upper)
        pen.fill(ellipse(0.5 + side * 0.3, 0.28, dot, dot), spot)
        feeler = [(0.5, 0.3), (0.5 + side * 0.04, 0.1), (0.5 + side * 0.12, 0.02)]
        pen.stroke(feeler, 0.02, pen.ink)
    pen.fill(ellipse(0.5, 0.55, rng.uniform(0.03, 0.05), 0.33), pick_color(rng))


def draw_car(pen, rng):
    """Car from the side: body, cabin with windows, two wheels, a lamp."""
    front, back = rng.uniform(0.12, 0.3), rng.uniform(0.75, 0.97)
    roof, belt = rng.uniform(0.2, 0.32), rng.uniform(0.44, 0.5)
    lean, paint = rng.uniform(0.05, 0.14), pick_paint(rng)
    top = [(front + lean, roof), (back - lean / 2, roof)]
    cabin = np.array([(front, belt), *top, (back, belt)])
    pen.fill(cabin, paint)
    glass = pick_color(rng, (85, 115), (150, 255))
    middle = cabin.mean(0)
    pen.fill((cabin - middle) * (0.82, 0.65) + middle, glass)
    pen.stroke([(middle[0], roof), (middle[0], belt)], 0.035, paint)
    nose = rng.uniform(0, 0.08)
    hood = [(0, belt + nose), (0.06, belt), (0.96, belt), (1, belt + 0.06)]
    pen.fill([*hood, (0.99, 0.7), (0.01, 0.7)], paint)
    size, gap = rng.uniform(0.09, 0.13), rng.uniform(0.18, 0.24)
    rubber, hub = pick_color(rng, value=(15, 60)), pick_color(rng, value=(150, 255))
    for x in (gap, 1 - gap):
        pen.fill(ellipse(x, 0.7, size, size), rubber)
        pen.fill(ellipse(x, 0.7, size / 2, size / 2), hub)
    pen.fill(ellipse(0.05, belt + nose + 0.06, 0.03, 0.03), (255, 240, 150))


def draw_fish(pen, rng):
    """Fish from the side: body, tail, fins, eye and gill."""
    tall, long = rng.uniform(0.14, 0.3), rng.uniform(0.32, 0.38)
    skin, fin = pick_paint(rng), pick_paint(rng)
    spread, notch = rng.uniform(0.14, 0.28), rng.uniform(0.75, 0.97)
    pen.fill([(0.66, 0.5), (1, 0.5 - spread), (notch, 0.5), (1, 0.5 + spread)], fin)
    rise = rng.uniform(0.06, 0.18)
    pen.fill([(0.25, 0.5), (0.45, 0.5 - tall - rise), (0.62, 0.5)], fin)
    pen.fill([(0.35, 0.5), (0.5, 0.5 + tall + rise * 0.7), (0.55, 0.5)], fin)
    pen.fill(ellipse(0.4, 0.5, long, tall), skin)
    x, y = 0.4 - long * 0.65, 0.5 - tall * 0.25
    pen.fill(ellipse(x, y, 0.045, 0.045), (250, 250, 250))
    pen.fill(ellipse(x - 0.005, y, 0.022, 0.022), (10, 10, 10))
    gill = ellipse(0.4 - long * 0.5, 0.5, 0.06, tall * 0.6, -70, 70)
    pen.outline = 0
    pen.stroke(gill, 0.02, pen.ink)


def draw_flower(pen, rng):
    """Blossom of four to nine petals, in part with a stem and leaves."""
    count, thick = int(rng.integers(4, 10)), rng.uniform(0.75, 1.1)
    stem = rng.random() < 0.5
    y, reach = (0.32, 0.3) if stem else (0.5, 0.48)
    if stem:
        green = pick_color(rng, (35, 80), (70, 180))
        pen.stroke([(0.5, y), (rng.uniform(0.4, 0.6), 0.7), (0.5, 1)], 0.05, green)
        for side in (-1, 1):
            tilt = side * rng.uniform(20, 50)
            pen.fill(ellipse(0.5 + side * 0.13, 0.8, 0.05, 0.16, tilt=tilt), green)
    petal, wide = pick_paint(rng), thick * reach * np.sin(np.pi / count) * 0.75
    for turn in np.arange(count) * 360 / count + rng.uniform(0, 90):
        shape = ellipse(reach * 0.6, 0, reach * 0.42, wide) @ rotation(turn)
        pen.fill(shape + (0.5, y), petal)
    core = reach * rng.uniform(0.25, 0.45)
    pen.fill(ellipse(0.5, y, core, core), pick_paint(rng, (10, 35)))


def draw_house(pen, rng):
    """House front: walls, roof, door, a row of windows, in part a chimney."""
    left, eaves = rng.uniform(0.08, 0.2), rng.uniform(0.35, 0.55)
    ridge, over = rng.uniform(0, 0.3), rng.uniform(0.03, 0.1)
    walls, roof = pick_paint(rng), pick_paint(rng)
    if rng.random() < 0.6:
        x = rng.uniform(0.6, 0.7)
        pen.fill(box(x, 0.02, x + 0.12, eaves), pick_color(rng))
    pen.fill(box(left, eaves, 1 - left, 1), walls)
    gable = [(0.5 - ridge, 0.05), (0.5 + ridge, 0.05)]
    pen.fill([(left - over, eaves), *gable, (1 - left + over, eaves)], roof)
    glass = pick_color(rng, (20, 110), (170, 255))
    count = int(rng.integers(2, 4))
    slots = np.linspace(left + 0.05, 0.95 - left, count + 1)
    door, top = rng.integers(count), eaves + rng.uniform(0.06, 0.14)
    for k, (start, stop) in enumerate(zip(slots[:-1], slots[1:], strict=True)):
        if k == door:
            pen.fill(box(start + 0.03, top + 0.03, stop - 0.03, 1), pick_color(rng))
        else:
            pen.fill(box(start + 0.03, top, stop - 0.03, top + 0.2), glass)


def draw_key(pen, rng):
    """Key: a bow with a hole, a shaft and two to four teeth."""
    metal = pick_paint(rng)
    bow, thin = rng.uniform(0.17, 0.25), rng.uniform(0.035, 0.06)
    pen.fill(box(bow, 0.5 - thin, 1, 0.5 + thin), metal)
    deep = rng.uniform(0.1, 0.2)
    for x in np.linspace(0.95, rng.uniform(0.65, 0.75), int(rng.integers(2, 5))):
        length = deep * rng.uniform(0.6, 1)
        pen.fill(box(x - 0.03, 0.5, x + 0.03, 0.5 + thin + length), metal)
    tall, hole = bow * rng.uniform(0.85, 1.3), rng.uniform(0.4, 0.65)
    corners = int(rng.choice([4, 6, 40]))
    turn = np.radians(np.arange(corners) * 360 / corners)
    shape = np.stack([bow * np.cos(turn), tall * np.sin(turn)], 1)
    pen.fill(shape + (bow, 0.5), metal)
    pen.cut(shape * hole + (bow, 0.5))


def draw_mug(pen, rng):
    """Mug: tapered body, open handle, rim with a drink, a band."""
    half, foot = rng.uniform(0.24, 0.33), rng.uniform(0.7, 1.1)
    top, glaze = rng.uniform(0.1, 0.3), pick_paint(rng)
    middle, reach = (top + 0.95) / 2, rng.uniform(0.15, 0.25)
    handle = ellipse(0.42 + half, middle, reach, rng.uniform(0.15, 0.25), -90, 90)
    pen.stroke(handle, rng.uniform(0.06, 0.1), glaze)
    base = ellipse(0.42, 0.93, half * min(foot, 1), 0.05, 0, 180)
    pen.fill(np.concatenate([[(0.42 - half, top), (0.42 + half, top)], base]), glaze)
    if rng.random() < 0.6:
        wide = half * min(foot, 1) * 0.9
        pen.fill(box(0.42 - wide, middle, 0.42 + wide, middle + 0.12), pick_paint(rng))
    pen.fill(ellipse(0.42, top, half, 0.07), glaze)
    pen.fill(ellipse(0.42, top, half * 0.85, 0.05), pick_color(rng, value=(30, 160)))


def draw_star(pen, rng):
    """Star with four to seven tips, in part with a smaller star on top."""
    count, ratio = int(rng.integers(4, 8)), rng.uniform(0.35, 0.6)
    start = rng.uniform(0, 360)
    pen.fill(spikes(0.5, 0.5, 0.5, 0.5 * ratio, count, start), pick_paint(rng))
    if rng.random() < 0.5:
        size = rng.uniform(0.2, 0.35)
        pen.fill(spikes(0.5, 0.5, size, size * ratio, count, start), pick_paint(rng))


def draw_tree(pen, rng):
    """Tree: a trunk under stacked triangles (conifer) or a cluster of discs."""
    trunk, leaf = rng.uniform(0.04, 0.09), pick_paint(rng, (15, 90))
    bark = pick_color(rng, (5, 20), (50, 140))
    pen.fill(box(0.5 - trunk, 0.5, 0.5 + trunk, 1), bark)
    if rng.random() < 0.5:
        layers, wide = int(rng.integers(2, 5)), rng.uniform(0.28, 0.42)
        for k in range(layers, 0, -1):
            bottom, half = 0.25 + 0.6 * k / layers, wide * (0.5 + 0.5 * k / layers)
            peak = (0.5, max(bottom - rng.uniform(0.3, 0.4), 0))
            pen.fill([(0.5 - half, bottom), peak, (0.5 + half, bottom)], leaf)
        return
    wide, tall = rng.uniform(0.18, 0.3), rng.uniform(0.15, 0.25)
    pen.outline = 0
    for turn in np.radians(np.arange(7) * 360 / 7 + rng.uniform(0, 50)):
        x, y = 0.5 + wide * np.cos(turn), 0.36 + tall * np.sin(turn)
        size = rng.uniform(0.12, 0.2)
        pen.fill(ellipse(x, y, size, size), leaf)
    pen.fill(ellipse(0.5, 0.36, wide, tall), leaf)


def draw_umbrella(pen, rng):
    """Open umbrella: striped canopy with a scalloped hem, shaft and hook."""
    hem, tall = rng.uniform(0.4, 0.55), rng.uniform(0.3, 0.45)
    count, hook = int(rng.integers(3, 7)), rng.uniform(0.05, 0.1)
    wood = pick_color(rng, value=(40, 200))
    bend = ellipse(0.5 - hook, 0.9, hook, 0.1, 0, 180)
    pen.stroke(np.concatenate([[(0.5, hem - tall - 0.05)], bend]), 0.035, wood)
    sheets = [pick_paint(rng), pick_paint(rng)]
    edges = np.linspace(-1, 1, count + 1)
    for k, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        ribs = [ellipse(0.5, hem, 0.5 * edge, tall, -90, 0) for edge in (start, stop)]
        middle, half = 0.5 + (start + stop) / 4, (stop - start) / 4
        scallop = ellipse(middle, hem, half, 0.05, 0, -180)
        pen.fill(np.concatenate([ribs[0], scallop[::-1], ribs[1][::-1]]), sheets[k % 2])


DRAWERS = {
    name.removeprefix("draw_"): drawer
    for name, drawer in sorted(globals().items())
    if name.startswith("draw_")
}
