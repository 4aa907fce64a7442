"""Host names in the form that goes over the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theater_tcp.errors import InvalidArgument
from theater_tcp.host_names import ascii_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", ""),
        ("MX.Example.ORG.", "mx.example.org."),
        ("Bücher.EXAMPLE", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("bücher\u3002example\uff0eorg\uff61", "xn--bcher-kva.example.org."),
        ("日本語.jp", "xn--wgv71a119e.jp"),
        ("_dmarc.bücher.example", "_dmarc.xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("\uff4dx.example", "mx.example"),
        ("XN--FA-HIA.bücher", "xn--fa-hia.xn--bcher-kva"),
    ],
)
def test_a_name_gets_its_ascii_form_in_small_letters(name: str, expected: str) -> None:
    assert ascii_name(name) == expected


@pytest.mark.parametrize(
    ("name", "expected", "another"),
    [
        ("faß.example", "xn--fa-hia.example", "fass.example"),
        ("FAẞ.example", "xn--fa-hia.example", "fass.example"),
        ("βόλος.example", "xn--nxasmm1c.example", "βόλοσ.example"),
        ("\u0627\u0645\u0647\u200c\u0627.example", "xn--mgba3gi9904a.example", "\u0627\u0645\u0647\u0627.example"),
        ("ශ\u0dca\u200dර\u0dd3.example", "xn--10cl1a0b660p.example", "ශ\u0dcaර\u0dd3.example"),
    ],
    ids=["sharp s", "capital sharp s", "final sigma", "ZWNJ", "ZWJ"],
)
def test_what_idna_2003_took_for_another_name_is_a_name_of_its_own(name: str, expected: str, another: str) -> None:
    assert ascii_name(name) == expected
    assert ascii_name(another) != expected


@pytest.mark.parametrize(
    "name",
    [
        "☃.example",
        "ü" * 64 + ".example",
        "-ü.example",
        "ab--ü.example",
        "ü_x.example",
        "ü:25",
        "\uff0a.example",
        "a\u2024b.example",
        "a\u200cb.example",
        "\u00ad.example",
        "\u0308a.example",
        "\ud800.example",
        "אa.example",
    ],
    ids=ascii,
)
def test_a_name_that_has_no_ascii_form_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ascii_name(name)
    assert caught.value.detail == "can't be encoded (IDNA 2008)"


@given(st.text(max_size=80))
def test_any_text_is_encoded_once_and_for_all_or_refused(name: str) -> None:
    try:
        encoded = ascii_name(name)
    except InvalidArgument:
        assert not name.isascii()
        return
    assert encoded.isascii()
    assert ascii_name(encoded) == encoded
