"""TLS in front of a gearmand, as stunnel does it: Debian's gearmand takes --ssl, says that it does TLS, and speaks plain.

Usage: tls_front.py PORT UPSTREAM CERTIFICATE KEY [CA]     (CA: whoever connects shows a certificate of its own)
"""

import asyncio
import ssl
import sys


async def carry(reader, writer) -> None:
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main(port: str, upstream: str, certificate: str, key: str, authority: str = "") -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority or None)
    context.load_cert_chain(certificate, key)
    if authority:
        context.verify_mode = ssl.CERT_REQUIRED

    async def accept(reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", int(upstream))
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(carry(reader, up_writer), carry(up_reader, writer))
    server = await asyncio.start_server(accept, "127.0.0.1", int(port), ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
