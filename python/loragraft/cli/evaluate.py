"""``loragraft evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragraft.cli.console import session
from loragraft.cli.options import Json, Quiet, Threads, Verbose
from loragraft.cli.values import named_output

if TYPE_CHECKING:
    from loragraft.evaluation import Evaluation
    from loragraft.report.page import Page

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="The model that the adapters were made for: a directory, or a Hub id"
        " owner/name[@revision].",
        show_default=False,
    ),
]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="DIR", help="Directory for the results."),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        "--adapter",
        metavar="NAME=PATH",
        help="A PEFT adapter of MODEL, a directory or a Hub id; may be given often.",
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="NAME=PATH", help="Another model, whole; may be given often."),
]
Controls = Annotated[
    list[str] | None,
    typer.Option("--control", metavar="NAME=PATH", help="An adapter that the others must beat."),
]
FindControls = Annotated[
    bool,
    typer.Option(
        "--controls",
        help="Also take the controls that transfer --controls wrote beside the adapters.",
    ),
]
Oracle = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The candidate that has all there is to gain, such as the tuned model.",
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="NAME|NAME=FILE",
        help="What is asked; may be given often. arc_challenge and arc_easy need no network with"
        " --data, nor do files of that shape, one question a line; other names are those of"
        " lm-evaluation-harness. By default arc_challenge, unless --fidelity is given.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Holds ARC-Challenge/test.jsonl and ARC-Easy/test.jsonl; without it arc_challenge is"
        " a sample of 100 questions.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None, typer.Option(metavar="N", help="Only the first N questions of each task.")
]
BatchSize = Annotated[
    str, typer.Option(metavar="auto|N", help="Questions run at once; auto goes by the memory.")
]
DType = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|bf16",
        help="What to compute in; auto takes what this machine does faster, and says which.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the resampling for intervals.")]
Fidelity = Annotated[
    str | None,
    typer.Option(
        metavar="TUNED",
        help="Also, or without --task only, tell how near each adapter brings MODEL to this one:"
        " divergence per token, agreement and perplexities on a text.",
        show_default=False,
    ),
]
Text = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The text for --fidelity; by default one in English that the package has.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Go on with what a stopped run left in DIR, or add candidates and tasks."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is in DIR.")]


def evaluate_command(
    model: Model,
    output: Output = None,
    adapter: Adapters = None,
    other: Models = None,
    control: Controls = None,
    controls: FindControls = False,
    oracle: Oracle = None,
    task: Tasks = None,
    data: Data = None,
    limit: Limit = None,
    batch_size: BatchSize = "auto",
    dtype: DType = "auto",
    threads: Threads = None,
    seed: Seed = 0,
    fidelity: Fidelity = None,
    text: Text = None,
    resume: Resume = False,
    force: Force = False,
    json_output: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> None:
    """Ask MODEL multiple-choice questions, alone and with each adapter.

    All candidates get the same questions, asked and scored as lm-evaluation-harness does it. The
    results of every single question are kept in DIR, also where the run is stopped. Needs the
    extra eval.
    """
    with session(json_output=json_output, quiet=quiet, verbose=verbose) as console:
        from loragraft.evaluation import evaluate
        from loragraft.evaluation.options import named_paths

        where = named_output(output)
        given = {
            "adapters": named_paths("--adapter", adapter or ()),
            "models": named_paths("--model", other or ()),
            "controls": named_paths("--control", control or ()),
        }
        with console.progress("Evaluating", counts="done") as progress:
            result = evaluate(
                model,
                where,
                **given,
                find_controls=controls,
                oracle=oracle,
                tasks=task or (),
                data=data,
                limit=limit,
                batch_size=batch_size,
                dtype=dtype,
                threads=threads,
                seed=seed,
                fidelity=fidelity,
                text=text,
                force=force,
                resume=resume,
                progress=progress,
            )
        console.show(result.report.to_json, lambda: _page(result))


def _page(result: "Evaluation") -> "Page":
    from loragraft.evaluation.table import evaluation_page
    from loragraft.report.page import Line, Page
    from loragraft.wording import shown

    seconds = result.report.summary.seconds
    told = Line(f"Results: {shown(result.output or '')}, in {seconds:.1f} s")
    return Page((*evaluation_page(result.report).parts, told))
