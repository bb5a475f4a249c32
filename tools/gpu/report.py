"""The reports, as they stand after each part."""

import json
import platform
import sys

from gpu.rows import FAIL, MEASURED, NOT_RUN, PASS

from nlcl_plugin.data.files import json_text, write_whole


def write(folder, rows, about):
    """Write gpu_check.md and gpu_check.json whole."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = {kind: sum(row["result"] == kind for row in rows) for kind in (PASS, FAIL, MEASURED, NOT_RUN)}
    about = {"python": platform.python_version(), "command": " ".join(sys.argv), **about, **counts}
    write_whole(folder / "gpu_check.json", (json_text({"about": about, "rows": rows}, indent=2) + "\n").encode())
    write_whole(folder / "gpu_check.md", markdown(rows, about).encode())


def markdown(rows, about):
    """The report as text: failures first, then a table per part."""
    lines = ["# GPU check", "", ", ".join(f"{key}: {value}" for key, value in about.items()), ""]
    failed = [row for row in rows if row["result"] == FAIL]
    if failed:
        lines += ["## Failed", "", *(f"- {row['part']}, {_cell(row['case'])}: {_cell(row['found'])}" for row in failed)]
        lines.append("")
    for part in dict.fromkeys(row["part"] for row in rows):
        lines += [f"## {part}", "", "| case | result | found | expected |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(row['case'])} | {row['result']} | {_cell(row['found'])} | {_cell(row['expected'])} |"
            for row in rows
            if row["part"] == part
        ]
        lines.append("")
    return "\n".join(lines)


def _cell(text):
    return " ".join(str(text).split()).replace("|", "\\|")


def line(row):
    """A row as progress."""
    expected = f" (expected: {row['expected']})" if row["expected"] else ""
    return f"{row['result']:>8}  {row['part']}: {row['case']}: {row['found']}{expected}"


def rows_of_file(path):
    """Rows that a process wrote one by one; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(entry) for entry in text.split("\n")[:-1] if entry]
