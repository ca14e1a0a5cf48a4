"""Decides whether the registry accepts a report from this root and process. Pure.

A root has a random id and counts its starts (`incarnation`). A disk that is not mounted therefore shows as no
root, a different disk as a different root, and a copied root as a second process with the same id. The
registry remembers the root that it accepted last; a different one needs an operator's accept-root.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from artstore.contracts.elements import ElementReport, Mode
from artstore.modes import ROW

VACANT = ""
"""`root_id` of an element that may create a root: registered in advance, or accepted by an operator without
one."""


class Admission(enum.Enum):
    ACCEPTED = "accepted"
    MAKE_ROOT = "make_root"
    """The element has no root yet and may create one."""
    ROOT_REFUSED = "root_refused"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class KnownRoot:
    """The registry's row. `root_id` is None when the last report came from a version without root ids."""

    root_id: str | None
    incarnation: int
    instance: str
    """Empty after accept-root: the next process of this root is accepted."""


@dataclass(frozen=True, slots=True)
class Decision:
    admission: Admission
    reason: str = ""


def decide_admission(known: KnownRoot | None, report: ElementReport, serving_instance: str | None = None) -> Decision:
    """`serving_instance`: the process at the registered URL, which is asked when the report comes from a
    different URL."""
    if report.root_id == "":
        return _without_root(known)
    if known is None or known.root_id is None:
        return _fenced("this root was refused earlier") if report.fenced else Decision(Admission.ACCEPTED)
    if report.root_id is None:
        if known.root_id == VACANT:
            return Decision(Admission.ACCEPTED)
        return Decision(Admission.ROOT_REFUSED, "the report names no root, but the registry has one for this element")
    if known.root_id == VACANT:
        return _fenced("this root was refused earlier") if report.fenced else Decision(Admission.ACCEPTED)
    if report.root_id != known.root_id:
        return Decision(Admission.ROOT_REFUSED, "the registry has a different root for this element")
    return _same_root(known, report, serving_instance)


def mode_to_keep(known: Mode | None, report: ElementReport) -> Mode:
    """A mode goes back only when the operator's configuration forces it."""
    if known is None or report.mode_forced or ROW.index(report.mode) >= ROW.index(known):
        return report.mode
    return known


def _without_root(known: KnownRoot | None) -> Decision:
    if known is None or known.root_id == VACANT:
        return Decision(Admission.MAKE_ROOT)
    return Decision(
        Admission.ROOT_REFUSED, "STORAGE_ROOT holds no root, but the registry has one: is the disk mounted?"
    )


def _same_root(known: KnownRoot, report: ElementReport, serving_instance: str | None) -> Decision:
    same_process = report.instance == known.instance
    if report.incarnation < known.incarnation:
        return _fenced(f"incarnation {report.incarnation} of this root is older than {known.incarnation}")
    if report.incarnation == known.incarnation:
        if same_process or not known.instance:
            return Decision(Admission.ACCEPTED)
        return _fenced(f"another process has incarnation {known.incarnation} of this root")
    if report.fenced:
        return _fenced("this root was refused earlier")
    if known.instance and serving_instance == known.instance:
        return _fenced("another process with this identity is serving: this root is a copy")
    return Decision(Admission.ACCEPTED)


def _fenced(reason: str) -> Decision:
    return Decision(Admission.FENCED, reason)
