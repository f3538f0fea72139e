"""The report as one page for a browser, complete in itself."""

from loragraft.report.html.page import html_report

__all__ = ["html_report"]
