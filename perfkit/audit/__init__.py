"""Do the settings mean what their user thinks?  What they name that is not there, and what cannot work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from perfkit.audit.channels import credential_remarks
from perfkit.audit.known import acknowledgement_remarks, baseline_remarks
from perfkit.audit.limits import blind_remarks, noise_remarks
from perfkit.audit.premises import Premises
from perfkit.audit.remark import Grade, Remark
from perfkit.audit.stored import scenario_remarks, secret_remarks, service_remarks, store_remarks
from perfkit.config import Settings
from perfkit.policy import Policy

__all__ = ["CHECKS", "Audit", "Grade", "Remark", "audit_settings"]

CHECKS = (
    "store",
    "scenario",
    "generator",
    "service",
    "tolerance",
    "blind",
    "baseline",
    "acknowledged",
    "secrets",
    "credentials",
)
_OF_STORE: tuple[Callable[[Premises], Iterable[Remark]], ...] = (
    scenario_remarks,
    service_remarks,
    noise_remarks,
    baseline_remarks,
    acknowledgement_remarks,
    secret_remarks,
)


@dataclass(frozen=True, slots=True)
class Audit:
    """Everything that was looked at, fine things too."""

    remarks: tuple[Remark, ...]

    def of(self, grade: Grade) -> tuple[Remark, ...]:
        """The remarks of one grade, in order."""
        return tuple(remark for remark in self.remarks if remark.grade is grade)

    @property
    def problems(self) -> tuple[Remark, ...]:
        """What is to be done, errors first."""
        return (*self.of(Grade.ERROR), *self.of(Grade.WARN))

    def ok(self, *, strict: bool = False) -> bool:
        """Whether there is no error; ``strict``: no warning either."""
        return not (self.problems if strict else self.of(Grade.ERROR))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"ok": self.ok(), "remarks": [remark.to_dict() for remark in self.remarks]}


def audit_settings(settings: Settings, policy: Policy, store: str, *, skip: Collection[str] = ()) -> Audit:
    """Look at settings, policy and store; ``skip`` names `CHECKS` to leave out.

    Raises
    ------
    ReadError
        A run of the store is broken in a way that its index does not know of.
    """
    return Audit(tuple(remark for remark in _remarks(settings, policy, store) if remark.check not in skip))


def _remarks(settings: Settings, policy: Policy, url: str) -> Iterator[Remark]:
    store, said = store_remarks(url)
    yield from said
    yield from blind_remarks(policy)
    if store is not None:
        premises = Premises(settings, policy, store)
        for look in _OF_STORE:
            yield from look(premises)
    yield from credential_remarks(settings)
