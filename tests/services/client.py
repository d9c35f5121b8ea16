"""A client (see README.md): threads with a `requests` session each, or with a connection a request (`SESSION=0`)."""

import os
import sys
import threading
import time

import requests

url, count, in_flight, prefix = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
numbers = iter(range(count))
KEEP_CONNECTIONS = os.environ.get("SESSION") != "0"
lock = threading.Lock()
log_file = os.open(os.environ["TRUTH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def work():
    with requests.Session() as session:
        while not os.path.exists(os.environ["STOP"]):
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            request_id = f"{prefix}-{number}"
            get = session.get if KEEP_CONNECTIONS else requests.get
            began = time.time_ns()
            status = get(url, headers={"x-request-id": request_id}).status_code
            os.write(log_file, f"C {os.environ['SERVICE']} {request_id} {status} {began}\n".encode())


threads = [threading.Thread(target=work) for _ in range(in_flight)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
