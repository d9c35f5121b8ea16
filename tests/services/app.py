"""A WSGI service (see README.md): calls with `requests`, a connection a call, or with one kept `http.client` connection a thread.
A `redis://` URL in a route is a few commands on a kept connection."""

import http.client
import os
import threading
import time
from urllib.parse import urlsplit

import requests

SERVICE = os.environ["SERVICE"]
KEEP_CONNECTIONS = os.environ.get("HTTP_CLIENT") == "http.client"
# A hand-written tracing habit: hand the caller's header on as it came.
FORWARD_TRACEPARENT = os.environ.get("FORWARD_TRACEPARENT") == "1"
ROUTES = {}
for route in os.environ["ROUTES"].split(";"):
    segment, status, delay_ms, *urls = route.split()
    ROUTES[segment] = (int(status), int(delay_ms) / 1000, urls)

log_file = os.open(os.environ["TRUTH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
kept = threading.local()


def log(kind, request_id, status):
    os.write(log_file, f"{kind} {SERVICE} {request_id} {status}\n".encode())


def get_kept(url, headers):
    parts = urlsplit(url)
    connections = kept.__dict__.setdefault("connections", {})
    connection = connections.get(parts.netloc)
    if connection is None:
        connection = connections[parts.netloc] = http.client.HTTPConnection(parts.netloc)
    try:
        connection.request("GET", parts.path, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    except Exception:
        connections.pop(parts.netloc).close()
        raise


def get(url, headers):
    if KEEP_CONNECTIONS:
        return get_kept(url, headers)
    return requests.get(url, headers=headers).status_code


stores = {}


def ask_redis(url, request_id):
    # Not all machines that run this service have it.
    import redis

    store = stores.get(url)
    if store is None:
        store = stores[url] = redis.Redis.from_url(url)
    store.set("text", "no number")
    # How many keys says whose call it is.
    number = int(request_id.rsplit("-", 1)[1])
    store.exists(*[f"key-{k}" for k in range(1 + number % 256)])
    try:
        store.execute_command("INCR", "text")
    except redis.exceptions.ResponseError:
        pass


def app(environ, start_response):
    request_id = environ.get("HTTP_X_REQUEST_ID", "-")
    status, delay, urls = ROUTES.get("/" + environ["PATH_INFO"].split("/")[1], (404, 0, []))
    time.sleep(delay)
    for k, url in enumerate(urls, 1):
        if url.startswith("redis:"):
            ask_redis(url, request_id)
            continue
        headers = {"x-request-id": f"{request_id}.{k}"}
        if FORWARD_TRACEPARENT and "HTTP_TRACEPARENT" in environ:
            headers["traceparent"] = environ["HTTP_TRACEPARENT"]
        try:
            answer = get(url, headers)
        except (requests.exceptions.ConnectionError, ConnectionRefusedError):
            answer = "connect"
        except Exception:
            answer = "-"
        log("C", headers["x-request-id"], answer)
        if not isinstance(answer, int) or answer >= 500:
            status = 502
    log("S", request_id, status)
    body = f"{SERVICE} {request_id}\n".encode()
    start_response(f"{status} {http.client.responses[status]}", [("Content-Length", str(len(body))), ("Content-Type", "text/plain")])
    return [body]
