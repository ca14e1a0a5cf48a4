"""The copy of the public keys in Redis, signed by a key that verifiers know already (RFC 7515): who can write to Redis can
otherwise make every service believe his own key as soon as admin is away."""

from __future__ import annotations

from collections.abc import Mapping

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from jwt.api_jws import PyJWS

from artstore.contracts.tokens import ALGORITHM

TYPE = "artstore-jwks"
"""No access token passes for a copy, and no copy for a token."""
_JWS = PyJWS(algorithms=[ALGORITHM])


def sign_jwks(document: bytes, kid: str, key: RSAPrivateKey) -> bytes:
    return _JWS.encode(document, key, ALGORITHM, {"kid": kid, "typ": TYPE}).encode()


def open_jwks(signed: bytes, known: Mapping[str, RSAPublicKey]) -> bytes:
    """The document. Raises ValueError unless one of the `known` keys has signed it; who knows none yet has to believe it."""
    try:
        header = jwt.get_unverified_header(signed)
        if header.get("typ") != TYPE:
            raise ValueError("it is not a copy of the keys")
        key = known.get(str(header.get("kid")))
        if known and key is None:
            raise ValueError("it is not signed by a known key")
        options = {"verify_signature": key is not None}
        document: bytes = _JWS.decode(signed, key or "", algorithms=[ALGORITHM], options=options)  # type: ignore[arg-type]
    except jwt.PyJWTError as error:
        raise ValueError("the signature does not match its key id") from error
    return document
