"""Transfer: an adapter of one model made one of another, with the evidence for it."""

from loragraft.transferring.options import TransferOptions
from loragraft.transferring.plan import TransferPlan
from loragraft.transferring.run import Transfer, plan_transfer, run_transfer, transfer

__all__ = [
    "Transfer",
    "TransferOptions",
    "TransferPlan",
    "plan_transfer",
    "run_transfer",
    "transfer",
]
