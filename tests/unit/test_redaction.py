"""What leads to a person goes out of free text, and what people ask for stays."""

import time

import pytest

from models.redaction import redact, redact_request
from schemas.records import Context, Request

CHINESE_ID = "11010519491231002X"  # the example of GB 11643-1999


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to ann.lee+x@mail.example.co.uk please", "write to [email] please"),
        ("邮箱ann@example.com谢谢", "邮箱[email]谢谢"),
        ("我的邮箱是 ann＠example.com", "我的邮箱是 [email]"),
        ("四个人，电话13800138000", "四个人，电话[phone]"),
        ("打我手机 138-0013-8000 订位", "打我手机 [phone] 订位"),
        ("+86 138 0013 8000 火锅", "[phone] 火锅"),
        ("微信同号：１３８００１３８０００", "微信同号：[phone]"),
        ("座机021-62345678", "座机[phone]"),
        ("0755 8234567 附近", "[phone] 附近"),
        ("table for 2, call me at 212 555 0123", "table for 2, call me at [phone]"),
        ("(212) 555-0123 sushi", "[phone] sushi"),
        ("212-555-0123", "[phone]"),
        ("+44 20 7946 0958 near Soho", "[phone] near Soho"),
        ("whatsapp +1 (415) 555-0132.", "whatsapp [phone]."),
        (f"身份证号是{CHINESE_ID}", "身份证号是[id number]"),
        (f"实名 {CHINESE_ID.lower()} 入住", "实名 [id number] 入住"),
        ("实名110105 19491231 002X入住", "实名[id number]入住"),
        ("身份证 110105491231002", "身份证 [id number]"),  # the old form, without a check digit
        ("my SSN is 078-05-1120", "my SSN is [id number]"),
        ("078-05-1120", "[id number]"),
        ("ssn 078051120", "ssn [id number]"),
        ("护照E12345678", "护照[passport]"),
        ("持EA1234567X护照", "持EA1234567X护照"),  # not the form of any
        ("EC1234567 and E12345678", "EC1234567 and [passport]"),
        ("passport no. 310175504", "passport no. [passport]"),
        ("pay with 4111 1111 1111 1111", "pay with [card]"),
        ("卡号6222021234567894", "卡号[card]"),
        ("amex 3782 822463 10005", "amex [card]"),
        ("IBAN GB29 NWBK 6016 1331 9268 19, thanks", "IBAN [iban], thanks"),
        ("DE89370400440532013000", "[iban]"),
        ("BE68 5390 0754 7034 now", "[iban] now"),
        ("电话13800138000，邮箱a@b.cn，人均80", "电话[phone]，邮箱[email]，人均80"),
    ],
)
def test_what_leads_to_a_person_goes(text, redacted):
    assert redact(text) == redacted
    assert redact(redacted) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "安静一点的川菜，人均80",
        "人均100到150元，4个人，晚上7点半",
        "人均 100-150，1000米以内，评分4.5以上",
        "2026年1月2日 19:30 两位",
        "2026-01-02 19:30 or 20260102193000",
        "between 2026-01-02 and 2026-01-09, 3 nights, budget 1,200-1,500 EUR",
        "预算12000元，12345678元也行",
        "near 31.2304,121.4737",
        "coordinates 40.712776, -74.005974 within 2000 m",
        "121.473701234567890",
        "南京西路1266号恒隆广场5楼501室",
        "200031 上海市徐汇区淮海中路1333弄12号",
        "350 5th Ave, New York, NY 10118-0110",
        "zip 94103-1234, 2 adults 3 kids ages 4 6 9",
        "open 24/7, 10:00-22:00, 11:30-14:00",
        "top 100 of 2024-2025, 5 stars, 4.75 rating",
        "hotel 2000 3000 4000",
        "budget 500 600 2000 per night for 10 people",
        "iPhone 15 Pro Max 256GB under 8999",
        "flight MU5101 at 08:00, room 1808, gate 21",
        "epoch 1767353400000",
        "1/2 price, 50% off, 3.8折",
        "order 100000000000000",
        "ISBN 978-7-111-12345-6",
        "meet me @ the bar, at 8",
        "110105194912310021",  # a resident id's form with a wrong check digit
        "4111 1111 1111 1112",  # a card's form with a wrong check digit
        "GB29 NWBK 6016 1331 9268 18",
        "+5 people, 00:30",
    ],
)
def test_what_people_ask_for_stays(text):
    assert redact(text) == text


def test_a_request_is_redacted_with_its_context():
    request = Request(
        request_id="r", domain="restaurant", text="电话13800138000",
        context=Context(fields={"note": "a@b.cn", "tags": ["a@b.cn", "靠窗"], "party_size": 2.0}),
    )  # fmt: skip
    redacted = redact_request(request)
    assert redacted.text == "电话[phone]"
    assert redacted.context.fields == {"note": "[email]", "tags": ["[email]", "靠窗"], "party_size": 2.0}
    assert redact_request(Request(request_id="r", domain="d", text="川菜")).text == "川菜"


@pytest.mark.parametrize(
    "text", ["1" * 4000, "1 " * 2000, "a@" * 2000, "1-" * 2000, "ab12 " * 800, "a." * 2000, "+1(" * 1333]
)
def test_no_text_takes_long(text):
    started = time.process_time()
    redact(text)
    assert time.process_time() - started < 0.5
