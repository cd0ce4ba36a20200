"""Compiles all CUDA sources for all architectures, without a GPU, and writes what they take as the page docs/cuda-kernels.md.

python -m opyard_cuda.compiling                               # print the table
python -m opyard_cuda.compiling --write docs/cuda-kernels.md  # after a change of a source
python -m opyard_cuda.compiling --check docs/cuda-kernels.md  # exits with 1 where the page is out of date
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import unified_diff
from hashlib import sha256
from itertools import product
from pathlib import Path

import click

from opyard.errors import OpyardError
from opyard.settings import cache_dir, num_threads

from . import nvrtc
from .sources import CudaSource, all_sources

HEAD = """# CUDA kernels: registers and memory

What NVRTC {version} makes of every CUDA source of opyard-cuda: registers of a thread / bytes of shared memory of a block that are fixed
in the source / bytes of stack of a thread. No kernel spills registers to memory. The numbers come from the compiler alone; no GPU
took part. The page is written by

```console
$ uv run python -m opyard_cuda.compiling --write docs/cuda-kernels.md
```

and the tests compare it with what they compile, and the texts with those that it was written for.

| source | kernel | {architectures} |
|---|---|{rules}|
"""

TEXTS = """
## Texts

Fingerprints of what was compiled: a source that was changed since has another.

| source | fingerprint |
|---|---|
"""

Row = tuple[str, str, tuple[str, ...]]
"""A line of the table: source, kernel, and a cell for each architecture."""


def compile_all(work: Sequence[tuple[CudaSource, str]], headers: Path) -> list[dict[str, nvrtc.Usage]]:
    """What the kernels of each source take on an architecture. NVRTC works in as many threads as opyard may use."""
    with ThreadPoolExecutor(num_threads()) as pool:
        return list(pool.map(lambda pair: nvrtc.compile_source(pair[0], pair[1], headers).usage, work))


def rows(source: CudaSource, usages: Sequence[dict[str, nvrtc.Usage]]) -> Iterator[Row]:
    """The lines of a source, from what its kernels take on each architecture."""
    if source.summed:
        cells = tuple(_cell(usage.values()) for usage in usages)
        yield source.name, f"{len(source.entries)} kernels", cells
        return
    for entry in source.entries:
        yield source.name, entry, tuple(_cell([usage[entry]]) for usage in usages)


def fingerprint(source: CudaSource) -> str:
    """What tells whether a source is the one that was compiled: digits of a hash of all that the compiler is given."""
    given = repr((source.text, source.entries, source.options)).encode()
    return sha256(given).hexdigest()[:12]


def page(
    table: Iterable[Row],
    sources: Iterable[CudaSource],
    architectures: Sequence[str] = nvrtc.ARCHITECTURES,
) -> str:
    """The page with these lines, and the fingerprints of the sources."""
    head = HEAD.format(
        version=nvrtc.version(),
        architectures=" | ".join(architectures),
        rules="|".join("---" for _ in architectures),
    )
    lines = (f"| {name} | `{kernel}` | {' | '.join(cells)} |\n" for name, kernel, cells in table)
    texts = (f"| {source.name} | `{fingerprint(source)}` |\n" for source in sources)
    return "".join([head, *lines, TEXTS, *texts])


def whole_page(headers: Path) -> str:
    """The page of all sources and architectures, compiled now."""
    sources = list(all_sources())
    usages = compile_all(list(product(sources, nvrtc.ARCHITECTURES)), headers)
    size = len(nvrtc.ARCHITECTURES)
    table = (
        row
        for number, source in enumerate(sources)
        for row in rows(source, usages[number * size : (number + 1) * size])
    )
    return page(table, sources)


def _cell(usages: Iterable[nvrtc.Usage]) -> str:
    found = list(usages)
    columns = [[u.registers for u in found], [u.shared for u in found], [u.stack for u in found]]
    text = " / ".join(
        f"{min(column)}-{max(column)}" if min(column) < max(column) else str(column[0]) for column in columns
    )
    spilled = max(u.spilled for u in found)
    return f"{text}, **{spilled} spilled**" if spilled else text


def default_headers() -> Path:
    """Where CUDA's headers are kept from run to run: in opyard's cache folder."""
    return cache_dir() / f"cuda-headers-{nvrtc.version()}"


@click.command()
@click.option("--write", type=click.Path(path_type=Path), help="The page to write.")
@click.option("--check", type=click.Path(exists=True, path_type=Path), help="The page to compare with.")
def main(write: Path | None, check: Path | None) -> None:
    """Compile every CUDA source for every architecture, without a GPU."""
    try:
        text = whole_page(default_headers())
    except OpyardError as error:
        raise click.ClickException(str(error)) from None
    if write is not None:
        write.write_text(text, encoding="utf-8")
    elif check is not None:
        kept = check.read_text(encoding="utf-8")
        lines = list(unified_diff(kept.splitlines(), text.splitlines(), "kept", "compiled", lineterm=""))
        click.echo("\n".join(lines))
        if lines:
            raise click.ClickException(
                f"{check} is out of date; python -m opyard_cuda.compiling --write {check} makes it anew."
            )
    else:
        click.echo(text)


if __name__ == "__main__":
    main()
