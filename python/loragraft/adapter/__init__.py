"""LoRA adapters on disk: PEFT's files, read and described."""

from loragraft.adapter.peft import (
    AdapterModule,
    PeftAdapter,
    WrittenModule,
    adapter_config,
    factor_keys,
    read_adapter,
    task_type,
)
from loragraft.adapter.target_modules import target_modules

__all__ = [
    "AdapterModule",
    "PeftAdapter",
    "WrittenModule",
    "adapter_config",
    "factor_keys",
    "read_adapter",
    "target_modules",
    "task_type",
]
