"""Host names in the form that goes over the wire: A-labels (RFC 5890) in small letters.

It is IDNA 2008, with the mapping of UTS 46. Python's own codec has IDNA 2003, for which ``faß.de`` is
``fass.de``: another host today, with another owner.
"""

from __future__ import annotations

import re

import idna

from theater_tcp.errors import InvalidArgument

__all__ = ["DOTS", "ascii_name"]

DOTS = re.compile("[.\u3002\uff0e\uff61]")
"""What separates labels (RFC 3490, 3.1)."""


def ascii_name(name: str) -> str:
    """The form of a name that is all ASCII. Whether it is a host name is not looked at.

    Args:
        name: labels in ASCII, which may have an underscore or be a pattern's ``*``, and U-labels, in any case.

    Raises:
        InvalidArgument: a label has no such form.
    """
    return name.lower() if name.isascii() else ".".join(map(_ascii_label, DOTS.split(name)))


def _ascii_label(label: str) -> str:
    if label.isascii():
        return label.lower()
    try:
        return idna.alabel(idna.uts46_remap(label)).decode("ascii")
    except UnicodeError:
        raise InvalidArgument("can't be encoded (IDNA 2008)") from None
