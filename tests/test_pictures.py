"""What results show of themselves in a notebook."""

import re

from experiments import page
from ledger import GeometricLedger
from ledger.pictures import LEFT, Bars, table
from tests.model import make_accounts, make_keys, small_options


def heights(svg):
    return [float(height) for height in re.findall(r"v-([\d.]+)", svg)]


def test_bars_are_as_high_as_their_numbers():
    found = heights(Bars([1, 0, 4, 2]).svg)
    assert [4.5, 18.0, 9.0] == found
    assert [9.0] == heights(Bars([0.5], top=1.0).svg)
    assert [] == heights(Bars([]).svg) == heights(Bars([0, 0]).svg)


def test_many_numbers_are_added_up_to_few_bars():
    bars = Bars([1] * 1000)
    assert 80 >= len(bars.values) and 1000 == sum(bars.values)


def test_a_table_escapes_its_text_and_shows_every_digit():
    found = table("<a>", [("<b>", 2**64 + 1), ("c", ["<d>"]), ("e", None), ("f", True), ("g", Bars([1], '"<x>'))])
    assert "18446744073709551617" in found and "&lt;d&gt;" in found and "none" in found and "yes" in found
    assert not re.search(r"<[abdx]>", found) and '"&quot;&lt;x&gt;"' in found
    assert found.replace(LEFT, "") == page.table(found), "the report takes it as it is"


def test_statistics_and_recovery_of_a_ledger_show_themselves(tmp_path):
    with GeometricLedger.open(tmp_path / "book", small_options()) as book:
        accounts = make_accounts(1, 50)
        accounts["balance"] = 2**60
        book.update_batch(accounts)
        book.get_batch(make_keys(range(60)))
        stats = book.stats()
        shown = stats._repr_html_().replace(LEFT, "")
        assert f'<td class="text">{50 * 2**60}</td>' in shown and "50 live" in shown
        pictures = re.findall(r"<svg.*?</svg>", shown)
        assert 3 == len(pictures) and len(heights(pictures[0])) == sum(used > 0 for used in stats.slots_used)
        assert f"{stats.lookups} look-ups" in shown
    with GeometricLedger.open(tmp_path / "book") as book:
        shown = book.recovery._repr_html_().replace(LEFT, "")
        assert 'closed cleanly</th><td class="text">yes' in shown
        assert all(f"· {name}" in shown for name in book.recovery.seconds)
