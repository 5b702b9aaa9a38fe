"""The errors of the house, drawn once and mapped once to HTTP and gRPC.

    ProoftrailError
    ├── Invalid          the request breaks a rule of form: field and rule are named        422
    ├── Unauthenticated  nobody, or nobody we can believe, is asking                        401
    ├── Refused          a rule of the domain or a missing role forbids it                  403
    ├── NotFound         no such record, or none that the asker may see                     404
    ├── Conflict         the record is in another state or version than the command needs   409
    ├── StalePrecondition  the If-Match version is not the current one                      412
    └── Unavailable      cannot be answered now, the same request may work later            503

The specific class lives beside the rule that raises it. Its name in kebab case is the stable `reason` that clients branch on;
its message says what happened, `why` says which rule, `next_step` says what to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class FieldError:
    """One broken rule: `field` is a JSON pointer into the request (`/criteria/0/threshold`)."""

    field: str
    rule: str


class ProoftrailError(Exception):
    """Something was asked that does not happen. Nothing was changed."""

    status = 500

    def __init__(self, what: str, *, why: str = "", next_step: str = "", fields: tuple[FieldError, ...] = ()) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step
        self.fields = fields

    @property
    def reason(self) -> str:
        """Stable kebab-case name of the error: `AuthorCannotApprove` is `author-cannot-approve`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", type(self).__name__).lower()


class Invalid(ProoftrailError):
    status = 422


class Unauthenticated(ProoftrailError):
    status = 401


class Refused(ProoftrailError):
    status = 403


class NotFound(ProoftrailError):
    status = 404


class Conflict(ProoftrailError):
    status = 409


class StalePrecondition(ProoftrailError):
    status = 412


class Unavailable(ProoftrailError):
    status = 503
