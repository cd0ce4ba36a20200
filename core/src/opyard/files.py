"""Files: replaced as a whole, so that nobody ever sees half of one."""

from __future__ import annotations

import os
import threading
from pathlib import Path


def replace_file(path: str | os.PathLike[str], contents: bytes) -> None:
    """Writes a file in the place of what was there: all of it or, when interrupted, nothing. Raises OSError."""
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with open(temporary, "xb") as file:  # no file of tempfile, which nobody else may read
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
