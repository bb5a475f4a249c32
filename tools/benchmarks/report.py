"""Rows of a benchmark as a table and as a plot."""

import io

from nlcl_plugin.data.files import written_whole

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


def plot(rows, path):
    """Draw the ratios of the rows that have one, with the range over the rounds, into a PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row["ratio"]][::-1]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.35 * len(shown)), layout="constrained")
    values = [row["ratio"] for row in shown]
    reach = [[row["ratio"] - row.get("low", row["ratio"]) for row in shown],
             [row.get("high", row["ratio"]) - row["ratio"] for row in shown]]  # fmt: skip
    bars = axes.barh([row["case"] for row in shown], values, xerr=reach, color="tab:blue", ecolor="black")
    axes.bar_label(bars, [f" {_figure(value)} ×" for value in values], padding=3)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    axes.set_xlabel("reference time over ours")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    plt.close(figure)
    with written_whole(path) as file:
        file.write(drawn.getvalue())
