"""A gRPC client (the `grpcio` package) in front of the gateway, with grpc_server.py behind it.

usage: grpc_client.py ADDRESS:PORT

Ends with 0 only if every call went as it would without a gateway; prints what was seen.
"""

import os
import queue
import sys
import time

import grpc

PATIENCE = 20


class Calls:
    def __init__(self, target):
        self.channel = grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)])

    def unary(self, name):
        return self.channel.unary_unary(f"/interop.Test/{name}")

    def client_stream(self, name):
        return self.channel.stream_unary(f"/interop.Test/{name}")

    def server_stream(self, name):
        return self.channel.unary_stream(f"/interop.Test/{name}")

    def both(self, name):
        return self.channel.stream_stream(f"/interop.Test/{name}")


def expect(what, found, wanted):
    if found != wanted:
        raise AssertionError(f"{what}: {found!r} instead of {wanted!r}")


def fails_with(what, code, call):
    try:
        call()
    except grpc.RpcError as error:
        expect(what, error.code(), code)
        return error
    raise AssertionError(f"{what}: no error")


def unary(calls):
    metadata = [("x-echo", "one, two"), ("x-echo-bin", b"\x00\xff")]
    answer, call = calls.unary("Unary").with_call(b"hello", metadata=metadata, timeout=PATIENCE)
    expect("a unary call", answer, b"hello")
    expect("trailers", sorted(call.trailing_metadata()), sorted(metadata))
    expect("an empty message", calls.unary("Unary")(b"", timeout=PATIENCE), b"")
    large = os.urandom(3 << 20)
    expect("a large message", calls.unary("Unary")(large, timeout=PATIENCE) == large, True)
    pending = [calls.unary("Unary").future(str(number).encode(), timeout=PATIENCE) for number in range(300)]
    expect("300 at once", [call.result() for call in pending], [str(number).encode() for number in range(300)])


def streams(calls):
    sent = (b"x" * number for number in range(500))
    expect("a stream to the server", calls.client_stream("ClientStream")(sent, timeout=PATIENCE), b"500 124750")
    received = list(calls.server_stream("ServerStream")(b"500", timeout=PATIENCE))
    expect("a stream from the server", received, [f"message {number}".encode() for number in range(500)])
    expect("an empty stream", list(calls.server_stream("ServerStream")(b"0", timeout=PATIENCE)), [])


def talk(calls):
    """Each message waits for the answer to the one before: nothing may be held back."""
    messages = queue.Queue()
    answers = calls.both("Talk")(iter(messages.get, None), timeout=PATIENCE)
    for number in range(100):
        messages.put(f"{number}".encode())
        expect("an answer in a conversation", next(answers), f"{number}".encode())
    time.sleep(0.7)
    messages.put(b"after a pause")
    expect("an answer after a pause", next(answers), b"after a pause")
    messages.put(None)
    expect("the end of a conversation", list(answers), [])


def errors(calls):
    error = fails_with("an early end", grpc.StatusCode.NOT_FOUND, lambda: list(calls.server_stream("Fail")(b"")))
    expect("details", error.details(), "not here, über alles")
    received = []

    def late():
        for message in calls.server_stream("Fail")(b"late", timeout=PATIENCE):
            received.append(message)

    fails_with("a late end", grpc.StatusCode.NOT_FOUND, late)
    expect("messages before it", received, [b"one", b"two"])
    fails_with("no such method", grpc.StatusCode.UNIMPLEMENTED, lambda: calls.unary("Nothing")(b"", timeout=PATIENCE))


def until_given_up(calls, wanted):
    until = time.monotonic() + PATIENCE
    while wanted not in calls.unary("GivenUp")(b"", timeout=PATIENCE).decode().split("\n"):
        if time.monotonic() > until:
            raise AssertionError(f"the server did not notice: {wanted}")
        time.sleep(0.02)


def given_up(calls):
    fails_with("a deadline", grpc.StatusCode.DEADLINE_EXCEEDED, lambda: calls.unary("Slow")(b"", timeout=0.4))
    until_given_up(calls, "Slow 0.4")
    call = calls.unary("Slow").future(b"")
    time.sleep(0.1)
    call.cancel()
    until_given_up(calls, "Slow -")
    stream = calls.server_stream("Endless")(b"")
    expect("an endless stream", [next(stream), next(stream)], [b"more", b"more"])
    stream.cancel()
    until_given_up(calls, "Endless -")


def main(target):
    calls = Calls(target)
    for part in (unary, streams, talk, errors, given_up):
        part(calls)
    print("unary, streams, conversations, errors, deadlines, cancellation")


if __name__ == "__main__":
    main(*sys.argv[1:])
