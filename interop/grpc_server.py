"""A gRPC server (the `grpcio` package) behind the gateway, without generated code.

usage: grpc_server.py ADDRESS PORT

Messages are bytes. The methods of `interop.Test`:
    Unary         the message back; metadata `x-echo` and `x-echo-bin` come back as trailers
    ClientStream  how many messages came, and how many bytes
    ServerStream  as many messages as the request says
    Talk          each message back, as soon as it comes
    Fail          NOT_FOUND before any message; with `late`, behind two messages
    Slow          never answers; notes when the call is given up, and how much time it had
    Endless       messages until the call is given up
    GivenUp       what was noted of that so far
"""

import sys
import threading
import time
from concurrent import futures

import grpc

given_up = []


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata(
        [(name, metadata[name]) for name in ("x-echo", "x-echo-bin") if name in metadata]
    )
    return request


def client_stream(requests, context):
    count = size = 0
    for request in requests:
        count += 1
        size += len(request)
    return f"{count} {size}".encode()


def server_stream(request, context):
    for number in range(int(request)):
        yield f"message {number}".encode()


def talk(requests, context):
    yield from requests


def fail(request, context):
    if request == b"late":
        yield b"one"
        yield b"two"
    context.abort(grpc.StatusCode.NOT_FOUND, "not here, über alles")


def noted(context, name):
    # Without a deadline that is nothing, or centuries.
    remaining = context.time_remaining()
    remaining = None if remaining is None or remaining > 1e6 else remaining
    over = threading.Event()

    def end():
        given_up.append(f"{name} {'-' if remaining is None else round(remaining, 1)}")
        over.set()

    if not context.add_callback(end):
        end()
    return over


def slow(request, context):
    noted(context, "Slow").wait(60)
    return b"late"


def endless(request, context):
    over = noted(context, "Endless")
    while not over.is_set():
        yield b"more"
        time.sleep(0.01)


def noticed(request, context):
    return "\n".join(given_up).encode()


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
    "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Fail": grpc.unary_stream_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "GivenUp": grpc.unary_unary_rpc_method_handler(noticed),
}


def main(address, port):
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=64), options=[("grpc.max_receive_message_length", -1)]
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("interop.Test", HANDLERS)])
    server.add_insecure_port(f"{address}:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
