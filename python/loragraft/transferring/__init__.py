"""Transfer: an adapter of one model made one of another, with the evidence for it."""

from loragraft.transferring.options import TransferOptions
from loragraft.transferring.plan import TransferPlan, plan_transfer
from loragraft.transferring.run import Transfer, run_transfer, transfer

__all__ = [
    "Transfer",
    "TransferOptions",
    "TransferPlan",
    "plan_transfer",
    "run_transfer",
    "transfer",
]
