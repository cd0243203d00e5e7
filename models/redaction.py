"""Free text without what names or reaches a person: phone numbers, e-mail addresses, numbers of documents and cards.

Each find becomes a word in brackets, such as ``[phone]``. What people say about prices, times, dates, places and house
numbers must stay, as it is what they ask for: so a number only goes if its form says what it is, and where the form is
a common one, its check digit too (Luhn for cards, ISO 7064 for Chinese resident ids and IBANs) or a word before it.

Pure text in, text out; a few microseconds where no digit and no "@" is in the text.
"""

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import msgspec

from schemas.records import Request

MAX_TEXT = 4_000  # of a request's words
_ID, _PHONE, _CARD = "[id number]", "[phone]", "[card]"

_FULL_WIDTH = str.maketrans("０１２３４５６７８９＠＋－．（）", "0123456789@+-.()")
_FEWEST_DIGITS = 6
_IS = r"\s*(?:no\.?|number|号码?|#)?\s*(?:is|[:：是为])?\s*"  # between what a number is and the number
_BEFORE, _AFTER = r"(?<![A-Za-z0-9])", r"(?![A-Za-z0-9])"
_RESIDENT_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999


def redact(text: str) -> str:
    """Return the text with a word in brackets for each address or number that leads to a person."""
    plain = text.translate(_FULL_WIDTH)
    if "@" not in plain and sum(character.isdigit() for character in plain) < _FEWEST_DIGITS:
        return text
    redacted = plain
    for pattern, word, is_one in _KINDS:
        redacted = pattern.sub(_replacement(word, is_one), redacted)
    return text if redacted == plain else redacted


def redact_attributes(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a map of attributes with its texts redacted."""
    return {
        name: redact(value)
        if isinstance(value, str)
        else [redact(label) for label in value]
        if isinstance(value, list)
        else value
        for name, value in fields.items()
    }


def redact_request(request: Request) -> Request:
    """Return a request with its words, and those in its context's fields, redacted."""
    context = request.context
    if context is not None:
        context = msgspec.structs.replace(context, fields=redact_attributes(context.fields))
    return msgspec.structs.replace(request, text=redact(request.text)[:MAX_TEXT], context=context)


def _replacement(word: str, is_one: Callable[[str], bool] | None) -> Callable[[re.Match[str]], str]:
    def replace(found: re.Match[str]) -> str:
        said = found.groupdict().get("said") or ""  # the words that say what the number is stay
        return f"{said}{word}" if is_one is None or is_one(found[0]) else found[0]

    return replace


def _is_resident_id(found: str) -> bool:
    """Tell whether a Chinese resident id's date is one and its check digit is right (ISO 7064 MOD 11-2)."""
    digits = re.sub("[ -]", "", found).upper()
    try:
        date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_RESIDENT_WEIGHTS, digits[:17], strict=True))
    return "10X98765432"[total % 11] == digits[17]


def _is_card(found: str) -> bool:
    """Tell whether a card number's check digit is right (ISO/IEC 7812, Luhn)."""
    digits = [int(digit) for digit in found if digit.isdigit()][::-1]
    doubled = (2 * digit - 9 * (digit > 4) for digit in digits[1::2])
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0


def _is_iban(found: str) -> bool:
    """Tell whether an account number's check digits are right (ISO 13616, MOD 97-10)."""
    compact = re.sub("[ -]", "", found).upper()
    return int("".join(str(int(sign, 36)) for sign in compact[4:] + compact[:4])) % 97 == 1


def _has_digits(found: str) -> bool:
    """Tell whether a number with a country code is as long as one (ITU-T E.164)."""
    return 8 <= sum(sign.isdigit() for sign in found) <= 17


_KINDS: tuple[tuple[re.Pattern[str], str, Callable[[str], bool] | None], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), word, is_one)
    for pattern, word, is_one in (
        (r"[a-z0-9._%+-]{1,64}\s?@\s?(?:[a-z0-9-]{1,63}\.){1,4}[a-z]{2,24}", "[email]", None),
        # written in one piece, or in groups of four of which the last may be shorter
        (_BEFORE + r"[a-z]{2}\d{2}[a-z0-9]{11,30}" + _AFTER, "[iban]", _is_iban),
        (_BEFORE + r"[a-z]{2}\d{2}(?:[ -][a-z0-9]{4}){2,7}(?:[ -][a-z0-9]{1,3})?" + _AFTER, "[iban]", _is_iban),
        (_BEFORE + r"[a-z]{2}\d{2}(?:[ -][a-z0-9]{4}){2,7}" + _AFTER, "[iban]", _is_iban),
        (_BEFORE + r"[1-9]\d{5}[ -]?(?:19|20)\d{2}[01]\d[0-3]\d[ -]?\d{3}[\dx]" + _AFTER, _ID, _is_resident_id),
        (r"(?<![\d.])(?:2[2-7]|[3-6]\d)\d{2}(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?P=gap)\d{1,7}(?!\d)",
         _CARD, _is_card),
        (r"(?<![\d.])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?!\d)", _CARD, _is_card),
        (r"(?P<said>(?:身份证|社保|(?<![a-z])(?:ssn|social security|national id|id card|id))" + _IS + ")"
         r"[a-z]{0,2}\d[\d -]{5,18}[\dx]" + _AFTER, _ID, None),
        (r"(?<![\d.,:/-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])", _ID, None),  # US social security
        (r"(?P<said>(?:护照|通行证|(?<![a-z])passport)" + _IS + r")[a-z]{0,3}\d{6,9}[a-z]?" + _AFTER,
         "[passport]", None),
        (_BEFORE + r"[edgsphm][a-hj-np-z]?\d{8}" + _AFTER, "[passport]", None),  # Chinese, and of Hong Kong and Macau
        (r"(?P<said>(?:电话|手机|微信|(?<![a-z])(?:call me (?:at|on)|(?:tele)?phone|mobile|whatsapp|tel\.?))"
         + _IS + r")\+?\(?\d(?:[ ().-]{0,2}\d){6,14}(?!\d)", _PHONE, None),
        (r"(?<![\d.])(?:(?:\+|00)?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?!\d)", _PHONE, None),  # mobile in China
        (r"(?<![\d.])0(?:10|2\d)[ -]?[2-9]\d{7}(?!\d)", _PHONE, None),  # large cities in China
        (r"(?<![\d.])0[3-9]\d{2}[ -]?[2-9]\d{6,7}(?!\d)", _PHONE, None),  # other places there
        (r"(?<![\w.])(?:\+|00)[1-9]\d{0,2}(?:[ .-]?\(?\d{1,5}\)?){2,6}(?!\d)", _PHONE, _has_digits),
        (r"(?<![\d.-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?[2-9]\d{2}|[2-9]\d{2}[.-][2-9]\d{2})[ .-]\d{4}(?![\d-])",
         _PHONE, None),  # North America
    )
)  # fmt: skip
