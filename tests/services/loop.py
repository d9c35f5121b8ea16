"""A service (see README.md) of one event loop (`LOOP`: `asyncio`, `gevent`, or `eventlet` in a worker of gunicorn). A request waits for a second; a task beside
it, which serves nobody, calls `URL` every 100 ms, on a connection for each call or on a kept one (`KEEP=1`)."""

import http.client
import os
from urllib.parse import urlsplit

PORT = int(os.environ["PORT"])
URL = os.environ["URL"]
KEEP = os.environ.get("KEEP") == "1"
WAIT_SECONDS = 1
PAUSE_SECONDS = 0.1


def headers(number):
    return {"x-request-id": f"background-{number}"}


def asyncio_main():
    import asyncio

    import aiohttp
    from aiohttp import web

    async def background():
        number = 0
        connector = aiohttp.TCPConnector(force_close=not KEEP)
        async with aiohttp.ClientSession(connector=connector) as session:
            while True:
                async with session.get(URL, headers=headers(number)) as response:
                    await response.read()
                number += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def wait(_request):
        await asyncio.sleep(WAIT_SECONDS)
        return web.Response(text="waited")

    async def start(app):
        app["background"] = asyncio.create_task(background())

    app = web.Application()
    app.router.add_get("/wait", wait)
    app.on_startup.append(start)
    web.run_app(app, host="127.0.0.1", port=PORT, print=None)


def gevent_main():
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from gevent.pywsgi import WSGIServer

    parts = urlsplit(URL)

    def background():
        number = 0
        connection = http.client.HTTPConnection(parts.netloc)
        while True:
            connection.request("GET", parts.path, headers=headers(number))
            connection.getresponse().read()
            if not KEEP:
                connection.close()
            number += 1
            gevent.sleep(PAUSE_SECONDS)

    def application(_environ, start_response):
        gevent.sleep(WAIT_SECONDS)
        start_response("200 OK", [("Content-Length", "6")])
        return [b"waited"]

    gevent.spawn(background)
    WSGIServer(("127.0.0.1", PORT), application, log=None).serve_forever()


def eventlet_application():
    """Returns a WSGI application. gunicorn's worker has replaced the standard library's sockets by eventlet's."""
    import eventlet

    parts = urlsplit(URL)

    def background():
        number = 0
        connection = http.client.HTTPConnection(parts.netloc)
        while True:
            connection.request("GET", parts.path, headers=headers(number))
            connection.getresponse().read()
            if not KEEP:
                connection.close()
            number += 1
            eventlet.sleep(PAUSE_SECONDS)

    def application(_environ, start_response):
        eventlet.sleep(WAIT_SECONDS)
        start_response("200 OK", [("Content-Length", "6")])
        return [b"waited"]

    eventlet.spawn(background)
    return application


if os.environ["LOOP"] != "eventlet":
    {"asyncio": asyncio_main, "gevent": gevent_main}[os.environ["LOOP"]]()
