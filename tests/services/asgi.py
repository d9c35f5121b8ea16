"""An ASGI service (see README.md): calls with one aiohttp session and its kept connections."""

import asyncio
import os

import aiohttp

SERVICE = os.environ["SERVICE"]
ROUTES = {}
for route in os.environ["ROUTES"].split(";"):
    segment, status, delay_ms, *urls = route.split()
    ROUTES[segment] = (int(status), int(delay_ms) / 1000, urls)

log_file = os.open(os.environ["TRUTH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
session = None


def log(kind, request_id, status):
    os.write(log_file, f"{kind} {SERVICE} {request_id} {status}\n".encode())


async def get(url, request_id):
    global session
    # It needs a running loop.
    session = session or aiohttp.ClientSession()
    try:
        async with session.get(url, headers={"x-request-id": request_id}) as response:
            await response.read()
            return response.status
    except aiohttp.ClientConnectorError:
        return "connect"
    except Exception:
        return "-"


async def app(scope, receive, send):
    assert scope["type"] == "http"
    request_id = dict(scope["headers"]).get(b"x-request-id", b"-").decode()
    status, delay, urls = ROUTES.get("/" + scope["path"].split("/")[1], (404, 0, []))
    if delay:
        await asyncio.sleep(delay)
    for k, url in enumerate(urls, 1):
        call_id = f"{request_id}.{k}"
        answer = await get(url, call_id)
        log("C", call_id, answer)
        if not isinstance(answer, int) or answer >= 500:
            status = 502
    log("S", request_id, status)
    body = f"{SERVICE} {request_id}\n".encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
