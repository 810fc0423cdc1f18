"""QUIC whose clients' UDP ports change: quic.py PORT,PORT ADDRESS…

Serves at each of the ports, opens connections through each of the addresses (a switch that has both
servers), has their NAT forget them, and prints how many of each address's go on, as a list in JSON.
"""

import asyncio
import datetime
import json
import socket
import ssl
import sys

from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CONNECTIONS = 30
PROTOCOL = "echo"
# Long enough for a busy machine, and for a server that asks a client at its new address whether it is there.
PATIENCE = 15
ports, *addresses = sys.argv[1:]


def identity():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
    return builder.sign(key, hashes.SHA256()), key


def echo(reader, writer):
    async def answer():
        writer.write(await reader.read())
        writer.write_eof()

    asyncio.ensure_future(answer())


async def says_back(client, text):
    reader, writer = await client.create_stream()
    writer.write(text)
    writer.write_eof()
    return await asyncio.wait_for(reader.read(), PATIENCE) == text


async def come_from_elsewhere(client):
    """The same connection from another UDP port, as behind a NAT that forgot it."""
    before = client._transport
    place = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    place.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    place.bind(("::", 0))
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: client, sock=place)
    before.close()


async def goes_on(address):
    host, port = address.rsplit(":", 1)
    configuration = QuicConfiguration(is_client=True, alpn_protocols=[PROTOCOL], verify_mode=ssl.CERT_NONE)
    async with connect(host, int(port), configuration=configuration) as client:
        assert await says_back(client, b"before"), "no echo"
        await come_from_elsewhere(client)
        try:
            return await says_back(client, b"after")
        except (asyncio.TimeoutError, ConnectionError):
            return False
        finally:
            # A connection that is lost would wait for its server's goodbye.
            client.close()
            client.connection_lost(None)
            client._closed.set()


async def main():
    certificate, key = identity()
    for port in ports.split(","):
        configuration = QuicConfiguration(
            is_client=False, alpn_protocols=[PROTOCOL], certificate=certificate, private_key=key
        )
        await serve("127.0.0.1", int(port), configuration=configuration, stream_handler=echo)
    survivors = []
    for address in addresses:
        survivors.append(sum(await asyncio.gather(*(goes_on(address) for _ in range(CONNECTIONS)))))
    print(json.dumps({"connections": CONNECTIONS, "survivors": survivors}))


asyncio.run(main())
