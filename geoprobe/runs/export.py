"""A run's readings as a file for other tools."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from geoprobe.errors import UsageError
from geoprobe.runs.files import write_json, write_whole

if TYPE_CHECKING:
    from geoprobe.runs.folder import Run

FORMATS = (".parquet", ".csv", ".json")


def export(run: Run, file: Path) -> None:
    """Writes all readings of a run.

    Args:
        run: The run.
        file: Parquet and CSV hold the table `run.readings`; JSON the whole document of the run,
            findings included.

    Raises:
        UsageError: The ending is none of .parquet, .csv and .json, or the file cannot be written.
    """
    ending = file.suffix.lower()
    if ending not in FORMATS:
        raise UsageError(f"{file}: the ending says the format; use one of {', '.join(FORMATS)}.")
    if ending == ".json":
        write_json(file, run.document())
        return
    content = BytesIO()
    if ending == ".parquet":
        run.readings.write_parquet(content)
    else:
        run.readings.write_csv(content)
    write_whole(file, content.getvalue())
