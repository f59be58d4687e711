from io import StringIO

from rich.console import Console

from reid_ray.reports import epoch_table


def printed(table) -> list[str]:
    console = Console(file=StringIO(), width=160, force_terminal=True, color_system="standard")
    console.print(table)
    return console.file.getvalue().splitlines()


def test_one_line_per_epoch_and_the_best_in_bold(events):
    lines = printed(epoch_table(events))
    rows = [line for line in lines if "│" in line]
    assert len(rows) == 4
    assert "10.0" in rows[0]
    assert "start" in rows[0]
    bold = [i for i, line in enumerate(rows) if "\x1b[1m" in line]
    assert bold == [2]
    assert any("chosen by mAP on query and gallery" in line for line in lines)


def test_epochs_of_several_stages_are_named(events, staged_events):
    """The best epoch is in the main stage; the stage before has an epoch with the same number."""
    lines = printed(epoch_table(staged_events))
    rows = [line for line in lines if "│" in line]
    assert [("source" in line, "main" in line) for line in rows] == [(True, False)] * 2 + [(False, True)] * 4
    assert [i for i, line in enumerate(rows) if "\x1b[1m" in line] == [4]
    assert "main" not in "\n".join(printed(epoch_table(events))), "a run with a single stage does not name it"


def test_label_quality_without_evaluation(events):
    text = "\n".join(printed(epoch_table([event for event in events if event["event"] == "refresh"])))
    for word in ("clusters", "outliers", "ARI", "NMI", "F1", "5.0%", "0.300"):
        assert word in text
    assert "mAP" not in text


def test_no_events():
    assert epoch_table([]).row_count == 0
    printed(epoch_table([]))
