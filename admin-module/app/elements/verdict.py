"""Whether the registry takes a report from this root and process. Pure.

A root has a random id and counts its starts (`incarnation`), so a disk that is not mounted shows as no root, another disk as
another root, and a copied root as a second process with the same id. The registry remembers the root it accepted last. It
accepts another one only by an operator's word.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from artstore.contracts.elements import ElementReport, Mode
from artstore.modes import ROW

VACANT = ""
"""`root_id` of an element that may make a root: registered in advance, or accepted by an operator without one."""


class Verdict(enum.Enum):
    ACCEPTED = "accepted"
    MAKE_ROOT = "make_root"
    """The element has no root yet and may make one."""
    ROOT_REFUSED = "root_refused"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class KnownRoot:
    """The registry's row. `root_id` None: the element last reported from a version without root ids."""

    root_id: str | None
    incarnation: int
    instance: str
    """Empty after accept-root: the next process of this root is taken."""


@dataclass(frozen=True, slots=True)
class Judged:
    verdict: Verdict
    reason: str = ""


def judge(known: KnownRoot | None, report: ElementReport, serving_instance: str | None = None) -> Judged:
    """`serving_instance`: the process that serves at the registry's URL, asked when the report came from another URL."""
    if report.root_id == "":
        return _without_root(known)
    if known is None or known.root_id is None:
        return _fenced("this root was refused before") if report.fenced else Judged(Verdict.ACCEPTED)
    if report.root_id is None:
        if known.root_id == VACANT:
            return Judged(Verdict.ACCEPTED)
        return Judged(Verdict.ROOT_REFUSED, "the report names no root, but the registry knows one for this element")
    if known.root_id == VACANT:
        return _fenced("this root was refused before") if report.fenced else Judged(Verdict.ACCEPTED)
    if report.root_id != known.root_id:
        return Judged(Verdict.ROOT_REFUSED, "the registry knows another root for this element")
    return _same_root(known, report, serving_instance)


def mode_to_keep(known: Mode | None, report: ElementReport) -> Mode:
    """A mode goes further back only when the operator's configuration forces it."""
    if known is None or report.mode_forced or ROW.index(report.mode) >= ROW.index(known):
        return report.mode
    return known


def _without_root(known: KnownRoot | None) -> Judged:
    if known is None or known.root_id == VACANT:
        return Judged(Verdict.MAKE_ROOT)
    return Judged(Verdict.ROOT_REFUSED, "there is no root at STORAGE_ROOT, but the registry knows one: is it mounted?")


def _same_root(known: KnownRoot, report: ElementReport, serving_instance: str | None) -> Judged:
    same_process = report.instance == known.instance
    if report.incarnation < known.incarnation:
        return _fenced(f"incarnation {report.incarnation} of this root is older than {known.incarnation}")
    if report.incarnation == known.incarnation:
        if same_process or not known.instance:
            return Judged(Verdict.ACCEPTED)
        return _fenced(f"another process has incarnation {known.incarnation} of this root")
    if report.fenced:
        return _fenced("this root was refused before")
    if known.instance and serving_instance == known.instance:
        return _fenced("another process with this identity is serving: this root is a copy")
    return Judged(Verdict.ACCEPTED)


def _fenced(reason: str) -> Judged:
    return Judged(Verdict.FENCED, reason)
