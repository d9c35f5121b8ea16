"""A service (see README.md) whose sockets come in other ways than by a listen and an accept of its own (`SOCKET`):

- `connection`: descriptors 0 and 1 are a connection (inetd `nowait`, systemd's `Accept=yes` with `StandardInput=socket`);
- `listener`: descriptor 0 is a listener (inetd `wait`); ends when nobody has come for a while;
- `fork`: accepts in the parent, serves each connection in a child of its own;
- `workers`: four processes, each with a listener of its own on the same port (SO_REUSEPORT).
"""

import os
import select
import signal
import socket
from http.server import BaseHTTPRequestHandler

import http.client
from urllib.parse import urlsplit

SERVICE = os.environ["SERVICE"]
ROUTES = {}
for route in os.environ["ROUTES"].split(";"):
    segment, status, _, *urls = route.split()
    ROUTES[segment] = (int(status), urls)
IDLE_SECONDS = 1

log_file = os.open(os.environ["TRUTH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def log(kind, request_id, status):
    os.write(log_file, f"{kind} {SERVICE} {request_id} {status}\n".encode())


def get(url, request_id):
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.request("GET", parts.path, headers={"x-request-id": request_id})
    response = connection.getresponse()
    response.read()
    connection.close()
    log("C", request_id, response.status)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        request_id = self.headers.get("x-request-id", "-")
        status, urls = ROUTES.get("/" + self.path.split("/")[1], (404, []))
        for k, url in enumerate(urls, 1):
            get(url, f"{request_id}.{k}")
        log("S", request_id, status)
        body = f"{SERVICE} {request_id}\n".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(connection):
    Handler(connection, connection.getpeername(), None)


def listener(reuse_port=False):
    return socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=128, reuse_port=reuse_port)


def connection_main():
    serve(socket.socket(fileno=0))


def listener_main():
    listening = socket.socket(fileno=0)
    while select.select([listening], [], [], IDLE_SECONDS)[0]:
        connection, _ = listening.accept()
        connection.setblocking(True)
        with connection:
            serve(connection)


def fork_main():
    # The kernel reaps them.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = listener()
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            serve(connection)
            # Without a close of the connection.
            os._exit(0)
        connection.close()


def workers_main():
    for _ in range(3):
        if os.fork() == 0:
            break
    listening = listener(reuse_port=True)
    while True:
        connection, _ = listening.accept()
        with connection:
            serve(connection)


{"connection": connection_main, "listener": listener_main, "fork": fork_main, "workers": workers_main}[os.environ["SOCKET"]]()
