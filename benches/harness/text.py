"""Tables in Markdown, and numbers as they are printed."""

from .build import LIBUV_AGAIN, LIBUV_GATHERS, PEERS, POSIX, PREAD

NOT_MEASURED = "not measured"


def table(header, rows):
    """Markdown that is also readable as text."""
    cells = [header, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return [line(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows), ""]


def short(value):
    """Three significant digits, no more: more would not be true."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(summary, digits=2):
    return f"{summary.median:.{digits}f} ({summary.quartile_low:.{digits}f}–{summary.quartile_high:.{digits}f})"


def labels_in(values):
    """In the order in which they are printed."""
    after = PEERS.index(LIBUV_AGAIN) + 1
    order = [*PEERS[:after], LIBUV_GATHERS, *PEERS[after:], POSIX, PREAD]
    return [peer.label for peer in order if peer.label in values]
