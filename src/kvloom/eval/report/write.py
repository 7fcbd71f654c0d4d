"""Write a report to files: report.md, report.json and, where matplotlib is installed, charts."""

from __future__ import annotations

from pathlib import Path

from kvloom.eval.report.gather import Report
from kvloom.eval.report.markdown import markdown


def write_report(report: Report, directory: Path) -> list[Path]:
    """Write into ``directory``, which is made; the files, report.md first."""
    directory.mkdir(parents=True, exist_ok=True)
    names = _charts(report, directory)
    texts = {"report.md": markdown(report, names), "report.json": report.to_json() + "\n"}
    for name, text in texts.items():
        (directory / name).write_text(text, encoding="utf-8")
    return [directory / name for name in (*texts, *names)]


def _charts(report: Report, directory: Path) -> list[str]:
    from kvloom.eval.report.charts import draw

    try:
        return draw(report, directory)
    except ImportError:
        return []
