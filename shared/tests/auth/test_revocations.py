"""A revocation stays in force, whatever a source says later."""

from __future__ import annotations

import orjson
import pytest

from artstore.auth.keys import RemoteKeys
from artstore.auth.revocations import Revocations
from artstore.auth.tokens import TokenVerifier
from artstore.clock import Clock
from artstore.contracts.tokens import Audience
from artstore.errors import Unauthenticated
from artstore.testing.tokens import Signer


def document(signer: Signer, **revoked: object) -> bytes:
    return orjson.dumps({**orjson.loads(signer.jwks()), "revoked": revoked})


def test_an_account_loses_the_tokens_it_got_until_then_and_no_other() -> None:
    revoked = Revocations()
    revoked.take(orjson.dumps({"revoked": {"accounts": {"a": 100}, "keys": ["k"]}}), 0)
    assert [revoked.covers("x", "a", second) for second in (99, 100, 101)] == [True, True, False]
    assert [revoked.covers("x", "b", 1), revoked.covers("k", "b", 101)] == [False, True]


def test_an_older_copy_gives_nothing_back_and_what_has_expired_is_forgotten() -> None:
    revoked = Revocations()
    revoked.take(orjson.dumps({"revoked": {"accounts": {"a": 100, "b": 50}, "keys": ["k"]}}), 0)
    revoked.take(orjson.dumps({"revoked": {"accounts": {"a": 10}, "keys": []}}), 60)
    assert (revoked.accounts, revoked.keys) == ({"a": 100}, {"k"})


@pytest.mark.parametrize("told", [[], {"accounts": []}, {"accounts": {"a": "x"}}, {"keys": [1]}, {"keys": {}}])
def test_a_malformed_document_takes_nothing_back_and_gives_nothing_back(told: object) -> None:
    revoked = Revocations({"a": 100}, {"k"})
    with pytest.raises(ValueError, match="revocations"):
        revoked.take(orjson.dumps({"revoked": told}), 0)
    assert (revoked.accounts, revoked.keys) == ({"a": 100}, {"k"})


async def test_a_verified_and_cached_token_is_refused_as_soon_as_it_is_taken_back(signer: Signer) -> None:
    documents = [document(signer)]

    async def fetch() -> bytes:
        return documents[-1]

    keys = RemoteKeys([("admin", fetch)], None, Clock())
    verifier = TokenVerifier(keys, Audience.QUERY, Clock())
    token = signer.token()
    principal = await verifier.verify(token)
    documents.append(document(signer, accounts={principal.subject: int(principal.issued_at_s)}))
    await keys.refresh()
    with pytest.raises(Unauthenticated, match="revoked"):
        await verifier.verify(token)


async def test_without_any_source_verifiers_go_on_with_what_they_know(signer: Signer) -> None:
    documents: list[bytes | None] = [document(signer, accounts={"gone": 2**40})]

    async def fetch() -> bytes | None:
        return documents[-1]

    keys = RemoteKeys([("admin", fetch)], None, Clock())
    verifier = TokenVerifier(keys, Audience.QUERY, Clock())
    await verifier.verify(signer.token())
    documents.append(None)
    await keys.refresh()
    await verifier.verify(signer.token())
    with pytest.raises(Unauthenticated):
        await verifier.verify(signer.sign({**signer.claims(), "sub": "gone"}))


async def test_a_revoked_key_verifies_nothing_even_if_an_old_copy_still_lists_it(signer: Signer) -> None:
    other = Signer()
    both = orjson.dumps({"keys": [*orjson.loads(signer.jwks())["keys"], *orjson.loads(other.jwks())["keys"]]})
    documents = [both]

    async def fetch() -> bytes:
        return documents[-1]

    keys = RemoteKeys([("admin", fetch)], None, Clock())
    verifier = TokenVerifier(keys, Audience.QUERY, Clock())
    await verifier.verify(other.token())
    for told in (orjson.dumps({**orjson.loads(both), "revoked": {"keys": [other.kid]}}), both):
        documents.append(told)
        await keys.refresh()
        with pytest.raises(Unauthenticated):
            await verifier.verify(other.token())
        await verifier.verify(signer.token())
