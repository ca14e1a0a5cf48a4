"""The copy of the JWKS in Redis, signed with a key that verifiers know already (RFC 7515). Without the
signature anybody who can write to Redis could make services accept a key of their own while admin is
unavailable."""

from __future__ import annotations

from collections.abc import Mapping

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from jwt.api_jws import PyJWS

from artstore.contracts.tokens import ALGORITHM

TYPE = "artstore-jwks"
"""The `typ` header, so that an access token is not accepted as a JWKS copy or vice versa."""
_JWS = PyJWS(algorithms=[ALGORITHM])


def sign_jwks(document: bytes, kid: str, key: RSAPrivateKey) -> bytes:
    """The document as a compact JWS."""
    return _JWS.encode(document, key, ALGORITHM, {"kid": kid, "typ": TYPE}).encode()


def verify_jwks(signed: bytes, known: Mapping[str, RSAPublicKey]) -> bytes:
    """The JWKS document. Raises ValueError unless one of the `known` keys has signed it; without any known
    key it is accepted unverified."""
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
