"""Charts as SVG: lines over a logarithmic axis, each labelled at its end. Nothing but text is written."""

import math
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 820, 500
LEFT, RIGHT, TOP, BOTTOM = 78, 170, 66, 62  # margins around the field
INK, FAINT, GRID = "#222222", "#666666", "#e3e3e3"
LABEL_HEIGHT = 17
FONT = "font-family=\"'DejaVu Sans', Verdana, Helvetica, Arial, sans-serif\""


@dataclass(frozen=True)
class Look:
    """Colours after Okabe and Ito, which can be told apart without red or green; the marks differ as well."""

    colour: str
    mark: str
    width: float = 1.8
    dashes: str = ""


@dataclass
class Line:
    label: str
    look: Look
    points: list = field(default_factory=list)  # (x, low quartile, median, high quartile)


@dataclass
class Chart:
    title: str
    subtitle: str
    x_title: str
    y_title: str
    lines: list
    y_logarithmic: bool = False


def plain(number):
    """1,000 and 0.5; powers of ten as such from a hundred thousand on."""
    if number >= 100000 and math.log10(number).is_integer():
        return f"10<tspan dy='-6' font-size='9'>{round(math.log10(number))}</tspan>"
    return f"{number:,.0f}" if number >= 1 else f"{number:g}"


def logarithmic_ticks(low, high):
    """The powers of ten between, and where they are few also 2 and 5 times these."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(powers) > 4 else (1, 2, 5)
    return [value for value in (factor * 10.0**power for power in powers for factor in factors) if low <= value <= high]


def linear_ticks(high):
    step = 10.0 ** math.floor(math.log10(high))
    for factor in (0.2, 0.5, 1, 2):
        if high / (step * factor) <= 8:
            step *= factor
            break
    return [step * i for i in range(int(high / step + 1e-9) + 1)]


class Axes:
    """Where a value lies on the paper."""

    def __init__(self, chart):
        xs = [x for line in chart.lines for x, *_ in line.points]
        lows = [low for line in chart.lines for _, low, _, _ in line.points]
        highs = [high for line in chart.lines for *_, high in line.points]
        self.x_low, self.x_high = min(xs) / 1.25, max(xs) * 1.25
        self.x_ticks = sorted(set(xs))
        self.y_logarithmic = chart.y_logarithmic
        if chart.y_logarithmic:
            self.y_low, self.y_high = min(lows) / 1.3, max(highs) * 1.3
            self.y_ticks = logarithmic_ticks(self.y_low, self.y_high)
        else:
            self.y_low, self.y_high = 0, max(highs) * 1.08
            self.y_ticks = linear_ticks(self.y_high)

    def x(self, value):
        share = math.log(value / self.x_low) / math.log(self.x_high / self.x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        if self.y_logarithmic:
            share = math.log(value / self.y_low) / math.log(self.y_high / self.y_low)
        else:
            share = value / self.y_high
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def text(x, y, words, size=12, anchor="start", colour=INK, more=""):
    words = words if "<tspan" in words else escape(words)
    return f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{colour}' {more}>{words}</text>"


def stroke(x1, y1, x2, y2, colour, width):
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width}'/>"


def mark(kind, x, y, colour):
    corners = {
        "square": [(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
        "diamond": [(0, -5), (5, 0), (0, 5), (-5, 0)],
        "up": [(0, -5), (4.6, 3.6), (-4.6, 3.6)],
        "down": [(0, 5), (4.6, -3.6), (-4.6, -3.6)],
    }.get(kind)
    if corners:
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
        return f"<polygon points='{points}' fill='{colour}'/>"
    fill = "#ffffff" if kind == "ring" else colour
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.8' fill='{fill}' stroke='{colour}' stroke-width='1.5'/>"


def frame(chart, axes):
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        text(LEFT, 26, chart.title, 16, more="font-weight='bold'"),
        text(LEFT, 46, chart.subtitle, 11.5, colour=FAINT),
        text((LEFT + right) / 2, HEIGHT - 16, chart.x_title, 12.5, "middle"),
        text(0, 0, chart.y_title, 12.5, "middle", more=f"transform='translate(20 {(TOP + bottom) / 2:.0f}) rotate(-90)'"),
    ]
    for tick in axes.y_ticks:
        y = axes.y(tick)
        parts += [stroke(LEFT, y, right, y, GRID, 1), text(LEFT - 8, y + 4, plain(tick), 11, "end")]
    for tick in axes.x_ticks:
        x = axes.x(tick)
        parts += [stroke(x, TOP, x, bottom, GRID, 1), text(x, bottom + 18, plain(tick), 11, "middle")]
    parts += [stroke(LEFT, bottom, right, bottom, INK, 1.2), stroke(LEFT, TOP, LEFT, bottom, INK, 1.2)]
    return parts


def curve(line, axes):
    look = line.look
    path = " ".join(f"{axes.x(x):.1f},{axes.y(median):.1f}" for x, _, median, _ in line.points)
    dashes = f" stroke-dasharray='{look.dashes}'" if look.dashes else ""
    parts = [f"<polyline points='{path}' fill='none' stroke='{look.colour}' stroke-width='{look.width}' stroke-linejoin='round'{dashes}/>"]
    for x, low, median, high in line.points:
        parts.append(stroke(axes.x(x), axes.y(low), axes.x(x), axes.y(high), look.colour, 1))
        parts.append(mark(look.mark, axes.x(x), axes.y(median), look.colour))
    return parts


def apart(wanted):
    """Heights near the wanted ones, no two nearer to each other than a label is high, and all on the paper."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = list(wanted)
    for _ in range(200):
        moved = False
        for above, below in zip(order, order[1:]):
            overlap = LABEL_HEIGHT - (placed[below] - placed[above])
            if overlap > 0.1:
                placed[above] -= overlap / 2
                placed[below] += overlap / 2
                moved = True
        for i in order:
            placed[i] = min(max(placed[i], TOP), HEIGHT - BOTTOM)
        if not moved:
            break
    return placed


def labels(lines, axes):
    parts = []
    ends = [(axes.x(line.points[-1][0]), axes.y(line.points[-1][2])) for line in lines]
    x = WIDTH - RIGHT + 26
    for line, (end_x, end_y), y in zip(lines, ends, apart([y for _, y in ends]), strict=True):
        parts.append(f"<path d='M{end_x + 6:.1f},{end_y:.1f} L{x - 12},{y:.1f}' stroke='{line.look.colour}' stroke-width='0.8' opacity='0.6'/>")
        parts.append(mark(line.look.mark, x - 6, y, line.look.colour))
        weight = "font-weight='bold'" if line.look.width > 2 else ""
        parts.append(text(x + 4, y + 4, line.label, 12, colour=line.look.colour, more=weight))
    return parts


def draw(chart):
    """The chart as the text of an SVG file. Points without a place on a logarithmic axis are left out."""
    if chart.y_logarithmic:
        for line in chart.lines:
            line.points = [point for point in line.points if point[1] > 0]
    chart.lines = [line for line in chart.lines if line.points]
    axes = Axes(chart)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}' {FONT}>",
        f"<title>{escape(chart.title)}</title>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='#ffffff'/>",
        *frame(chart, axes),
    ]
    behind_first = sorted(chart.lines, key=lambda line: line.look.width)  # what is drawn last lies on top
    for line in behind_first:
        parts += curve(line, axes)
    return "\n".join([*parts, *labels(chart.lines, axes), "</svg>", ""])
