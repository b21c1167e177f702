"""The run folder: what a measurement leaves behind, and all that reports, checks and exports read.

    run.json                         command, options, corpus, environment, the series
    findings.json                    findings about the series as a whole (phases)
    checkpoints/<label>.json         readings and findings of one checkpoint, or why it has none
    checkpoints/<label>.safetensors  its arrays (spectra, jackknife replicates)
    autoencoders/<label>/            sparse autoencoders that were trained on it
    relations/<label>/               neurons of its relations (neurons.json)

Every file is written beside its place and renamed into it, a checkpoint's arrays before its JSON:
after a crash at any moment a checkpoint is either done or absent. No file holds a time or a path of
the machine's own making, so the same measurement gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from geoprobe.errors import UsageError
from geoprobe.runs.files import PART, write_json, write_whole
from geoprobe.runs.header import MUST_AGREE, as_text, differences
from geoprobe.runs.reading import Reading

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

SCHEMA = "geoprobe.run/1"

_HEADER, _FINDINGS, _CHECKPOINTS, _LOCK = "run.json", "findings.json", "checkpoints", ".lock"
REPLICATES = "replicates"
"""The array of all readings' jackknife replicates, a row each in their order."""
_BESIDE = ("autoencoders", "relations")
"""Folders of what is kept beside the readings, a folder a checkpoint in each."""
_JSON, _ARRAYS = ".json", ".safetensors"
_BEFORE_HEADER = {_LOCK, _CHECKPOINTS, _HEADER + PART}
_OURS = _BEFORE_HEADER | {_HEADER, _FINDINGS, _FINDINGS + PART, *_BESIDE, "report.html"}


class Run:
    """A run folder, open for reading, or for writing while it is measured.

    Attributes:
        path: The folder.
        header: What run.json holds.
        keep_alive: Whatever must live as long as the run (a temporary folder).
    """

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.header = header
        self.keep_alive: Any = None
        self._lock: Any = None
        self._broken_since: dict[str, str] = {}
        self._replaces = False
        # Each file is parsed once and not again after every checkpoint that is added.
        self._parsed: dict[Path, tuple[tuple[int, int, int], Any]] = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens a run folder for reading.

        Raises:
            UsageError: There is no run there, it is damaged, or it has another schema.
        """
        file = path / _HEADER
        try:
            there = file.is_file()
        except OSError as error:  # a name too long, a folder that may not be entered
            raise UsageError(f"{path} is not a run folder: {_why(error)}.") from error
        if not there:
            raise UsageError(f"{path} is not a run folder: it has no {_HEADER}.")
        header = _read_json(file)
        schema = header.get("schema") if isinstance(header, dict) else None
        if schema != SCHEMA:
            raise UsageError(
                f"{file} has schema {schema!r}, and this version reads {SCHEMA!r}; "
                "measure again with --fresh, or use the version that wrote it."
            )
        if not {*MUST_AGREE, "series"} <= header.keys():
            raise UsageError(f"{file} is damaged; measure again with --fresh.")
        return cls(path, header)

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any], *, fresh: bool = False) -> Self:
        """Opens a folder for writing: a new run, or the same one to be resumed.

        Args:
            path: The folder; made if it is not there.
            header: For run.json: command, options, corpus, environment, series; and `chosen`, what
                was settled by looking at the machine (batch size), which a resumed run takes over.
            fresh: Start over where the folder holds a run already; that one is kept until something
                is written.

        Raises:
            UsageError: The folder holds another run (the sentence says what differs), something
                that is no run, or a run that another process is writing.
        """
        given = as_text({"schema": SCHEMA, **header})
        file = path / _HEADER
        try:
            is_file, may_write = path.exists() and not path.is_dir(), _may_write(path)
        except OSError as error:
            raise UsageError(f"--out {path}: it cannot be a folder ({_why(error)}).") from error
        if is_file:
            raise UsageError(f"--out {path}: that is a file; give a folder.")
        if not may_write:
            raise UsageError(
                f"--out {path}: the folder is not empty and holds no run; give another name."
            )
        run = cls(path, given)
        try:
            (path / _CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out {path}: the folder cannot be made ({error}).") from error
        run._acquire()
        try:
            if file.is_file() and not fresh:
                known = cls.open(path)
                differs = differences(known.header, given)
                if differs and run._has_readings():
                    raise UsageError(
                        f"--out {path} holds another run: {'; '.join(differs)}. Give another "
                        "--out, or --fresh to start over."
                    )
                if differs:  # nothing measured is lost
                    run._clear()
                elif "chosen" in known.header:
                    given["chosen"] = known.header["chosen"]
            elif fresh and file.is_file():
                # What is there goes when something takes its place, not before.
                run._replaces = True
                return run
            write_json(file, given)
        except BaseException:
            run.close()
            raise
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets other processes write; reading goes on."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # Writing

    def has(self, label: str) -> bool:
        """Whether a checkpoint of this label has readings, of whatever state of its files."""
        stored = self._stored(label)
        return stored is not None and "failed" not in stored

    def is_done(self, entry: Mapping[str, Any]) -> bool:
        """Whether a checkpoint with this label and fingerprint has its readings on this corpus."""
        stored = self._stored(str(entry["label"]))
        return (
            stored is not None
            and "failed" not in stored
            and stored["checkpoint"].get("fingerprint") == entry["fingerprint"]
            and ("corpus" not in entry or stored["checkpoint"].get("corpus") == entry["corpus"])
            and self._file(str(entry["label"]), _ARRAYS).is_file()
        )

    def write_checkpoint(
        self,
        entry: Mapping[str, Any],
        readings: Sequence[Reading],
        findings: Sequence[Mapping[str, Any]],
        arrays: Mapping[str, NDArray[Any]],
    ) -> None:
        """Keeps what was measured of one checkpoint: arrays first, JSON last.

        Args:
            entry: `label`, `step`, `tokens`, `stage`, `fingerprint` of the checkpoint.
            readings: Its readings.
            findings: JSON objects with a `kind`.
            arrays: Name -> array.
        """
        import numpy as np
        from safetensors.numpy import save

        self._begin()
        label = str(entry["label"])
        file = self._file(label, _JSON)
        # Readings of an earlier state of the checkpoint never stand beside arrays of this one.
        file.unlink(missing_ok=True)
        # safetensors writes the memory behind a view, whatever the view's strides.
        whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        if (groups := max((len(reading.replicates) for reading in readings), default=0)) > 0:
            whole[REPLICATES] = np.full((len(readings), groups), np.nan)
            for row, reading in zip(whole[REPLICATES], readings, strict=True):
                row[: len(reading.replicates)] = reading.replicates
        write_whole(self._file(label, _ARRAYS), save(whole))
        write_json(
            file,
            {
                "checkpoint": dict(entry),
                "readings": [reading.to_json() for reading in readings],
                "findings": [dict(finding) for finding in findings],
            },
        )
        self._forget()

    def write_failure(self, entry: Mapping[str, Any], message: str) -> None:
        """Notes why a checkpoint could not be measured; the next run tries it again.

        Readings that it has from before it broke are kept, and the note lasts as long as this run
        is open.
        """
        self._begin()
        label = str(entry["label"])
        if self.has(label):
            self._broken_since[label] = message
            self._forget()
            return
        write_json(self._file(label, _JSON), {"checkpoint": dict(entry), "failed": message})
        self._file(label, _ARRAYS).unlink(missing_ok=True)
        self._forget()

    def write_findings(self, findings: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the findings about the series as a whole."""
        self._begin()
        write_json(self.path / _FINDINGS, [dict(finding) for finding in findings])
        self._forget()

    def choose(self, **chosen: Any) -> None:
        """Keeps what was settled by looking at the machine, for the run when it is resumed."""
        self.header["chosen"] = {**self.header.get("chosen", {}), **chosen}
        if not self._replaces:
            write_json(self.path / _HEADER, self.header)

    # Reading

    @cached_property
    def checkpoints(self) -> list[dict[str, Any]]:
        """Entries of the checkpoints that have readings, in the order of the series."""
        return [stored["checkpoint"] for stored in self._done]

    @property
    def labels(self) -> list[str]:
        """Labels of the checkpoints that have readings, in the order of the series."""
        return [str(entry["label"]) for entry in self.checkpoints]

    @cached_property
    def failed(self) -> dict[str, str]:
        """Label -> why it could not be measured."""
        return {
            label: str(stored["failed"])
            for label, stored in self._all.items()
            if "failed" in stored
        } | self._broken_since

    @cached_property
    def findings(self) -> list[dict[str, Any]]:
        """Findings about the series, then those of each checkpoint, then the failures."""
        file = self.path / _FINDINGS
        there = file.is_file() and not self._replaces
        found: list[dict[str, Any]] = _read_json(file) if there else []
        for stored in self._done:
            found = [*found, *stored["findings"]]
        return found + [
            {"kind": "failure", "checkpoint": label, "message": message}
            for label, message in self.failed.items()
        ]

    @cached_property
    def readings(self) -> pl.DataFrame:
        """All readings, one a row, in the order of the series.

        Columns: `checkpoint`, `index` (its place in the run), `stage`, `step`, `training_tokens`,
        `epoch`, `probe`, `measure`, `site`, one column for each key that any reading has
        (`tokens`, `sinks`, `k`, ...; null where a reading has no such key), `value`, `stderr`,
        `n`, `convention`, `reason`.
        """
        from geoprobe.runs.table import readings_frame

        frame: pl.DataFrame = readings_frame(
            [(stored["checkpoint"], stored["readings"]) for stored in self._done]
        )
        return frame

    @property
    def size(self) -> int:
        """Bytes of the readings and findings of its checkpoints, as they are kept."""
        labels = (str(entry["label"]) for entry in self.header["series"]["checkpoints"])
        files = (self._file(label, _JSON) for label in labels)
        return sum(file.stat().st_size for file in files if file.is_file())

    @cached_property
    def sites(self) -> list[str]:
        """Sites that have readings, in execution order."""
        return list(
            dict.fromkeys(str(r["site"]) for stored in self._done for r in stored["readings"])
        )

    def arrays(self, label: str) -> dict[str, NDArray[np.float64]]:
        """The arrays of one checkpoint, by name (`spectrum/final/last/in/eigenvalues`).

        Raises:
            UsageError: The run has no such checkpoint, or its arrays are damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if label not in self.labels:
            raise UsageError(
                f"{self.path} has no readings of {label!r}; it has {', '.join(self.labels)}."
            )
        file = self._file(label, _ARRAYS)
        try:
            found: dict[str, NDArray[np.float64]] = load_file(file)
        except (OSError, SafetensorError) as error:
            raise UsageError(f"{file} cannot be read ({error}); measure again.") from error
        return found

    def measured(self, label: str) -> list[Reading]:
        """The readings of one checkpoint with their jackknife replicates.

        Raises:
            UsageError: The run has no such checkpoint, or its arrays are damaged.
        """
        rows = self.arrays(label).get(REPLICATES)
        readings = [Reading.from_json(one) for one in self._all[label]["readings"]]
        if rows is None:
            return readings
        return [
            replace(one, replicates=tuple(row) if any(map(math.isfinite, row)) else ())
            for one, row in zip(readings, rows.tolist(), strict=True)
        ]

    def document(self) -> dict[str, Any]:
        """The run as one JSON document (`--json`)."""
        return {
            **{name: self.header[name] for name in MUST_AGREE},
            "series": {**self.header["series"], "checkpoints": self.checkpoints},
            "readings": [reading for stored in self._done for reading in stored["readings"]],
            "findings": self.findings,
        }

    # Inside

    @cached_property
    def _all(self) -> dict[str, dict[str, Any]]:
        """Stored checkpoints by label, in the order of the series."""
        found = {}
        for entry in self.header["series"]["checkpoints"]:
            stored = self._stored(str(entry["label"]))
            if stored is not None:
                found[str(entry["label"])] = stored
        return found

    @property
    def _done(self) -> list[dict[str, Any]]:
        return [stored for stored in self._all.values() if "failed" not in stored]

    def _stored(self, label: str) -> dict[str, Any] | None:
        if self._replaces:
            return None
        file = self._file(label, _JSON)
        if not file.is_file():
            return None
        state = file.stat()
        mark = (state.st_mtime_ns, state.st_size, state.st_ino)
        if self._parsed.get(file, (None,))[0] != mark:
            self._parsed[file] = (mark, _read_json(file))
        found: dict[str, Any] = self._parsed[file][1]
        if not _is_stored(found):
            raise UsageError(f"{file} is damaged; remove it and measure again.")
        # On a disk that ignores case, the file may be another checkpoint's.
        return found if str(found["checkpoint"].get("label")) == label else None

    def _file(self, label: str, ending: str) -> Path:
        """A file of a checkpoint."""
        return self.path / _CHECKPOINTS / (_safe(label) + ending)

    def beside(self, label: str, what: str) -> Path:
        """Folder for what is kept beside a checkpoint's readings; made if it is not there.

        Args:
            label: The checkpoint's.
            what: `autoencoders` or `relations`.
        """
        assert what in _BESIDE
        self._begin()
        found = self.path / what / _safe(label)
        found.mkdir(parents=True, exist_ok=True)
        return found

    def _begin(self) -> None:
        """Puts this run in the place of the one that `fresh` starts over."""
        if self._replaces:
            self._replaces = False
            self._clear()
            write_json(self.path / _HEADER, self.header)

    def _forget(self) -> None:
        for name in ("checkpoints", "failed", "findings", "readings", "sites", "_all"):
            self.__dict__.pop(name, None)

    def _acquire(self) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(self.path / _LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"--out {self.path}: another geoprobe is writing this run; wait for it, or give "
                "another --out."
            ) from None
        except (OSError, NotImplementedError) as error:
            raise UsageError(f"--out {self.path}: cannot be written ({error}).") from error
        self._lock = lock

    def _has_readings(self) -> bool:
        """Whether any checkpoint was measured, also one that the series no longer lists."""
        found = (_read_json(file) for file in (self.path / _CHECKPOINTS).glob("*" + _JSON))
        return any("failed" not in stored for stored in found if _is_stored(stored))

    def _clear(self) -> None:
        """Removes what a run of geoprobe consists of, all but the header, and nothing else.

        The header stays until another replaces it, and a checkpoint's JSON goes before its arrays:
        after a crash the folder is still a run, with fewer checkpoints.
        """
        for ending in (_JSON, _ARRAYS, PART):
            for file in (self.path / _CHECKPOINTS).glob("*" + ending):
                file.unlink()
        (self.path / _FINDINGS).unlink(missing_ok=True)
        for what in _BESIDE:
            if (self.path / what).is_dir():
                shutil.rmtree(self.path / what)


def _safe(label: str) -> str:
    """A file's name. Labels are hostile: no two share one, none leaves the folder."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", label)[:80].lstrip(".-") or "checkpoint"
    if safe != label or re.search(r"-[0-9a-f]{16}$", label):
        safe += "-" + hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return safe


def _why(error: OSError) -> str:
    """What the system said, without the path, which the sentence has already."""
    return error.strerror or str(error)


def _is_stored(found: Any) -> bool:
    """Whether this is what a checkpoint's JSON holds."""
    return isinstance(found, dict) and isinstance(found.get("checkpoint"), dict)


def _may_write(path: Path) -> bool:
    """Whether a folder is absent, empty, a run, or what a crash before run.json leaves of one."""
    if not path.is_dir():
        return True
    inside = {item.name for item in path.iterdir()}
    if _HEADER not in inside:
        return inside <= _BEFORE_HEADER and not _any_inside(path / _CHECKPOINTS)
    try:
        header = _read_json(path / _HEADER)
    except UsageError:
        return inside <= _OURS  # damaged, and --fresh may replace it
    return isinstance(header, dict) and str(header.get("schema")).startswith("geoprobe.run/")


def _any_inside(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}); measure again with --fresh.") from error
