"""Who is let in to a page: who knows its token, and asks for this host by a name of this host. All is read, nothing written.

The token is the first part of every path, so that it goes with whatever the page asks for. A browser that was led to this port
under another name (DNS rebinding) is refused by the name; what a page of others asks for lacks the token.
"""

import secrets

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ["127.0.0.1", "localhost", "[::1]"]
"""The names under which a page may be asked for, whatever the port: it may be forwarded."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def new_token() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(24)


class Entrance:
    """Lets in who names the token first in the path, and asks only to read. What is inside sees the rest of the path.

    Args:
        app: what is inside.
        token: that is to be named.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing else is spoken here

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        first, slash, rest = str(scope["path"]).removeprefix("/").partition("/")
        if not slash or not secrets.compare_digest(first.encode(errors="replace"), self._token):
            refused = "there is nothing here: open the address that agentkd has printed, with all that stands in it\n"
            await PlainTextResponse(refused, status_code=404)(scope, receive, said)
        elif scope["method"] not in ("GET", "HEAD"):
            await PlainTextResponse("this is to be read\n", status_code=405, headers={"allow": "GET"})(scope, receive, said)
        else:
            path = f"/{rest}"
            await self._app({**scope, "path": path, "root_path": "", "raw_path": path.encode(errors="replace")}, receive, said)
