"""A service (see README.md) of one event loop (`LOOP`: `asyncio`, `blocking` for an asyncio whose calls block it, `gevent`, or `eventlet` in a worker of gunicorn). A request waits for a second; a task beside
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

    async def background():
        number = 0
        connector = aiohttp.TCPConnector(force_close=not KEEP)
        async with aiohttp.ClientSession(connector=connector) as session:
            while True:
                async with session.get(URL, headers=headers(number)) as response:
                    await response.read()
                number += 1
                await asyncio.sleep(PAUSE_SECONDS)

    serve_by_asyncio(background)


def blocking_main():
    import asyncio

    async def background():
        number = 0
        connection = http.client.HTTPConnection(urlsplit(URL).netloc)
        while True:
            connection.request("GET", urlsplit(URL).path, headers=headers(number))
            connection.getresponse().read()
            if not KEEP:
                connection.close()
            number += 1
            await asyncio.sleep(PAUSE_SECONDS)

    serve_by_asyncio(background)


def serve_by_asyncio(background):
    import asyncio

    from aiohttp import web

    async def wait(_request):
        await asyncio.sleep(WAIT_SECONDS)
        return web.Response(text="waited")

    async def start(app):
        app["background"] = asyncio.create_task(background())

    app = web.Application()
    app.router.add_get("/wait", wait)
    app.on_startup.append(start)
    web.run_app(app, host="127.0.0.1", port=PORT, print=None)


def wsgi_application(spawn, sleep):
    """Returns a WSGI application, and starts calls beside it. The standard library's sockets are the loop's."""
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
            sleep(PAUSE_SECONDS)

    def application(_environ, start_response):
        sleep(WAIT_SECONDS)
        start_response("200 OK", [("Content-Length", "6")])
        return [b"waited"]

    spawn(background)
    return application


def gevent_main():
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from gevent.pywsgi import WSGIServer

    application = wsgi_application(gevent.spawn, gevent.sleep)
    WSGIServer(("127.0.0.1", PORT), application, log=None).serve_forever()


def eventlet_application():
    """Returns the application for gunicorn, whose worker has replaced the standard library's sockets by eventlet's."""
    import eventlet

    return wsgi_application(eventlet.spawn, eventlet.sleep)


if os.environ["LOOP"] != "eventlet":
    {"asyncio": asyncio_main, "blocking": blocking_main, "gevent": gevent_main}[os.environ["LOOP"]]()
