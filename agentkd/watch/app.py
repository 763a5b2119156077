"""The page as an application: itself, its parts, and a stream of what changes. It looks at the run as long as it is served."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from jinja2 import Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agentkd import __version__
from agentkd.errors import AgentKDError, ArtifactNotFoundError
from agentkd.watch.board import Editions
from agentkd.watch.entrance import HOSTS, Entrance
from agentkd.watch.watching import Watching

PARTS = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "draw.js": "text/javascript",
    "lanes.js": "text/javascript",
    "charts.js": "text/javascript",
    "tables.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The files of the page, and nothing else, by what they are."""
MAX_STREAMS = 32
KEEP_ALIVE_S = 15.0
RETRY_MS = 1000


class _Stream:
    """What goes to pages: whoever waits is woken when there is a new edition."""

    def __init__(self, watching: Watching) -> None:
        self.watching, self.editions = watching, Editions(watching.board)
        self.num_open = 0
        self._news = asyncio.Event()
        self._is_closing = False
        self.mark = f"{id(self):x}"  # of this server: another one's editions have other numbers

    def publish(self) -> None:
        """Hands on what is new."""
        if self.editions.publish():
            self.wake()

    def wake(self) -> None:
        """Has everybody look."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        """Has every stream end."""
        self._is_closing = True
        self.wake()

    async def follow(self, known: str) -> AsyncIterator[str]:
        """Events: the whole, or what came after the edition that is known, and then each change."""
        mark, _, number = known.rpartition("-")
        reached = int(number) if mark == self.mark and number.isdecimal() else -1
        self.num_open += 1
        try:
            yield f"retry: {RETRY_MS}\n\n"
            while not self._is_closing:
                news = self._news
                missed = self.editions.since(reached) if reached >= 0 else None
                if missed is None:
                    reached, text = self.editions.whole()
                    yield self._event("whole", reached, text)
                for reached, text in missed or ():
                    yield self._event("change", reached, text)
                try:
                    await asyncio.wait_for(news.wait(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield ": still here\n\n"
        finally:
            self.num_open -= 1

    def _event(self, kind: str, number: int, text: str) -> str:
        return f"id: {self.mark}-{number}\nevent: {kind}\ndata: {text}\n\n"


def make_app(watching: Watching, token: str) -> Starlette:
    """The application that shows a run to who names the token.

    Args:
        watching: of the run.
        token: see ``entrance``.
    """
    folder = files("agentkd.watch").joinpath("page")
    environment = Environment(autoescape=True)
    page = environment.from_string(folder.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    parts = {name: folder.joinpath(name).read_bytes() for name in PARTS}

    @asynccontextmanager
    async def alive(app: Starlette) -> AsyncIterator[None]:
        app.state.stream = stream = _Stream(watching)
        tasks = [asyncio.create_task(_look(stream)), asyncio.create_task(_judge(stream))]
        try:
            yield
        finally:
            stream.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def show(request: Request) -> Response:
        return HTMLResponse(page.render(version=__version__, place=str(watching.folder.place)))

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in parts:
            raise HTTPException(404)
        return Response(parts[name], media_type=PARTS[name])

    async def events(request: Request) -> Response:
        stream = request.app.state.stream
        if stream.num_open >= MAX_STREAMS:
            return PlainTextResponse("there are too many pages of this run; close some\n", status_code=503)
        known = request.headers.get("last-event-id", "")
        return StreamingResponse(stream.follow(known), media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def state(request: Request) -> Response:
        return Response(request.app.state.stream.editions.whole()[1], media_type="application/json")

    async def logs(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(watching.logs))

    async def log_tail(request: Request) -> Response:
        try:
            return PlainTextResponse(await asyncio.to_thread(watching.log_tail, request.query_params.get("name", "")))
        except ArtifactNotFoundError:
            return PlainTextResponse("there is no such log\n", status_code=404)

    async def pictures(request: Request) -> Response:
        try:
            png = await asyncio.to_thread(watching.pictures)
        except AgentKDError as error:
            return PlainTextResponse(f"{error}\n", status_code=404)
        return Response(png, media_type="image/png") if png else PlainTextResponse("there are none\n", status_code=404)

    routes = [
        Route("/", show),
        Route("/parts/{name}", part),
        Route("/events", events),
        Route("/state.json", state),
        Route("/logs", logs),
        Route("/log", log_tail),
        Route("/pictures.png", pictures),
    ]
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False),
        Middleware(Entrance, token=token),
        Middleware(GZipMiddleware, minimum_size=2000),
    ]
    return Starlette(routes=routes, middleware=middleware, lifespan=alive)


async def _look(stream: _Stream) -> None:
    while True:
        await asyncio.to_thread(stream.watching.look)
        stream.publish()
        await asyncio.sleep(stream.watching.pause_s)


async def _judge(stream: _Stream) -> None:
    await asyncio.to_thread(stream.watching.compare)
    while True:
        await asyncio.sleep(stream.watching.pause_s)
        await asyncio.to_thread(stream.watching.judge)
