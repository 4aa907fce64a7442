"""Which recipients are accepted."""

from __future__ import annotations

import pytest

from actors.smtp import LocalDomains
from actors.smtp.commands import Recipient


def accepts(domains: list[str], domain: str) -> bool:
    return LocalDomains(domains).refusal("", Recipient(f"a@{domain}", domain)) is None


@pytest.mark.parametrize(
    ("domains", "domain", "expected"),
    [
        (["example.org"], "example.org", True),
        (["example.org"], "Example.ORG", True),
        (["EXAMPLE.org"], "example.org", True),
        (["example.org"], "sub.example.org", False),
        (["example.org"], "xexample.org", False),
        (["*"], "anything.example", True),
        (["*"], "[192.0.2.1]", True),
        (["[192.0.2.1]"], "[192.0.2.1]", True),
        ([], "example.org", False),
        (["bücher.example"], "BÜCHER.example", True),
        (["bücher.example"], "xn--bcher-kva.example", True),
        (["xn--bcher-kva.example"], "bücher.example", True),
        (["bücher.example"], "bucher.example", False),
        (["faß.example"], "xn--fa-hia.example", True),
        (["xn--fa-hia.example"], "FAẞ.example", True),
        (["faß.example"], "fass.example", False),
        (["fass.example"], "faß.example", False),
        (["a.example"], "ü" * 70 + ".example", False),
        (["☃.example"], "☃.example", True),
    ],
)
def test_mail_for_a_listed_domain_in_any_of_its_forms_is_accepted(
    domains: list[str], domain: str, expected: bool
) -> None:
    assert accepts(domains, domain) is expected


def test_the_postmaster_without_domain_is_always_there() -> None:
    assert LocalDomains([]).refusal("", Recipient("postmaster", "")) is None
