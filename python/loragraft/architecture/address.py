"""How PEFT reaches a weight: the words that an adapter's files use for it."""

from __future__ import annotations

from typing import NamedTuple


class Address(NamedTuple):
    """Where a weight sits in the model in memory.

    PEFT puts adapters on modules (``target_modules``) or on parameters of modules
    (``target_parameters``); the experts of a block are one three-dimensional parameter.

    Attributes:
        module: Path of the module that holds the weight.
        parameter: Its name in that module where PEFT reaches it as a parameter; empty where it is
            reached as the weight of a linear module.
        order: Place among the experts' parameters of the module, 0 for the one registered first;
            wrappers nest in that order, the first innermost.
        swapped: PEFT's lora_A belongs to the outputs and lora_B to the inputs, because the
            parameter is stored the other way round than PEFT assumes.
        embedding: It is an embedding, whose factors have names of their own.
    """

    module: str
    parameter: str = ""
    order: int = 0
    swapped: bool = False
    embedding: bool = False
