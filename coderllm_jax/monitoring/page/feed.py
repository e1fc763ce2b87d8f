"""One watch, kept up to date by one thread, and what has changed in it since somebody last looked.

    Feed ── its only thread ── watch.poll() every poll_s ──► tick 7, tick 8, …
      │                                                        │ for as long as anybody looks
      ├─ sections   {"runs": Section(5, '[{"id": …}]'), "machine": …}      ◄──┘
      └─ news(wanted, seen)   {"id": "lora-1f0c", "revision": 0, "is_new": false,
                               "series": {"loss": {"step": [41], "time": […], "value": [3.2]}}}

A browser holds a `Seen` for each thing whose series it draws: how far it has read. It travels as
the id of an event and comes back when the browser connects again, so nothing is sent twice and
nothing is missed; after a restart of the monitor, or where a run's file was cut, everything is
sent anew and said to be new.

Numbers that are not finite are words in a section ("NaN"), as JSON has none; other people's words
are passed through `redactor` before they are JSON, which would write a secret otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from coderllm_jax.redaction import redactor

if TYPE_CHECKING:
    from coderllm_jax.monitoring.watching import Watch

T = TypeVar("T")

SECTIONS = ("runs", "traffic", "machine", "quality", "alerts", "rules", "problems")
_MAX_SEEN_BYTES = 64 * 1024
# After nobody has looked for this long, nothing is drawn up any more.
_LINGER_TICKS = 5

_log = logging.getLogger(__name__)


class Section(NamedTuple):
    """One part of the overview as JSON; `version` counts its changes."""

    version: int
    text: str


class Seen(NamedTuple):
    """How far one thing's series have been read: the last step of each."""

    revision: int
    steps: Mapping[str, int]


class Feed:
    """Owns the watch: whoever else wants something of it asks through `ask`."""

    def __init__(self, watch: Watch, *, poll_s: float) -> None:
        self._watch, self._poll_s = watch, poll_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watch")
        self._ticked = asyncio.Condition()
        self._linger = 0
        self._trouble = ""
        self.tick = 0
        self.time = 0.0
        self.sections: dict[str, Section] = {}
        # Positions that another process has handed out mean nothing here.
        self.epoch = secrets.token_hex(4)

    async def keep_going(self) -> None:
        """Polls until it is cancelled; a poll that fails is told and tried again."""
        while True:
            has_more = False
            try:
                has_more = await self.ask(lambda watch: watch.poll())
                self._trouble = ""
            except Exception as error:  # noqa: BLE001 - a bug in one look must not end the page
                if not self._trouble:
                    _log.exception("the watch could not look")
                self._trouble = f"the last look failed: {type(error).__name__}: {error}"
            if self._linger > 0:
                self._linger -= 1
                await self.refresh()
            async with self._ticked:
                self.tick += 1
                self._ticked.notify_all()
            await asyncio.sleep(0 if has_more else self._poll_s)

    async def close(self) -> None:
        """Lets the thread finish what it is at, and closes the watch."""
        await self.ask(lambda watch: watch.close())
        self._thread.shutdown()

    async def ask(self, question: Callable[..., T], *args: Any) -> T:
        """What `question(watch, *args)` answers, on the watch's thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: question(self._watch, *args))

    async def refresh(self) -> None:
        """Draws up the sections anew; those that say the same keep their version."""
        try:
            time, texts = await self.ask(_look, self._trouble)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("the overview could not be drawn up")
            return
        self.time = time
        for name, text in texts.items():
            before = self.sections.get(name)
            if before is None:
                self.sections[name] = Section(1, text)
            elif before.text != text:
                self.sections[name] = Section(before.version + 1, text)

    async def wait_past(self, tick: int, *, timeout_s: float) -> int:
        """Waits for a later tick, at most so long; sections stay fresh for those who wait."""
        if not self._linger:
            await self.refresh()
        self._linger = _LINGER_TICKS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._ticked:
                await self._ticked.wait_for(lambda: self.tick > tick)
        return self.tick

    async def wake(self) -> None:
        """Lets everybody who waits look around at once."""
        async with self._ticked:
            self.tick += 1
            self._ticked.notify_all()

    async def news(
        self, wanted: Mapping[str, Sequence[str]], seen: dict[str, Seen], *, max_points: int
    ) -> list[dict[str, Any]]:
        """What `wanted` (thing → its series) has beyond `seen`, which is brought up to date."""
        if not wanted:
            return []
        return await self.ask(_news, wanted, seen, max_points)

    def dump_seen(self, seen: Mapping[str, Seen]) -> str:
        """A position in one line."""
        return json.dumps([self.epoch, seen], separators=(",", ":"))

    def load_seen(self, text: str) -> dict[str, Seen]:
        """The position that `dump_seen` wrote; empty where it is another process's, or nonsense."""
        try:
            if len(text) > _MAX_SEEN_BYTES:
                return {}
            epoch, things = json.loads(text)
            if epoch != self.epoch:
                return {}
            return {
                str(key): Seen(int(revision), {str(k): int(v) for k, v in steps.items()})
                for key, (revision, steps) in things.items()
            }
        except (ValueError, TypeError, AttributeError, RecursionError):
            return {}


def _look(watch: Watch, trouble: str) -> tuple[float, dict[str, str]]:
    overview = watch.overview()
    parts = {name: getattr(overview, name) for name in SECTIONS}
    if trouble:
        parts["problems"] = [*parts["problems"], trouble]
    clean = redactor()
    return overview.time, {name: to_json(part, clean) for name, part in parts.items()}


def _news(
    watch: Watch,
    wanted: Mapping[str, Sequence[str]],
    seen: dict[str, Seen],
    max_points: int,
) -> list[dict[str, Any]]:
    told = []
    for key, names in wanted.items():
        try:
            piece = _news_of(watch, key, names, seen.get(key), max_points)
        except KeyError:  # not there any more, or not yet
            seen.pop(key, None)
            continue
        lasts = {
            name: columns["step"][-1]
            for name, columns in piece["series"].items()
            if columns["step"]
        }
        if not lasts and not piece["is_new"]:
            continue
        steps = {} if piece["is_new"] else dict(seen[key].steps)
        steps |= lasts
        seen[key] = Seen(piece["revision"], steps)
        told.append(piece)
    return told


def _news_of(
    watch: Watch, key: str, names: Sequence[str], seen: Seen | None, max_points: int
) -> dict[str, Any]:
    """Series that have come equally far are asked for together: usually all of them at once."""
    together: dict[int, list[str]] = {}
    for name in names:
        together.setdefault(-1 if seen is None else seen.steps.get(name, -1), []).append(name)
    series: dict[str, Any] = {}
    revision = 0
    for since, group in together.items():
        got = watch.series(key, group, since_step=since, max_points=max_points)
        revision = got["revision"]
        if seen is not None and revision != seen.revision:
            return _news_of(watch, key, names, None, max_points)
        series |= {name: got[name] for name in group}
    return {"id": key, "revision": revision, "is_new": seen is None, "series": series}


def to_json(value: Any, clean: Callable[[str], str] = str) -> str:
    """Views and what is in them, as JSON on one line; every word is passed through `clean`."""
    return json.dumps(_plain(value, clean), separators=(",", ":"), allow_nan=False)


def _plain(value: Any, clean: Callable[[str], str]) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: _plain(getattr(value, name), clean) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict(), clean)
    if isinstance(value, Mapping):
        return {clean(str(name)): _plain(item, clean) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, clean) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return clean(value) if isinstance(value, str) else value
