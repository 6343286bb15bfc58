"""Requests as bytes: malformed ones, ones that two servers may read in two ways, and odd good ones.

Each that is refused is written so that it would ask the engine something if it were taken.
"""

from __future__ import annotations

BODY = b'{"model": "one", "messages": [{"role": "user", "content": "raw"}], "max_tokens": 20}'
LENGTH = b"%d" % len(BODY)
PATH = b"/v1/chat/completions"
START = b"POST " + PATH + b" HTTP/1.1\r\n"
HOST = b"Host: x\r\n"
CL = b"Content-Length: " + LENGTH + b"\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
SIZE = b"%x" % len(BODY)
CHUNKED = SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n"


def plain(headers: bytes, start: bytes = START + HOST) -> bytes:
    """With a body of the usual length; ``headers`` end with their line ends."""
    return start + headers + b"\r\n" + BODY


def chunked(body: bytes, headers: bytes = TE) -> bytes:
    return START + HOST + headers + b"\r\n" + body


def get(target: bytes, headers: bytes = HOST) -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + headers + b"\r\n"


REFUSED = {
    # Where a body ends
    "length and chunked": chunked(CHUNKED, CL + TE),
    "chunked and length": chunked(CHUNKED, TE + CL),
    "two lengths": plain(CL + b"Content-Length: 5\r\n"),
    "the same length twice": plain(CL + CL),
    "a list of lengths": plain(b"Content-Length: " + LENGTH + b", " + LENGTH + b"\r\n"),
    "length with a sign": plain(b"Content-Length: +" + LENGTH + b"\r\n"),
    "negative length": plain(b"Content-Length: -1\r\n"),
    "hexadecimal length": plain(b"Content-Length: 0x" + SIZE + b"\r\n"),
    "no length": plain(b"Content-Length: \r\n"),
    "length with a blank inside": plain(b"Content-Length: 8 4\r\n"),
    "length beyond 64 bits": plain(b"Content-Length: 99999999999999999999\r\n"),
    "blank before the colon": plain(b"Content-Length : " + LENGTH + b"\r\n"),
    "xchunked": chunked(CHUNKED, b"Transfer-Encoding: xchunked\r\n"),
    "identity": plain(b"Transfer-Encoding: identity\r\n"),
    "gzip, chunked": chunked(CHUNKED, b"Transfer-Encoding: gzip, chunked\r\n"),
    "chunked, identity": chunked(CHUNKED, b"Transfer-Encoding: chunked, identity\r\n"),
    "chunked twice": chunked(CHUNKED, TE + TE),
    "chunked after a vertical tab": chunked(CHUNKED, b"Transfer-Encoding: \x0bchunked\r\n"),
    "chunked in quotes": chunked(CHUNKED, b'Transfer-Encoding: "chunked"\r\n'),
    "empty coding and length": plain(b"Transfer-Encoding:\r\n" + CL),
    "chunked in HTTP/1.0": b"POST " + PATH + b" HTTP/1.0\r\n" + TE + b"\r\n" + CHUNKED,
    # Chunks
    "negative chunk": chunked(b"-" + CHUNKED),
    "chunk size with 0x": chunked(b"0x" + CHUNKED),
    "blank before a chunk size": chunked(b" " + CHUNKED),
    "blank after a chunk size": chunked(SIZE + b" \r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk beyond 64 bits": chunked(b"f" * 17 + b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "no chunk size": chunked(b"\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk longer than its size": chunked(b"5\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunks with LF": chunked(CHUNKED.replace(b"\r\n", b"\n")),
    "NUL in a chunk extension": chunked(SIZE + b";a\0\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "LF in a chunk extension": chunked(SIZE + b";a\n" + BODY + b"\r\n0\r\n\r\n"),
    "trailer without a colon": chunked(SIZE + b"\r\n" + BODY + b"\r\n0\r\nbad\r\n\r\n"),
    # Lines
    "LF only": plain(CL).replace(b"\r\n", b"\n"),
    "LF after the start": plain(CL, START.replace(b"\r", b"") + HOST),
    "LF after a header": plain(b"A: b\n" + CL),
    "LF at the end of the head": START + HOST + CL + b"\n" + BODY,
    "CR only": plain(b"A: b\r" + CL),
    "CR inside a value": plain(b"A: b\rc\r\n" + CL),
    "folded header": plain(b"A: b\r\n c\r\n" + CL),
    "header folded with a tab": plain(b"A: b\r\n\tc\r\n" + CL),
    "folded coding": chunked(CHUNKED, b"Transfer-Encoding:\r\n chunked\r\n"),
    "blank before the first header": plain(CL, START + b" " + HOST),
    "NUL in a value": plain(b"A: b\0c\r\n" + CL),
    "NUL in a name": plain(b"A\0: b\r\n" + CL),
    "control character in a value": plain(b"A: b\x01c\r\n" + CL),
    "blank in a name": plain(b"A b: c\r\n" + CL),
    "no name": plain(b": c\r\n" + CL),
    "no colon": plain(b"Abc\r\n" + CL),
    "a name beyond ASCII": plain(b"\xc3\xa9: c\r\n" + CL),
    # Hosts
    "no host": plain(CL, START),
    "two hosts": plain(b"Host: y\r\n" + CL),
    "empty host": plain(b"Host: \r\n" + CL, START),
    "a path in the host": plain(b"Host: a/v1?\r\n" + CL, START),
    "a user in the host": plain(b"Host: x@evil\r\n" + CL, START),
    "a list of hosts": plain(b"Host: x, evil\r\n" + CL, START),
    # Targets and versions
    "user instead of a path": get(b"@evil/v1/models"),
    "whole URL": get(b"http://evil/v1/models"),
    "whole URL to be posted to": plain(CL, b"POST http://x" + PATH + b" HTTP/1.1\r\n" + HOST),
    "URL of a host only": get(b"http://evil"),
    "star": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT evil:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": get(b"/v1/models#x"),
    "NUL in the target": get(b"/v1/models\0"),
    "target beyond ASCII": get("/v1/é".encode()),
    "blank in the target": get(b"/v1/models x"),
    "relative target": get(b"v1/models"),
    "backslash target": get(b"\\v1\\models"),
    "HTTP/2.0": plain(CL, START.replace(b"1.1", b"2.0") + HOST),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": plain(CL, START.replace(b"1.1", b"0.9") + HOST),
    "HTTP/1.9": plain(CL, START.replace(b"1.1", b"1.9") + HOST),
    "no version": b"GET /v1/models\r\n\r\n",
    "small letters": get(b"/v1/models").replace(b"GET", b"get"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32,
    "zeros": b"\0" * 64,
}
"""By what is wrong with them: 400, and the end of the connection."""

TAKEN = {
    "chunked": chunked(CHUNKED),
    "in large letters": chunked(CHUNKED, TE.upper()),
    "one chunk a byte": chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"),
    "small chunk extension": chunked(SIZE + b";a=b\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "trailer": chunked(SIZE + b"\r\n" + BODY + b"\r\n0\r\nHost: evil\r\n\r\n"),
    "empty lines first": b"\r\n\r\n" + plain(CL),
    "HTTP/1.0 without a host": b"POST " + PATH + b" HTTP/1.0\r\n" + CL + b"\r\n" + BODY,
    "IPv6 host": plain(b"Host: [::1]:7860\r\n" + CL, START),
    "99 headers": plain(b"".join(b"X-%d: y\r\n" % n for n in range(97)) + CL),
    "60 KB of headers": plain(b"Cookie: " + b"c" * 60_000 + b"\r\n" + CL),
}
"""Odd, but what they ask is clear: the engine's answer."""

NOT_OFFERED = [
    b"//evil/v1/models",
    b"/v1/models/../../invocations",
    b"/api/v1/%2e%2e/invocations",
    b"/v1/%2fmodels",
    b"/v1/models;x",
    b"/v1/models%00",
    b"/v1/models%20",
    b"/v1/@evil",
    b"/v1/http://evil/",
    b"/v1/chat/completions/",
    b"/v1/Models",
]
"""Targets that are a path, but none of the API's: 404."""
