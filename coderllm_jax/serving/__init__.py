"""An OpenAI-compatible endpoint over the one generator.

    HTTP ── app ── protocol ── Desk (bounded) ══ one thread ══ lanes: engines with their arms
                      │                               │
              request_log, metrics ◄──────────── answers, timed

`app` and what it calls live on the event loop; `desk` is the only place where the two threads
meet; whatever touches a model is called by the desk's thread and by no other.
"""
