"""One search by toulbar2, as a process: a problem as JSON on standard input, the answer as the last line of standard output.

toulbar2 keeps its options in global variables, and some stay as the last search left them, so that a later search takes
another course. It also holds the interpreter's lock while it searches. In a process of its own each search starts the same,
other threads go on, and Ctrl-C ends it. The file is run by its path and imports nothing of opyard: so it starts fast.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def answer(problem: dict[str, Any]) -> dict[str, Any]:
    """Labels that cost less than ``top``, if any were found, their cost, a lower bound, and whether the search came to its end.

    Costs are whole numbers from 0 to ``top``, which forbids. ``unary`` has those of each variable's labels; ``tables`` are
    two variables with theirs, row by row.
    """
    from pytoulbar2 import CFN

    # virtual arc consistency before the search, which is cheap, and nothing printed
    model = CFN(problem["top"], vac=1, verbose=-1)
    model.Option.backtrackLimit = problem["backtracks"]
    for variable, costs in enumerate(problem["unary"]):
        model.AddVariable(str(variable), range(len(costs)))
    for variable, costs in enumerate(problem["unary"]):
        model.AddFunction([variable], costs)
    for first, second, costs in problem["tables"]:
        model.AddFunction([first, second], costs)
    found = model.Solve()
    return {
        "labels": found and list(found[0]),
        "cost": found and found[1],
        "bound": model.GetDDualBound(),
        "finished": not model.Option.limited,
    }


if __name__ == "__main__":
    print(json.dumps(answer(json.load(sys.stdin))))
