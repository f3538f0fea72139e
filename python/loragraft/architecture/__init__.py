"""Names to roles: which tensors of a checkpoint are linear layers, and which of them to adapt."""

from loragraft.architecture.families import Family, family_of
from loragraft.architecture.modules import Inventory, LinearModule, Role, take_inventory
from loragraft.architecture.selection import Selection, parse_selection, select

__all__ = [
    "Family",
    "Inventory",
    "LinearModule",
    "Role",
    "Selection",
    "family_of",
    "parse_selection",
    "select",
    "take_inventory",
]
