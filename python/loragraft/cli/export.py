"""``loragraft export``."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Json, Quiet, Verbose
from loragraft.cli.values import named_output

if TYPE_CHECKING:
    from loragraft.exporting import Export
    from loragraft.report.page import Page


def export_command(
    adapter: Annotated[
        str,
        typer.Argument(
            metavar="ADAPTER",
            help="Directory of a PEFT LoRA adapter, or the GGUF file of one.",
            show_default=False,
        ),
    ],
    base: Annotated[
        str,
        typer.Option(
            "--base",
            metavar="BASE",
            help="The model that it is for: a directory, one .safetensors or .gguf file, or a Hub"
            " id. Names and shapes are read, no weights.",
            show_default=False,
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Directory to write to; for GGUF also a file that ends with .gguf.",
            show_default=False,
        ),
    ],
    output_format: Annotated[
        Literal["gguf", "peft", "peft-legacy", "per-expert"],
        typer.Option(
            "--format",
            help="gguf for llama.cpp; peft as PEFT 0.19.1 and later load it; peft-legacy with"
            " experts as PEFT up to 0.18 has them; per-expert with a module for each expert.",
        ),
    ] = "gguf",
    dtype: Annotated[
        Literal["auto", "bf16", "fp16", "fp32"],
        typer.Option(help="Of the factors; auto keeps every number as it is."),
    ] = "auto",
    fused_experts: Annotated[
        bool,
        typer.Option(
            "--fused-experts",
            help="For a GGUF that was made with convert_hf_to_gguf.py --fuse-gate-up-exps.",
        ),
    ] = False,
    skip_unsupported: Annotated[
        bool,
        typer.Option(
            "--skip-unsupported",
            help="Leave out what the format has no place for, and list it.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in OUT.")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Write ADAPTER in the format of another program.

    A GGUF adapter works with the GGUF of BASE in llama.cpp, whatever that is quantised to. Where
    modules differ in alpha / rank, which llama.cpp does not know, the difference goes into lora_b.
    Of a GGUF adapter --format peft makes one that PEFT loads.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.exporting import export

        result = export(
            adapter,
            named_output(output),
            base=base,
            format=output_format,
            dtype=dtype,
            fused_experts=fused_experts,
            skip_unsupported=skip_unsupported,
            force=force,
        )
        console.show(
            lambda: {"schema": "loragraft.export/1", **result.to_json()}, lambda: _page(result)
        )


def _page(result: "Export") -> "Page":
    from loragraft.report.page import Line, Page
    from loragraft.wording import listed, shown, size

    noun = "pairs" if result.format == "gguf" else "modules"
    dtypes = listed([f"{count} in {code}" for code, count in result.dtypes.items()])
    lines = [
        f"Wrote {result.modules} {noun} to {shown(result.output)}: {size(result.bytes_written)},"
        f" {dtypes}, in {result.seconds:.1f} s"
    ]
    if result.folded:
        lines.append("alpha / rank differs between modules: it is multiplied into lora_b")
    lines += [f"left out: {name}: {why}" for name, why in result.left_out.items()]
    return Page(tuple(map(Line, lines)))
