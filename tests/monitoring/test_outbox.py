"""A notification reaches its place although it is down at first, and says no secret on the way."""

from __future__ import annotations

import itertools
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from coderllm_jax.errors import ConfigError
from coderllm_jax.monitoring.outbox import Note, Outbox, name_target, send_by_apprise
from tests.monitoring.watched import Clock

# One of apprise's services still imports it.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

NOTE = Note("a1", "critical: disk", "the disk is nearly full", "failure")
SECRET = "s3cr3t-canary-4711"
URL = f"json://user:{SECRET}@127.0.0.1:9/path?token={SECRET}"


@pytest.fixture
def clock():
    return Clock()


def outbox(clock, send, *, urls=("json://one",), state=None, **more):
    times = {"retry_s": 5.0, "max_retry_s": 40.0, "give_up_s": 1000.0, **more}
    return Outbox(urls, state or {}, clock=clock, send=send, **times)


def pump(box):
    box.pump()
    box.wait(10)


class Script:
    """Sends that go or fail in turn; the last one for ever."""

    def __init__(self, *outcomes):
        self.outcomes, self.sent = list(outcomes), []

    def __call__(self, url, note):
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        if outcome:
            self.sent.append((url, note.title))
        return outcome


def test_it_is_tried_again_and_later_each_time(clock):
    script = Script(False, OSError("refused"), False, True)
    box = outbox(clock, script)
    box.put(NOTE)
    tries = []
    for _ in range(100):
        before = len(script.outcomes)
        pump(box)
        if len(script.outcomes) < before or script.sent:
            tries.append(clock.now)
        if script.sent:
            break
        clock.now += 1
    waits = [round(b - a) for a, b in itertools.pairwise(tries)]
    assert waits == [5, 10, 20]
    assert box.status("a1") == "sent"
    assert box.state()["entries"] == []


def test_a_clock_that_was_set_back_holds_nothing_up(clock):
    script = Script(False, True)
    box = outbox(clock, script)
    box.put(NOTE)
    pump(box)
    clock.now -= 3600
    pump(box)
    assert script.sent == [("json://one", NOTE.title)]


def test_status_in_words(clock):
    box = outbox(clock, Script(False))
    box.put(NOTE)
    assert box.status("a1") == "waiting"
    pump(box)
    assert box.status("a1") == "waiting: 1 try failed"
    assert box.problems() == ["notifications to json #1 fail (1 tries so far)"]
    assert outbox(clock, Script(True), urls=()).status("a1") == "none configured"


def test_a_restart_sends_what_was_waiting(clock):
    box = outbox(clock, Script(False))
    box.put(NOTE)
    pump(box)
    state = json.loads(json.dumps(box.state()))
    clock.now += 10
    script = Script(True)
    pump(outbox(clock, script, state=state))
    assert script.sent == [("json://one", NOTE.title)]
    # Not to a place that is configured no more.
    elsewhere = Script(True)
    pump(outbox(clock, elsewhere, urls=("json://two",), state=state))
    assert elsewhere.sent == []


def test_each_place_gets_them_in_order_and_one_that_is_down_holds_up_no_other(clock):
    sent = []

    def send(url, note):
        sent.append((url, note.title))
        return url == "json://up"

    box = outbox(clock, send, urls=("json://down", "json://up"))
    for title in ("one", "two"):
        box.put(NOTE._replace(title=title))
    for _ in range(6):
        pump(box)
    assert sent == [("json://down", "one"), ("json://up", "one"), ("json://up", "two")]


def test_after_a_day_it_is_dropped(clock):
    box = outbox(clock, Script(False), give_up_s=100.0)
    box.put(NOTE)
    for _ in range(20):
        pump(box)
        clock.now += 50
    assert box.status("a1") == "dropped"
    assert box.state()["entries"] == []


def test_the_queue_is_bounded(clock):
    box = outbox(clock, Script(False))
    for _ in range(2500):
        box.put(NOTE)
    assert len(box.state()["entries"]) == 2000


def test_sent_is_said_of_nothing_that_was_not(clock):
    nowhere = outbox(clock, Script(True), urls=())
    nowhere.put(NOTE)
    later = outbox(clock, Script(True), state=json.loads(json.dumps(nowhere.state())))
    assert later.status("a1") == "none configured"  # it was raised before there was a place
    down = outbox(clock, Script(False))
    down.put(NOTE._replace(alert_id="a2"))
    pump(down)
    moved = outbox(clock, Script(True), urls=("json://two",), state=down.state())
    assert (moved.status("a2"), moved.changed) == ("dropped", True)
    moved.put(NOTE._replace(alert_id="a3"))
    pump(moved)
    again = outbox(clock, Script(True), state=json.loads(json.dumps(moved.state())))
    assert [again.status(f"a{i}") for i in (1, 2, 3)] == ["none configured", "dropped", "sent"]


def test_a_full_queue_keeps_the_note_that_is_being_sent(clock):
    goes = threading.Event()

    def send(url, note):
        return goes.wait(10)

    box = outbox(clock, send)
    box.put(NOTE._replace(alert_id="first"))
    box.pump()
    for _ in range(2500):
        box.put(NOTE)
    goes.set()
    box.wait(10)
    assert box.status("first") == "sent"


def test_nothing_of_a_url_is_kept_or_said(clock, caplog):
    caplog.set_level(logging.DEBUG)
    box = Outbox([URL], {}, clock=clock, retry_s=1.0, max_retry_s=1.0, give_up_s=9.0)
    box.put(NOTE)
    pump(box)  # nobody listens on port 9
    assert box.status("a1") == "waiting: 1 try failed"
    said = json.dumps(box.state()) + caplog.text + " ".join(box.problems()) + box.status("a1")
    assert SECRET not in said
    assert "127.0.0.1" not in said
    assert name_target(URL, 3) == "json #3"


def test_a_url_that_is_none_is_named_by_its_position():
    with pytest.raises(ConfigError, match="alert URL 2 of 2 is none that apprise") as caught:
        Outbox(
            ["json://localhost", f"nosuch://{SECRET}"],
            {},
            retry_s=1.0,
            max_retry_s=1.0,
            give_up_s=1.0,
        )
    assert SECRET not in str(caught.value)


def test_a_secret_in_a_message_is_blotted_out(clock, monkeypatch):
    monkeypatch.setenv("MADE_UP_TOKEN", SECRET)
    box = outbox(clock, Script(True))
    box.put(NOTE._replace(body=f"run {SECRET} failed"))
    assert SECRET not in json.dumps(box.state())


class Receiver(BaseHTTPRequestHandler):
    got: list = []

    def do_POST(self):
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def test_a_webhook_that_was_down_at_first_is_reached(clock):
    """Through apprise, over loopback."""
    Receiver.got = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver, bind_and_activate=False)
    server.server_bind()  # a port of ours that refuses: nobody listens yet
    url = f"json://127.0.0.1:{server.server_address[1]}/hook"
    box = outbox(clock, send_by_apprise, urls=(url,))
    box.put(NOTE)
    pump(box)
    assert box.status("a1") == "waiting: 1 try failed"
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        clock.now += 5
        pump(box)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert box.status("a1") == "sent"
    (got,) = Receiver.got
    assert (got["title"], got["message"], got["type"]) == (NOTE.title, NOTE.body, "failure")


def test_markup_in_a_name_is_no_markup_where_a_place_shows_html(clock):
    """The webhook is told to show HTML, as mail and Telegram do by themselves."""
    Receiver.got = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"json://127.0.0.1:{server.server_address[1]}/hook?format=html"
        note = NOTE._replace(body="<b>lora</b> & <a href='//evil'>x</a>: stands still")
        assert send_by_apprise(url, note)
        thread.join()
    (got,) = Receiver.got
    assert "<" not in got["message"].replace("<br/>", "")
    assert "&lt;b&gt;lora" in got["message"]
