"""Drawings of a placement: mermaid text, which many editors and web pages render, and DOT text for Graphviz.

Steps are boxes coloured by device, with their kernel and time; tensors are arrows, dashed where they move between devices.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..graph import Value
from ..units import format_seconds
from .model import Decision, Placement

COLOURS = ("#8ecae6", "#ffb703", "#90be6d", "#f4a261", "#cdb4db", "#e5989b", "#b7b7a4", "#a8dadc")
"""Fill colours of devices in the order of their names; beyond the last they begin again."""


def mermaid(placement: Placement) -> str:
    """The placement as a mermaid flow chart."""
    rows = ["flowchart TD"]
    for name, spec in _ends(placement):
        rows.append(f'    {name}(["{_text(spec)}"])')
    for number, decision in enumerate(placement.decisions):
        rows.append(f'    n{number}["{_text(_label(decision, "<br/>"))}"]')
    for source, target, moves in _arrows(placement):
        rows.append(f"    {source} {'-.->' if moves else '-->'} {target}")
    for device, colour, members in _groups(placement):
        rows.append(f"    classDef {device} fill:{colour},stroke:#333,color:#000")
        rows.append(f"    class {','.join(members)} {device}")
    return "\n".join(rows) + "\n"


def dot(placement: Placement) -> str:
    """The placement as a Graphviz digraph."""
    rows = ["digraph placement {", '    node [shape=box, style=filled, fontname="sans-serif"];']
    for name, spec in _ends(placement):
        rows.append(f'    {name} [label="{_text(spec)}", shape=oval, fillcolor=white];')
    colours = {member: colour for _, colour, members in _groups(placement) for member in members}
    for number, decision in enumerate(placement.decisions):
        rows.append(
            f'    n{number} [label="{_text(_label(decision, chr(92) + "n"))}", fillcolor="{colours[f"n{number}"]}"];'
        )
    for source, target, moves in _arrows(placement):
        rows.append(f"    {source} -> {target}{' [style=dashed]' if moves else ''};")
    return "\n".join([*rows, "}"]) + "\n"


def _label(decision: Decision, line: str) -> str:
    chosen = decision.chosen
    return line.join(
        [decision.match.title, f"{chosen.kernel.id} on {chosen.device.name}", format_seconds(chosen.seconds)]
    )


def _text(text: str) -> str:
    return text.replace('"', "'")


def _ends(placement: Placement) -> Iterator[tuple[str, str]]:
    """Inputs and outputs of the graph: a name for the drawing, and what to write there."""
    for number, (name, value) in enumerate(placement.graph.inputs.items()):
        yield f"in{number}", f"{name}: {value.spec!r}"
    for number, (name, value) in enumerate(placement.graph.outputs.items()):
        yield f"out{number}", f"{name}: {value.spec!r}"


def _arrows(placement: Placement) -> Iterator[tuple[str, str, bool]]:
    """From, to, and whether the tensor is converted on the way; each arrow once, constants left out."""
    makers: dict[Value, tuple[str, int]] = {}
    places = placement.places
    homes = placement.homes
    for number, value in enumerate(placement.graph.inputs.values()):
        makers[value] = (f"in{number}", places.of(homes.of(value)))
    for number, decision in enumerate(placement.decisions):
        for i, value in enumerate(decision.match.outputs):
            makers[value] = (
                f"n{number}",
                places.of(decision.chosen.device, decision.chosen.kernel.output_layout(i)),
            )
    seen: set[tuple[str, str, bool]] = set()
    for number, decision in enumerate(placement.decisions):
        kernel, device = decision.chosen.kernel, decision.chosen.device
        for port, taken in enumerate(decision.match.inputs):
            if taken is not None and taken in makers:
                target = places.of(device, kernel.input_layout(decision.match.work, port))
                arrow = (makers[taken][0], f"n{number}", makers[taken][1] != target)
                if arrow not in seen:
                    seen.add(arrow)
                    yield arrow
    for number, (name, value) in enumerate(placement.graph.outputs.items()):
        if value in makers:
            yield makers[value][0], f"out{number}", makers[value][1] != places.of(homes.output(name))


def _groups(placement: Placement) -> Iterator[tuple[str, str, list[str]]]:
    """For each device a name for the drawing, its colour, and the steps on it."""
    names = sorted({decision.chosen.device.name for decision in placement.decisions})
    for number, name in enumerate(names):
        members = [
            f"n{i}" for i, decision in enumerate(placement.decisions) if decision.chosen.device.name == name
        ]
        yield name.replace(":", "_"), COLOURS[number % len(COLOURS)], members
