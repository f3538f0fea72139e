"""Adapters in the formats of other programs, and back."""

from loragraft.exporting.exporter import Export, export

__all__ = ["Export", "export"]
