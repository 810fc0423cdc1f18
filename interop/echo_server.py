"""A Python application server (aiohttp) for the interop: says back what it got.

usage: echo_server.py ADDRESS PORT
"""

import asyncio
import hashlib
import sys

from aiohttp import WSMsgType, web

PIECE = bytes(range(256)) * 64  # 16 KiB


async def echo(request):
    """The request as JSON: method, target, fields in order, length and digest of the body."""
    digest, length = hashlib.sha256(), 0
    async for piece in request.content.iter_any():
        digest.update(piece)
        length += len(piece)
    return web.json_response(
        {
            "method": request.method,
            "target": request.raw_path,
            "fields": [[name.lower(), value] for name, value in request.headers.items()],
            "length": length,
            "sha256": digest.hexdigest(),
        }
    )


async def chunked(request):
    """`pieces` pieces of 16 KiB without a Content-Length."""
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for _ in range(int(request.query.get("pieces", "16"))):
        await response.write(PIECE)
    await response.write_eof()
    return response


async def cut(request):
    """Promises more than it sends, and closes the connection."""
    response = web.StreamResponse(headers={"Content-Length": "1000000"})
    await response.prepare(request)
    await response.write(PIECE)
    request.transport.abort() if request.query.get("reset") else request.transport.close()
    return response


async def early(request):
    """Answers before the body has been read."""
    return web.Response(status=413, text="no thanks\n")


async def health(_request):
    return web.Response(text="well\n")


async def websocket(request):
    """Sends every message back, text as text and bytes as bytes."""
    connection = web.WebSocketResponse(protocols=["echo"], max_msg_size=0)
    await connection.prepare(request)
    async for message in connection:
        if message.type == WSMsgType.TEXT:
            await connection.send_str(message.data)
        elif message.type == WSMsgType.BINARY:
            await connection.send_bytes(message.data)
    return connection


def main():
    application = web.Application(client_max_size=1 << 40)
    application.router.add_route("*", "/echo", echo)
    application.router.add_get("/chunked", chunked)
    application.router.add_get("/cut", cut)
    application.router.add_route("*", "/early", early)
    application.router.add_get("/healthz", health)
    application.router.add_get("/websocket", websocket)
    application.router.add_route("*", "/{rest:.*}", echo)
    web.run_app(application, host=sys.argv[1], port=int(sys.argv[2]), access_log=None, print=None)


if __name__ == "__main__":
    asyncio.set_event_loop(asyncio.new_event_loop())
    main()
