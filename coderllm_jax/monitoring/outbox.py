"""Notifications that reach their place although it is down: a queue on disk, tried again and again.

    put(note) ──► outbox.json ──► attempt ── sent ──► gone from the file
                      ▲              │
                      └── failed: again after 5, 10, 20 … 600 s, dropped after a day

    status    "sent" is said of an alert whose note went, "dropped" where one was given up or its
              place is configured no more, "none configured" where there was no place to send it to

    targets   apprise URLs (mail, chat, webhook); secrets: nothing of them is kept or said but a
              digest, and the scheme for a person: "json #1"

Each place gets its notes in order, each note at least once: after a crash between sending and
writing down that it was sent, twice. Sending happens in a thread; the file is written by whoever
calls, whole or not at all.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from coderllm_jax.errors import ConfigError
from coderllm_jax.redaction import redact

_MAX_NOTES = 2000
_MAX_BODY = 2000


class Note(NamedTuple):
    """What is sent. kind: apprise's info, success, warning or failure."""

    alert_id: str
    title: str
    body: str
    kind: str


Send = Callable[[str, Note], bool]


class Outbox:
    """Notes on their way. `changed` says that `state()` should be written."""

    def __init__(
        self,
        urls: Sequence[str],
        state: Mapping[str, Any],
        *,
        clock: Callable[[], float] = time.time,
        send: Send | None = None,
        retry_s: float,
        max_retry_s: float,
        give_up_s: float,
    ) -> None:
        """`send` tries one URL once and says whether it went; by default apprise does.

        Raises ConfigError where apprise knows nothing to do with a URL (named by its position).
        """
        self._targets = {_digest(url): url for url in urls}
        if send is None:
            check_urls(urls)
        self._send, self._clock = send or send_by_apprise, clock
        self._retry_s, self._max_retry_s, self._give_up_s = retry_s, max_retry_s, give_up_s
        self._entries = [dict(entry) for entry in state.get("entries", ())]
        # Alerts' ids in the order of what became of them; the latest are kept.
        self._sent = dict.fromkeys(state.get("sent", ()))
        self._dropped = dict.fromkeys(state.get("dropped", ()))
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "notifications")
        self._sending: tuple[dict[str, Any], concurrent.futures.Future[bool]] | None = None
        self.changed = False
        for entry in [each for each in self._entries if each["target"] not in self._targets]:
            self._drop(entry)

    def put(self, note: Note) -> None:
        """Queues a note for every target."""
        for target in self._targets:
            self._entries.append(
                {
                    "target": target,
                    "note": note._replace(body=redact(note.body)[:_MAX_BODY])._asdict(),
                    "queued": self._clock(),
                    "tries": 0,
                    "next": self._clock(),
                }
            )
            self.changed = True
        under_way = self._sending[0] if self._sending is not None else None
        for entry in self._entries[:-_MAX_NOTES]:
            if entry is not under_way:
                self._drop(entry)

    def pump(self) -> None:
        """Sees what became of the last attempt and begins the next that is due; never waits."""
        if self._sending is not None:
            entry, attempt = self._sending
            if not attempt.done():
                return
            self._sending = None
            self._settle(entry, attempt)
        now = self._clock()
        heads: set[str] = set()
        for entry in list(self._entries):
            is_head = entry["target"] not in heads
            heads.add(entry["target"])
            if is_head and now - entry["queued"] > self._give_up_s and entry["tries"]:
                self._drop(entry)
                heads.discard(entry["target"])
            # No wait is longer than that: the clock was set back.
            elif is_head and not now < entry["next"] <= now + self._max_retry_s:
                note = Note(**entry["note"])
                url = self._targets[entry["target"]]
                self._sending = (entry, self._pool.submit(self._send, url, note))
                return

    def wait(self, timeout_s: float) -> None:
        """Waits for the attempt that is under way, if there is one."""
        if self._sending is not None:
            concurrent.futures.wait([self._sending[1]], timeout_s)
            self.pump()

    def close(self) -> None:
        """Begins nothing new. An attempt under way goes on for as long as the process does."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def state(self) -> dict[str, Any]:
        """Plain values, without any URL."""
        return {
            "entries": self._entries,
            "sent": list(self._sent)[-_MAX_NOTES:],
            "dropped": list(self._dropped)[-_MAX_NOTES:],
        }

    def status(self, alert_id: str) -> str:
        """What became of an alert's notes, in words."""
        waiting = [e for e in self._entries if e["note"]["alert_id"] == alert_id]
        tries = max((entry["tries"] for entry in waiting), default=0)
        if tries:
            return f"waiting: {tries} {'try' if tries == 1 else 'tries'} failed"
        if waiting:
            return "waiting"
        if alert_id in self._dropped:
            return "dropped"
        return "sent" if alert_id in self._sent else "none configured"

    def problems(self) -> list[str]:
        """A sentence for each target that cannot be reached now."""
        found = []
        for number, (target, url) in enumerate(self._targets.items(), 1):
            tries = max((e["tries"] for e in self._entries if e["target"] == target), default=0)
            if tries:
                found.append(
                    f"notifications to {name_target(url, number)} fail ({tries} tries so far)"
                )
        return found

    def _settle(self, entry: dict[str, Any], attempt: concurrent.futures.Future[bool]) -> None:
        self.changed = True
        if attempt.exception() is None and attempt.result():
            self._remove(entry, self._sent)
            return
        entry["tries"] += 1
        wait_s = min(self._max_retry_s, self._retry_s * 2.0 ** (entry["tries"] - 1))
        entry["next"] = self._clock() + wait_s

    def _drop(self, entry: dict[str, Any]) -> None:
        self._remove(entry, self._dropped)
        self.changed = True

    def _remove(self, entry: dict[str, Any], became: dict[str, None]) -> None:
        # By identity: two notes may say the same.
        self._entries = [each for each in self._entries if each is not entry]
        became.pop(entry["note"]["alert_id"], None)
        became[entry["note"]["alert_id"]] = None


def urls_from_environment(variable: str) -> list[str]:
    """The URLs in an environment variable, separated by blanks; none where it is not set."""
    return os.environ.get(variable, "").split()


def check_urls(urls: Sequence[str]) -> None:
    """ConfigError where apprise cannot use one; it is named by its position, never shown."""
    if not urls:
        return
    apprise = _quiet_apprise()
    for number, url in enumerate(urls, 1):
        if not apprise.Apprise().add(url):
            raise ConfigError(
                f"alert URL {number} of {len(urls)} is none that apprise can use; "
                "see its list of services for how they are written"
            )


def send_by_apprise(url: str, note: Note) -> bool:
    """Tries one URL once; what looks like markup in a note arrives as the characters it is."""
    apprise = _quiet_apprise()
    sender = apprise.Apprise()
    sender.add(url)
    return bool(
        sender.notify(
            title=note.title,
            body=note.body,
            notify_type=note.kind,
            body_format=apprise.NotifyFormat.TEXT,
        )
    )


def name_target(url: str, number: int) -> str:
    """What a target may be called where people read it."""
    scheme = url.partition("://")[0]
    return f"{scheme if scheme.isalnum() else 'target'} #{number}"


def _quiet_apprise() -> Any:
    """Apprise; log lines of its own that name hosts, users and tokens go nowhere."""
    import apprise

    logging.getLogger("apprise").disabled = True
    # At debug level it writes every address with its path.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    return apprise


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:16]
