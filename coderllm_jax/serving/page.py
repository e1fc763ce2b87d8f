"""The page to try a server: three files beside this one, served as they are.

Nothing is built and nothing is fetched from elsewhere, so the guard's content policy can be strict.
Whatever a model says enters the page as text, never as markup.
"""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


def page_routes() -> list[Route]:
    """One for each file; no path of a request ever becomes a path of a file."""
    return [_route(path, name, kind) for path, (name, kind) in _FILES.items()]


def _route(path: str, name: str, kind: str) -> Route:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def serve_file(request: Request) -> Response:
        return Response(content, headers={"content-type": kind})

    return Route(path, serve_file, methods=["GET"], name=name)
