"""WebSocket clients (the `websockets` package) in front of the gateway.

usage: websocket_client.py echo URL          text, bytes, a large message, ping, close
       websocket_client.py large URL         one message of 4 MiB
       websocket_client.py hold URL COUNT    COUNT connections that talk once a second until
                                             SIGTERM; prints "open" when all are open
       websocket_client.py follow URL COUNT  the same, and each whose other side goes away (1001)
                                             is opened again

Ends with 0 only if every connection lived until we closed it and every message came back.
"""

import asyncio
import os
import signal
import ssl
import sys

import websockets


async def connect(url):
    context = None
    if url.startswith("wss:"):
        context = ssl._create_unverified_context()
    return await websockets.connect(url, max_size=None, ping_interval=None, open_timeout=10, ssl=context)


async def exchange(connection, message):
    await connection.send(message)
    answer = await asyncio.wait_for(connection.recv(), timeout=10)
    # Some example endpoints say who they are before the echo.
    if answer != message and not (isinstance(answer, str) and message in answer):
        raise AssertionError(f"sent {message[:40]!r}, got {answer[:40]!r}")


async def echo(url):
    async with await connect(url) as connection:
        await exchange(connection, "hello")
        await exchange(connection, "수문 ✓")
        await exchange(connection, os.urandom(1000))
        # Below the 8 KiB that Tomcat's examples take in one message.
        await exchange(connection, "x" * 8000)
        for number in range(500):
            await exchange(connection, f"message {number}")
        await asyncio.wait_for(await connection.ping(), timeout=10)
    if connection.close_code != 1000:
        raise AssertionError(f"closed with {connection.close_code}")


async def large(url):
    async with await connect(url) as connection:
        await exchange(connection, os.urandom(4 << 20))


async def talk(connection, end, number):
    count = 0
    while not end.is_set():
        await exchange(connection, f"{number} {count}")
        count += 1
        try:
            await asyncio.wait_for(end.wait(), timeout=1)
        except asyncio.TimeoutError:
            pass
    await exchange(connection, "last")
    await connection.close()
    return count


async def follow_one(url, connection, end, number):
    """Talks; says how often the other side went away, which it may do with 1001 alone."""
    count = left = 0
    while not end.is_set():
        try:
            await exchange(connection, f"{number} {count}")
            count += 1
            await asyncio.wait_for(end.wait(), timeout=0.2)
        except asyncio.TimeoutError:
            pass
        except websockets.ConnectionClosed:
            if connection.close_code != 1001:
                raise AssertionError(f"closed with {connection.close_code}") from None
            left += 1
            connection = await connect(url)
    await connection.close()
    return count, left


async def follow(url, count):
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    connections = [await connect(url) for _ in range(count)]
    print("open", flush=True)

    talks = [follow_one(url, connection, end, number) for number, connection in enumerate(connections)]
    counts = await asyncio.gather(*talks)
    messages, left = (sum(column) for column in zip(*counts))
    print(f"{count} WebSockets, {messages} messages, {left} ended with 1001", flush=True)


async def hold(url, count):
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    connections = [await connect(url) for _ in range(count)]
    print("open", flush=True)

    talks = [talk(connection, end, number) for number, connection in enumerate(connections)]
    counts = await asyncio.gather(*talks)
    print(f"{count} connections, {sum(counts)} messages", flush=True)


if __name__ == "__main__":
    match sys.argv[1]:
        case "echo":
            asyncio.run(echo(sys.argv[2]))
        case "large":
            asyncio.run(large(sys.argv[2]))
        case "hold":
            asyncio.run(hold(sys.argv[2], int(sys.argv[3])))
        case "follow":
            asyncio.run(follow(sys.argv[2], int(sys.argv[3])))
        case other:
            sys.exit(f"no command {other}")
