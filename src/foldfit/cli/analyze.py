"""`foldfit analyze`."""

import argparse

from foldfit.cli import problem as flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flags.add_arguments(parser)


def main(args: argparse.Namespace) -> None:
    import msgspec

    from foldfit.report.analysis import analyze

    problem, _ = flags.problem_of(args)
    found = analyze(problem)
    if args.json:
        print(msgspec.json.encode({"problem": problem, "stacks": found}).decode())
        return
    for a in found:
        print(table(a))


def mib(elements: int, itemsize: int) -> str:
    return f"{elements * itemsize / 2**20:,.1f}"


def gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"


def table(a) -> str:
    size = a.itemsize
    lines = [
        f"{a.stack}: one block, MiB at {size} bytes an element (reference kernels, whole, nothing recomputed)",
        f"{'sub-module':36}{'output':>10}{'largest':>12}{'study':>12}  {'':9}{'preserved':>12}{'GFLOP':>10}{'parameters':>12}",
    ]
    for row in a.rows:
        study = mib(row.study, size) if row.study is not None else ""
        lines.append(
            f"{row.name:36}{mib(row.output, size):>10}{mib(row.largest, size):>12}{study:>12}  {row.study_formula:9}"
            f"{mib(row.preserved, size):>12}{row.flops / 1e9:>10.2f}{row.parameters:>12,}"
        )
    lines += [
        f"{'block':36}{'parameters':>14}{'activation':>14}{'output':>12}   (M, M elements, M elements)",
        f"{'  ' + a.stack:36}{a.block_parameters / 1e6:>14.2f}{a.block_activation / 1e6:>14.0f}{a.block_output / 1e6:>12.1f}",
        f"{'  GPT-3 6.7B':36}{a.gpt3_parameters / 1e6:>14.2f}{a.gpt3_activation / 1e6:>14.0f}{a.gpt3_output / 1e6:>12.1f}",
        f"outputs inside a block: {mib(a.versions, size)} MiB; the study's formula as printed: {mib(a.study_versions, size)} MiB",
        f"{a.blocks} blocks: {gib(a.blocks * a.block_activation * size)} kept, {gib(a.blocks * a.block_output * size)} of block outputs",
    ]
    return "\n".join([*lines, *(f"note: {remark}" for remark in a.remarks)])
