"""Exception handlers that answer with RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from artstore.errors import (
    BY_STATUS,
    PROBLEM_JSON,
    ArtStoreError,
    InternalError,
    InvalidFields,
    Malformed,
    MethodNotAllowed,
    fault_text,
)
from artstore.logs import request_id

MAX_FIELDS_NAMED = 20
CODE = "error_code"
"""Key in the request's state: the code of the problem that answers it."""


class AllowedMethods:
    """The methods of each resource, from the application's routes as "METHOD /path/{with}/parameters"."""

    def __init__(self, endpoints: Iterable[str] = ()) -> None:
        split = [name.partition(" ") for name in endpoints]
        found = [(path, compile_path(path)[0], method) for method, _, path in split]
        self._found = [*found, *((path, pattern, "HEAD") for path, pattern, method in found if method == "GET")]

    def of(self, path: str) -> list[str]:
        """Sorted; empty for an unknown path. A fixed path goes before the patterns that match it."""
        allowed = {method for name, _, method in self._found if name == path}
        return sorted(allowed or {method for _, pattern, method in self._found if pattern.fullmatch(path)})

    def find_refusal(self, method: str, path: str) -> MethodNotAllowed | None:
        """The error for a known path that lacks this method."""
        allowed = self.of(path)
        return MethodNotAllowed(allow=", ".join(allowed)) if allowed and method not in allowed else None


def install_problem_handlers(app: FastAPI, allowed: AllowedMethods | None = None) -> None:
    app.add_exception_handler(ArtStoreError, _answer_own)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, partial(_answer_http, allowed or AllowedMethods()))
    app.add_exception_handler(ClientDisconnect, _answer_disconnect)
    app.add_exception_handler(RecursionError, _answer_recursion)


class ProblemResponse(Response):
    """Leaves the error's code in the state of the request that it answers, for the log."""

    code = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"][CODE] = self.code
        await super().__call__(scope, receive, send)


def problem_response(error: ArtStoreError) -> Response:
    """The error as a response, with the id of the current request."""
    body = error.to_wire(request_id.get())
    problem = ProblemResponse(body, error.status, headers=error.headers(), media_type=PROBLEM_JSON)
    problem.code = error.code
    return problem


async def _answer_own(_request: Request, error: Exception) -> Response:
    return problem_response(cast(ArtStoreError, error))


async def _answer_validation(_request: Request, error: Exception) -> Response:
    problems = cast(RequestValidationError, error).errors()
    if any(problem["type"] == "json_invalid" for problem in problems):
        return problem_response(Malformed("the body is not JSON"))
    fields = [".".join(str(part) for part in problem["loc"][1:]) or "body" for problem in problems]
    detail = "; ".join(map(fault_text, fields, problems))
    return problem_response(InvalidFields(detail[:1000], fields=fields[:MAX_FIELDS_NAMED]))


async def _answer_http(allowed: AllowedMethods, request: Request, error: Exception) -> Response:
    raised = cast(HTTPException, error)
    known = BY_STATUS.get(raised.status_code, Malformed if raised.status_code < 500 else InternalError)
    if known is not MethodNotAllowed:
        return problem_response(known())
    # Starlette names the methods of one route only; RFC 9110 §10.2.1 wants those of the resource
    own = (raised.headers or {}).get("Allow", "")
    return problem_response(MethodNotAllowed(allow=", ".join(allowed.of(request.url.path)) or own))


async def _answer_disconnect(_request: Request, _error: Exception) -> Response:
    return problem_response(was_cut_off())


async def _answer_recursion(_request: Request, _error: Exception) -> Response:
    return problem_response(too_deep())


def was_cut_off() -> ArtStoreError:
    return Malformed("the body was cut off")


def too_deep() -> ArtStoreError:
    """The error for RecursionError: only parsers recurse as deeply as their input is nested."""
    return Malformed("the request is nested too deeply")
