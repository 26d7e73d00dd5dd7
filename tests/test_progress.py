from segcal.progress import bars, lines, silent


def test_a_line_for_each_step():
    said = []
    step = lines(said.append)
    step("prepared", 1, 2, "case1 (train)")
    step("prepared", 2, 2, "case2 (test)")
    assert said == ["prepared 1/2: case1 (train)", "prepared 2/2: case2 (test)"]
    silent("prepared", 1, 2, "case1")


def test_bars_only_on_a_terminal(monkeypatch, capsys):
    said = []
    bars(said.append)("prepared", 1, 1, "a")
    assert said == ["prepared 1/1: a"]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    step = bars(said.append)
    for done in (1, 2, 3):
        step("generated", done, 3, f"case{done}")
    step("prepared", 1, 1, "b")  # another bar
    assert said == ["prepared 1/1: a"]
    shown = capsys.readouterr().err
    assert "generated: 100%" in shown
    assert "3/3" in shown
    assert "case3" in shown
    assert "prepared: 100%" in shown
