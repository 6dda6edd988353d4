"""Whom an ARTS transaction names: its customers, the receiver of a Swedish receipt, members and their points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ..errors import TooLarge
from ..limits import MAX_LONG_TEXT
from ..transaction import Customer, Identifier, PointsSaid
from .base import decimal, plain
from .xml import Element

_RECEIVERS: Final[dict[str, Literal["phone", "email", "account"]]] = {
    "TelephoneNumber": "phone",
    "EmailAddress": "email",
    "ServiceID": "account",
}
_MOST_PERSONAL: Final = 50
_MOST_NAMES: Final = 16


@dataclass(slots=True)
class People:
    """Who was found so far."""

    identifiers: list[Identifier] = field(default_factory=list)
    points: dict[str, str] = field(default_factory=dict)

    def loyalty(self, item: Element) -> None:
        """Points given and used, and the member as NCR writes it."""
        for name, path in (("earned", "LoyaltyReward/PointsAwarded"), ("used", "LoyaltyRedemption/PointsRedeemed")):
            points = item.at(path)
            if points is not None and points.text and name not in self.points:
                self.points[name] = plain(decimal(points.take(), points.place))
        number = item.value("acs:LoyaltyMembership/acs:LoyaltyID")
        self._identify("loyalty", number)
        other = item.at("acs:LoyaltyMembership/acs:MembershipID")
        if other is not None and other.text == number:
            other.take()

    def _identify(self, scheme: str, value: str) -> None:
        known = {(one.scheme, one.value) for one in self.identifiers}
        if value and (scheme, value) not in known:
            self.identifiers.append(Identifier(scheme, value))  # type: ignore[arg-type]
        if len(self.identifiers) > _MOST_NAMES:
            raise TooLarge("too many names of one customer", field="RetailTransaction", limit=f"{_MOST_NAMES} names")

    def customer(self, retail: Element) -> Customer | None:
        """The customer of a `RetailTransaction`, once all its lines were read; None where nobody is named."""
        name, personal = "", {}
        for account in retail.all("LoyaltyAccount"):
            self._identify("loyalty", account.value("LoyaltyID", "LoyaltyProgram/LoyaltyID", "LoyaltyCard/CardNumber"))
        for customer in (*retail.all("Customer"), *retail.all("se:Customer")):
            self._person(customer)
            name = name or customer.value("Name/OfficialName", "Name/Name", "Name")
            personal.update({f"{customer.step}/{path}": text for path, text in customer.rest().items()})
        for receiver in retail.all("se:Receiver"):
            if receiver.attributes.get("Type") == "NationalIdentityNumber":
                receiver.attribute("Type")
                personal["NationalIdentityNumber"] = receiver.take()
            else:
                self._receiver(receiver)
        if not (name or personal or self.identifiers or self.points):
            return None
        return Customer(
            identifiers=tuple(self.identifiers),
            name=name or None,
            personal=_bounded(personal) or None,
            points=PointsSaid(**self.points) if self.points else None,
        )

    def _person(self, customer: Element) -> None:
        self._identify("account", customer.value("CustomerID"))
        for one in customer.all("se:Identifier"):
            self._receiver(one)
        for phone in customer.all("TelephoneNumber"):
            country = phone.value("ITUCountryCode")
            parts = (f"+{country}" if country else "", phone.value("AreaCode"), phone.value("LocalNumber"))
            self._identify("phone", " ".join(part for part in parts if part))
        for mail in customer.all("EMail"):
            self._identify("email", mail.value("EMailAddress"))

    def _receiver(self, receiver: Element) -> None:
        """Somebody named by a number whose kind its `Type` says; a kind that we have no word for stays in `ext`."""
        scheme = _RECEIVERS.get(receiver.attributes.get("Type", ""))
        if scheme is not None:
            receiver.attribute("Type")
        self._identify(scheme or "other", receiver.take())


def _bounded(personal: dict[str, Any]) -> dict[str, str]:
    """As many personal texts as the canonical customer holds; what is over stands together in the last."""
    said = {path: str(text) for path, text in personal.items()}
    over = list(said)[_MOST_PERSONAL - 1 :]
    if len(said) <= _MOST_PERSONAL:
        return said
    together = "\n".join(f"{path}: {said.pop(path)}" for path in over)
    return {**said, "…": together[:MAX_LONG_TEXT]}
