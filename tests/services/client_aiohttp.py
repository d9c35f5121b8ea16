"""A client (see README.md): tasks of one loop that share an aiohttp session."""

import asyncio
import os
import sys
import time

import aiohttp

url, count, in_flight, prefix = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
numbers = iter(range(count))
log_file = os.open(os.environ["TRUTH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


async def work(session):
    for number in numbers:
        request_id = f"{prefix}-{number}"
        began = time.time_ns()
        async with session.get(url, headers={"x-request-id": request_id}) as response:
            await response.read()
        os.write(log_file, f"C {os.environ['SERVICE']} {request_id} {response.status} {began}\n".encode())
        if os.path.exists(os.environ["STOP"]):
            return


async def main():
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(work(session) for _ in range(in_flight)))


asyncio.run(main())
