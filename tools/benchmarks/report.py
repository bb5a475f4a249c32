"""Rows of a benchmark as a table."""

KEYS = ("part", "case", "ratio", "peak_mb", "reference_peak_mb", "floor_ratio")  # of each row; None: does not apply


def table(rows):
    """Lines of a Markdown table."""
    lines = [
        "| case | reference time over ours | peak MB, ours / reference | our time over the floor |",
        "|---|---|---|---|",
    ]
    for row in rows:
        ratio = _figure(row["ratio"])
        if "low" in row:
            ratio += f" ({_figure(row['low'])}–{_figure(row['high'])})"
        peaks = f"{_figure(row['peak_mb'])} / {_figure(row['reference_peak_mb'])}" if row["peak_mb"] is not None else ""
        lines.append(f"| {row['case']} | {ratio} | {peaks} | {_figure(row['floor_ratio'])} |")
    return lines


def _figure(value):
    """Three digits, and no exponent."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
