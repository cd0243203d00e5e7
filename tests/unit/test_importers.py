import codecs
import gzip
import shutil
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from models.dataset import read_dataset
from ops.import_command import HELP, import_dataset
from ops.importers import FORMATS, SourceError
from ops.importers.events import SESSION_GAP, TRAIN, Events, leave_one_out, next_event, next_in_session

SAMPLES = Path(__file__).parent.parent / "samples"
SOURCES = [
    ("foursquare", "foursquare/check_ins.txt"),
    ("foursquare", "foursquare/nyc"),
    ("yelp", "yelp"),
    ("movielens", "movielens/latest"),
    ("movielens", "movielens/1m"),
    ("amazon", "amazon/2014/reviews_Beauty_5.json"),
    ("amazon", "amazon/2014-meta"),
    ("amazon", "amazon/2018"),
    ("amazon", "amazon/2023"),
    ("amazon", "amazon/All_Beauty.csv"),
]


def silent(_what, _done, _total):
    pass


def run(name, source, destination):
    FORMATS[name].run(Path(source), destination, silent)
    return read_dataset(destination)


def by_id(dataset):
    return {item.item_id: item for item in dataset.items}


def milliseconds(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def append(path, content):
    with path.open("ab") as file:
        file.write(content)


# All formats


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_every_sample_becomes_a_valid_directory_without_bad_rows(tmp_path, name, source):
    dataset = run(name, SAMPLES / source, tmp_path / "data")
    assert dataset.interactions
    assert dataset.meta.rows_bad == {}
    assert {request.split for request in dataset.requests} == {"valid", "test"}


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_a_request_asks_for_its_label_event_at_that_events_time(tmp_path, name, source):
    dataset = run(name, SAMPLES / source, tmp_path / "data")
    events = {event.event_id: event for event in dataset.interactions}
    for request in dataset.requests:
        label = events[request.label_event_id]
        assert request.relevant == (label.item_id,)
        assert (request.user_id, request.event_time) == (label.user_id, label.event_time)
        assert (request.split, request.session_id) == (label.split, label.session_id)


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_importing_twice_gives_the_same_bytes(tmp_path, name, source):
    for attempt in ("one", "two"):
        run(name, SAMPLES / source, tmp_path / attempt)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_gzipped_sources_give_the_same_data(tmp_path, name, source):
    zipped = tmp_path / "zipped"
    if (SAMPLES / source).is_dir():
        zipped.mkdir()
        pairs = [(file, zipped / f"{file.name}.gz") for file in (SAMPLES / source).iterdir()]
    else:
        zipped = tmp_path / f"{Path(source).name}.gz"
        pairs = [(SAMPLES / source, zipped)]
    for plain, target in pairs:
        target.write_bytes(gzip.compress(plain.read_bytes()))
    plain, unzipped = run(name, SAMPLES / source, tmp_path / "plain"), run(name, zipped, tmp_path / "data")
    assert unzipped[:3] == plain[:3]


def test_times_of_reviews_in_seconds_and_in_milliseconds_are_told_apart(tmp_path):
    milliseconds = SAMPLES / "amazon" / "All_Beauty.csv"
    seconds = tmp_path / "seconds.csv"
    header, *lines = milliseconds.read_text().splitlines()
    seconds.write_text("\n".join([header, *(line.removesuffix("000") for line in lines)]))
    assert run("amazon", seconds, tmp_path / "one")[:3] == run("amazon", milliseconds, tmp_path / "other")[:3]


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing(tmp_path, name, source):
    windows = tmp_path / "windows"
    if (SAMPLES / source).is_dir():
        shutil.copytree(SAMPLES / source, windows)
        files = list(windows.iterdir())
    else:
        windows.mkdir()
        files = [Path(shutil.copy(SAMPLES / source, windows))]
        windows = files[0]
    for file in files:
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes().replace(b"\n", b"\r\n"))
    plain, read = run(name, SAMPLES / source, tmp_path / "plain"), run(name, windows, tmp_path / "data")
    assert read[:3] == plain[:3]


@pytest.mark.parametrize(
    ("name", "source", "file", "bad_rows"),
    [
        (
            "foursquare",
            "foursquare",
            "check_ins.txt",
            {
                b"9\tpark\tc\tP\tnan\t-74\t-240\tTue Apr 03 18:00:09 +0000 2012\n": "latitude is not a number",
                b"9\tpark\tc\tP\t95\t-74\t-240\tTue Apr 03 18:00:09 +0000 2012\n": "not on the globe",
                b"9\tpark\tc\tP\t40\t-74\t-240\tTue Apr 03 18:00:09 +0000 1969\n": "time is not between",
                b"9\tpark\tc\tP\t40\t-74\t-240\tTue Foo 03 18:00:09 +0000 2012\n": "time is neither like",
                b"9\tpark\tc\tP\t40\t-74\t1e99\tTue Apr 03 18:00:09 +0000 2012\n": "time zone is not an offset",
                b"\tpark\tc\tPark\t40\t-74\t-240\tTue Apr 03 18:00:09 +0000 2012\n": "no user",
                b"9\tpark\n": "not 8 columns",
            },
        ),
        (
            "yelp",
            "yelp",
            "yelp_academic_dataset_review.json",
            {
                b'{"user_id":"\xff","business_id":"cafe","stars":1,"date":"2018-01-01"}\n': "not JSON in UTF-8",
                b'{"user_id":"x","stars":1,"date":"2018-01-01"}\n': "missing required field `business_id`",
                b'{"user_id":"x","business_id":"cafe","date":"2018-01-01"}\n': "no stars",
                b'{"user_id":"x","business_id":"cafe","stars":9,"date":"2018-01-01"}\n': "rating is not from 1 to 5",
                b'{"user_id":"x","business_id":"cafe","stars":1,"date":"1950-01-01"}\n': "time is not between",
                b'{"user_id":"x","business_id":"cafe","stars":1,"date":"today"}\n': "date is not ISO 8601",
                b'{"user_id":\n': "not JSON in UTF-8",
                b"[" * 50_000 + b"\n": "not JSON|got `array`",
            },
        ),
        (
            "movielens",
            "movielens/latest",
            "ratings.csv",
            {
                b"1,99,3.0,964980000\n": "movie is not in movies.csv",
                b"1,1,3.0,-5\n": "time is not between",
                b"1,1,nan,964980000\n": "rating is not a number",
                b"1,1\n": "too few columns",
                b'1,"1,3.0,964980000\n': "not a CSV row",
                b"\xe9,1,3.0,964980000\n": "not UTF-8",
            },
        ),
        (
            "amazon",
            "amazon/2018",
            "All_Beauty_5.json",
            {
                b'{"reviewerID":"ua","asin":"soap","overall":5}\n': "no time",
                b'{"reviewerID":"ua","asin":"soap","unixReviewTime":1}\n': "no rating",
                b'{"reviewerID":"ua","overall":5,"unixReviewTime":1}\n': "no product",
                b'{"reviewerID":"ua","asin":"soap","overall":5,"unixReviewTime":-1}\n': "time is not between",
                b'{"reviewerID":"ua","asin":"soap","overall":NaN,"unixReviewTime":1}\n': "not JSON in UTF-8",
            },
        ),
    ],
)
def test_bad_rows_are_counted_and_the_import_goes_on(tmp_path, name, source, file, bad_rows):
    shutil.copytree(SAMPLES / source, tmp_path / "source")
    given = SAMPLES / source / file if name == "foursquare" else SAMPLES / source
    hurt = tmp_path / "source" / file if name == "foursquare" else tmp_path / "source"
    clean = run(name, given, tmp_path / "clean")
    for row in bad_rows:
        append(tmp_path / "source" / file, row)
    dataset = run(name, hurt, tmp_path / "data")
    assert dataset[:3] == clean[:3]
    assert sum(dataset.meta.rows_bad.values()) == len(bad_rows)
    assert dataset.meta.rows_read == clean.meta.rows_read + len(bad_rows)
    reasons = "\n".join(dataset.meta.rows_bad)
    for reason in bad_rows.values():
        assert any(part in reasons for part in reason.split("|")), reason


def test_a_file_with_more_bad_rows_than_good_ones_is_refused(tmp_path):
    source = tmp_path / "check_ins.txt"
    source.write_bytes((SAMPLES / "foursquare/check_ins.txt").read_bytes() + b"what\n" * 24)
    with pytest.raises(SourceError, match=r"only 23 of 47 rows can be read \(line 24: not 8 columns\)"):
        run("foursquare", source, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_file_of_another_format_is_given_up_early(tmp_path):
    source = tmp_path / "reviews.json"
    source.write_bytes(b"not json\n" * 5000)
    with pytest.raises(SourceError, match=r"no row can be read \(line 1: not JSON"):
        run("amazon", source, tmp_path / "data")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "reviews.json").touch()
    with pytest.raises(SourceError, match="has no rows"):
        run("amazon", tmp_path / "reviews.json", tmp_path / "data")


def test_a_truncated_gzip_file_is_refused(tmp_path):
    source = tmp_path / "reviews.json.gz"
    source.write_bytes(gzip.compress((SAMPLES / "amazon/2014/reviews_Beauty_5.json").read_bytes())[:-20])
    with pytest.raises(SourceError, match=r"reviews\.json\.gz can't be read after line"):
        run("amazon", source, tmp_path / "data")


def test_a_line_without_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ops.importers.source.LONGEST_LINE", 1000)
    source = tmp_path / "reviews.json"
    sample = (SAMPLES / "amazon/2014/reviews_Beauty_5.json").read_bytes()
    source.write_bytes(sample + b"x" * 12_345 + b"\n" + sample.splitlines(keepends=True)[0])
    dataset = run("amazon", source, tmp_path / "data")
    assert dataset.meta.rows_bad == {"reviews.json: longer than 16 MiB": 1}
    assert len(dataset.interactions) == 11


@pytest.mark.parametrize("name", FORMATS)
def test_a_source_that_is_not_there_is_one_sentence(tmp_path, name):
    with pytest.raises(SourceError, match="nowhere"):
        run(name, tmp_path / "nowhere", tmp_path / "data")


# Check-ins


def test_tab_separated_check_ins_have_local_time_and_a_category_in_latin_1(tmp_path):
    dataset = run("foursquare", SAMPLES / "foursquare/check_ins.txt", tmp_path / "data")
    assert by_id(dataset)["cafe"].categories == ("Café",)
    assert by_id(dataset)["park"].location.lat == 40.71
    first_of_user_1 = next(event for event in dataset.interactions if event.user_id == "1")
    assert first_of_user_1.event_time == milliseconds("2012-04-03T14:00:09")
    assert first_of_user_1.kind == "visit"


def test_check_ins_without_trajectories_get_sessions_by_gap_and_splits_by_time(tmp_path):
    dataset = run("foursquare", SAMPLES / "foursquare/check_ins.txt", tmp_path / "data")
    assert [event.session_id for event in dataset.interactions if event.user_id == "3"] == ["3_0", "3_0", "3_1"]
    # Eleven sessions have two visits or more: eight labels train, one is valid, two test.
    assert [(request.session_id, request.split) for request in dataset.requests] == [
        ("2_3", "valid"),
        ("1_4", "test"),
        ("2_4", "test"),
    ]
    splits = {}
    for event in dataset.interactions:
        splits.setdefault(event.session_id, set()).add(event.split)
    assert all(len(split) == 1 for split in splits.values())


def test_given_splits_are_kept_and_labels_unseen_in_train_are_left_out(tmp_path):
    dataset = run("foursquare", SAMPLES / "foursquare/nyc", tmp_path / "data")
    assert [event.split for event in dataset.interactions].count("train") == 8
    # Left out: a place (noodles) and a user (9) that are not in train, and a trajectory of one visit.
    assert [(r.user_id, r.relevant, r.split) for r in dataset.requests] == [
        ("7", ("cafe",), "valid"),
        ("8", ("bar",), "test"),
    ]
    assert dataset.requests[0].event_time == milliseconds("2012-06-01T09:00:00")


def test_the_same_trajectory_id_in_two_files_is_two_sessions(tmp_path):
    dataset = run("foursquare", SAMPLES / "foursquare/nyc", tmp_path / "data")
    assert len({event.session_id for event in dataset.interactions if event.user_id == "7"}) == 4


def test_a_missing_column_is_named(tmp_path):
    source = tmp_path / "check_ins.csv"
    source.write_text("user_id,latitude,longitude,UTC_time\n1,40,-74,2012-01-01 00:00:00\n")
    with pytest.raises(SourceError, match=r"check_ins\.csv has no column for venue; its header is 'user_id,lat"):
        run("foursquare", source, tmp_path / "data")


def test_comma_separated_utc_times_are_moved_by_the_offset(tmp_path):
    source = tmp_path / "check_ins.csv"
    source.write_text(
        "userId,venueId,venueCategory,latitude,longitude,timezoneOffset,utcTimestamp\n"
        "1,park,Park,40,-74,540,Tue Apr 03 18:00:09 +0000 2012\n"
        "1,cafe,,40,-74,0,2012-04-04T18:00:09Z\n"
    )
    events = run("foursquare", source, tmp_path / "data").interactions
    assert [event.event_time for event in events] == [
        milliseconds("2012-04-04T03:00:09"),
        milliseconds("2012-04-04T18:00:09"),
    ]


# Yelp


def test_a_business_has_price_hours_and_readable_attributes(tmp_path):
    noodles = by_id(run("yelp", SAMPLES / "yelp", tmp_path / "data"))["noodles"]
    assert noodles.price == 2
    assert noodles.hours == [[(690, 1260)], [], [], [], [(1080, 1560)], [(0, 1440)], []]
    assert noodles.attributes == {
        "WiFi": "free",
        "NoiseLevel": "quiet",
        "OutdoorSeating": True,
        "Ambience": ["casual", "classy"],
    }


def test_only_businesses_that_serve_food_and_their_reviews_are_imported(tmp_path):
    dataset = run("yelp", SAMPLES / "yelp", tmp_path / "data")
    assert by_id(dataset).keys() == {"noodles", "cafe", "grill"}
    assert "dan" not in {event.user_id for event in dataset.interactions}


def test_reviews_of_nothing_but_plumbers_are_refused(tmp_path):
    shutil.copytree(SAMPLES / "yelp", tmp_path / "source")
    business = tmp_path / "source/yelp_academic_dataset_business.json"
    business.write_text(business.read_text(encoding="utf-8").splitlines()[-1], encoding="utf-8")
    with pytest.raises(SourceError, match="no review of a business that serves food"):
        run("yelp", tmp_path / "source", tmp_path / "data")


def test_reviews_are_ratings_and_tips_are_visits(tmp_path):
    events = run("yelp", SAMPLES / "yelp", tmp_path / "data").interactions
    assert [event.rating for event in events if event.kind == "rating"][:3] == [1.0, 0.75, 0.5]
    assert [(event.user_id, event.rating) for event in events if event.kind == "visit"] == [
        ("bob", None),
        ("cat", None),
    ]


def test_the_text_of_a_review_to_be_predicted_is_in_no_item(tmp_path):
    dataset = run("yelp", SAMPLES / "yelp", tmp_path / "data")
    assert {event.split for event in dataset.interactions if event.item_id == "noodles"} == {"train", "valid", "test"}
    assert "Lovely dumplings." in by_id(dataset)["noodles"].text
    assert "Ask for the back room." in by_id(dataset)["cafe"].text
    assert not [item for item in dataset.items if "SECRET" in item.text]


@pytest.mark.parametrize(
    "value", ["'\\ud800'", "1j", "9" * 400, "[" * 3000, "{1, 2}", "__import__('os')", "{'a': [1j]}", "1e999", "b'x'"]
)
def test_strange_attribute_values_do_no_harm(tmp_path, value):
    shutil.copytree(SAMPLES / "yelp", tmp_path / "source")
    business = {"business_id": "odd", "name": "Odd", "latitude": 1, "longitude": 1, "categories": "Food"}
    append(
        tmp_path / "source/yelp_academic_dataset_business.json",
        msgspec.json.encode(business | {"attributes": {"X": value, "RestaurantsPriceRange2": value}}) + b"\n",
    )
    assert by_id(run("yelp", tmp_path / "source", tmp_path / "data"))["odd"].price is None


# MovieLens


def test_csv_and_dat_files_give_the_same_movies_and_times(tmp_path):
    latest, old = (run("movielens", SAMPLES / "movielens" / name, tmp_path / name) for name in ("latest", "1m"))
    assert [item.name for item in old.items] == [item.name for item in latest.items]
    assert "Café Minuit" in [item.name for item in old.items]
    assert [event.event_time for event in old.interactions] == [event.event_time for event in latest.interactions]


def test_a_movie_has_name_year_genres_and_its_tags_but_not_those_of_held_out_ratings(tmp_path):
    movies = by_id(run("movielens", SAMPLES / "movielens/latest", tmp_path / "data"))
    assert (movies["1"].name, movies["1"].attributes) == ("Paper Lanterns", {"year": "1994"})
    assert movies["1"].categories == ("Drama", "Romance")
    assert movies["1"].text == "slow, bittersweet, warm"
    assert movies["4"].categories == ()
    assert movies["5"].text is None


def test_half_stars_become_fractions(tmp_path):
    events = run("movielens", SAMPLES / "movielens/latest", tmp_path / "data").interactions
    assert {event.rating for event in events if event.item_id == "5"} == {0.0, 0.7778, 1.0}


# Amazon


@pytest.mark.parametrize("source", ["2014/reviews_Beauty_5.json", "2014-meta", "2018", "2023", "All_Beauty.csv"])
def test_all_years_give_the_same_purchases(tmp_path, source):
    dataset = run("amazon", SAMPLES / "amazon" / source, tmp_path / "data")
    found = [(event.user_id, event.item_id, event.rating) for event in dataset.interactions if event.user_id == "ua"]
    assert found == [("ua", "soap", 1.0), ("ua", "brush", 0.75), ("ua", "balm", 0.5), ("ua", "oil", 1.0)]
    assert dataset.interactions[0].event_time // 1000 == 1_380_000_000
    assert [(r.user_id, r.relevant[0], r.split) for r in dataset.requests] == [
        ("ua", "balm", "valid"),
        ("ub", "brush", "valid"),
        ("ua", "oil", "test"),
        ("ub", "balm", "test"),
    ]


def test_products_have_name_categories_text_price_and_brand(tmp_path):
    soap = by_id(run("amazon", SAMPLES / "amazon/2018", tmp_path / "2018"))["soap"]
    assert (soap.name, soap.price, soap.attributes) == ("Pine & Salt Soap", 1012.5, {"brand": "Nordlys"})
    assert soap.text == "A bar of soap.\nMade by hand.\n100 g"
    old_soap = by_id(run("amazon", SAMPLES / "amazon/2014-meta", tmp_path / "2014"))["soap"]
    assert (old_soap.categories, old_soap.attributes) == (("Beauty", "Bath", "Soap"), {"brand": "Nord's"})


def test_products_nobody_bought_are_left_out_and_products_without_metadata_kept(tmp_path):
    assert by_id(run("amazon", SAMPLES / "amazon/2018", tmp_path / "data")).keys() == {"soap", "brush", "balm", "oil"}


def test_without_metadata_the_text_is_the_summaries_in_train(tmp_path):
    items = by_id(run("amazon", SAMPLES / "amazon/2014/reviews_Beauty_5.json", tmp_path / "data"))
    assert items["soap"].text == "Smells of pine\nToo strong\nNice lather"
    assert items["oil"].text == "Warm & light"
    assert not [item for item in items.values() if "SECRET" in (item.text or "")]


# Splits


def events_of(rows):
    events = Events()
    for user, item, time in rows:
        events.add(f"u{user}", f"i{item}", time, "visit")
    return events


ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 10 * SESSION_GAP)), min_size=1, max_size=60
)


@given(ROWS)
def test_splits_by_time_never_train_on_what_comes_after_a_label(rows):
    for plan in (next_event(events_of(rows)), next_in_session(events_of(rows), splits_given=False)):
        in_order = plan.split[plan.order]
        if plan.session_names:  # a session is never cut: it belongs to where its last event is
            last_of_session = {session: at for at, session in enumerate(plan.session[plan.order].tolist())}
            in_order = in_order[sorted(last_of_session.values())]
        assert (np.diff(in_order) >= 0).all()
        assert not plan.is_label[plan.split == TRAIN].any()


@given(ROWS)
def test_sessions_have_gaps_of_less_than_a_day_inside_and_more_between(rows):
    plan = next_in_session(events_of(rows), splits_given=False)
    times = {}
    for (user, _, time), session in zip(rows, plan.session.tolist(), strict=True):
        times.setdefault(user, []).append((time, session))
    for own in times.values():
        own.sort()
        for (earlier, one), (later, other) in pairwise(own):
            assert (one == other) == (later - earlier < SESSION_GAP)


def test_a_gap_of_exactly_24_hours_starts_a_session():
    plan = next_in_session(
        events_of([(0, 0, 0), (0, 1, SESSION_GAP - 1), (0, 2, 2 * SESSION_GAP - 1)]), splits_given=False
    )
    assert plan.session.tolist() == [0, 0, 1]


@given(ROWS)
def test_leave_one_out_keeps_the_last_two_of_every_user_with_three(rows):
    plan = leave_one_out(events_of(rows))
    for user in {row[0] for row in rows}:
        own = [plan.split[row] for row in plan.order.tolist() if rows[row][0] == user]
        assert own == [0] * (len(own) - 2) + [1, 2] if len(own) >= 3 else own == [0] * len(own)


def test_eighty_ten_ten_of_the_labels():
    plan = next_event(events_of([(0, n, n) for n in range(101)]))
    assert np.bincount(plan.split[1:]).tolist() == [80, 10, 10]


# The command


def invoke(*arguments):
    application = typer.Typer()
    application.command("import")(import_dataset)
    return CliRunner().invoke(application, [str(argument) for argument in arguments])


def test_the_command_prints_a_summary_for_people(tmp_path):
    result = invoke("movielens", SAMPLES / "movielens/latest", tmp_path / "data")
    assert result.exit_code == 0
    assert "5 items, 12 interactions, 6 requests (leave one out)" in result.stdout


def test_the_command_prints_json(tmp_path):
    result = invoke("movielens", SAMPLES / "movielens/latest", tmp_path / "data", "--json")
    summary = msgspec.json.decode(result.stdout)
    assert (summary["items"], summary["requests"], summary["domain"]) == (5, 6, "shop")
    assert summary["destination"] == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("netflix", "x", "y"), "unknown format 'netflix'; known are foursquare, yelp, movielens, amazon"),
        (("yelp", "x", "y"), "x has no yelp_academic_dataset_business.json"),
        (("yelp", "x", SAMPLES), "exists already"),
        (("amazon", "x" * 300, "y"), "can't be read: File name too long"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_has_an_example_for_every_format():
    application = typer.Typer()
    application.command("import", help=HELP)(import_dataset)
    text = " ".join(CliRunner().invoke(application, ["--help"], terminal_width=200).stdout.split())
    for form in FORMATS.values():
        assert form.example in text
