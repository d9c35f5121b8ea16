"""A service (see README.md) with a thread a connection, and a pool that gives a dialed connection to whoever waits: `/dial`
opens a connection to `LEAF` and waits until it was used; `/use`, on another thread, calls with it."""

import http.client
import os
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT_SECONDS = 10
dialed = queue.Queue()
used = threading.Semaphore(0)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/dial":
            connection = http.client.HTTPConnection(os.environ["LEAF"])
            connection.connect()
            dialed.put(connection)
            used.acquire(timeout=LIMIT_SECONDS)
        else:
            connection = dialed.get(timeout=LIMIT_SECONDS)
            connection.request("GET", "/leaf", headers={"x-request-id": self.headers["x-request-id"] + ".1"})
            connection.getresponse().read()
            connection.close()
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if self.path == "/use":
            used.release()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
