"""The picture of a prediction: what stands where, read from its pixels."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from segcal.report.contact_sheet import OUTLINES
from segcal.report.figures.check_picture import FLAG, WARN, CheckPicture, Finding, draw_check

DICE = {"point": 0.8, "low": 0.6, "high": 0.9, "level": 0.95, "extrapolated": False}
NOVELTY = {"flag": False, "score_nats": 0.2, "threshold_nats": 0.3, "false_positive_rate": 0.05, "n_source": 20}


def picture(**fields) -> CheckPicture:
    classes = np.zeros((6, 40, 30), dtype=np.uint8)
    classes[1:5, 10:30, 8:20] = 1
    classes[2, 14:24, 10:16] = 2
    image = np.random.default_rng(0).uniform(0.2, 0.8, classes.shape)
    entropy = np.where(classes == 2, 0.9, 0.0)
    findings = (Finding("edema", 12.3, 0.21, DICE), Finding("core", 1.2, 0.4, None))
    usual = {"case_id": "P1", "model": "m version 1", "images": {"flair": image, "t1ce": image}, "classes": classes,
             "entropy": entropy, "spacing_mm": (3.0, 1.0, 1.0), "ends": (("I", "S"), ("A", "P"), ("R", "L")),
             "findings": findings, "novelty": NOVELTY}  # fmt: skip
    return CheckPicture(**usual | fields)


def texts(monkeypatch, drawn: CheckPicture, path) -> list[str]:
    """Everything that is written in the picture, each within its borders."""
    kept = []
    save = Figure.savefig

    def keep(figure, *args, **how):
        save(figure, *args, **how)
        renderer, width = FigureCanvasAgg(figure).get_renderer(), figure.bbox.width
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible():
                box = text.get_window_extent(renderer)
                assert box.x0 >= -1, text.get_text()
                assert box.x1 <= width + 1, text.get_text()
                assert box.y0 >= -1, text.get_text()
                kept.append(text.get_text())

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_check(drawn, path)
    return kept


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    return bool((np.abs(pixels[..., :3] - to_rgb(colour)).max(axis=-1) < 0.02).any())


def test_outlines_entropy_and_numbers_are_there(tmp_path, monkeypatch):
    written = texts(monkeypatch, picture(), tmp_path / "check.png")
    pixels = imread(tmp_path / "check.png")
    assert pixels[0, 0, :3].max() == 0  # black
    assert has_colour(pixels, OUTLINES[0])
    assert has_colour(pixels, OUTLINES[1])
    assert not has_colour(pixels, FLAG)
    for text in ("P1", "12.3", "0.21", "0.80 (0.60–0.90)", "not flagged as out of distribution", "z 3", "y 20", "x 14"):
        assert text in written, text
    assert [text for text in written if text in "RLAPIS"] == [
        "R",
        "L",
        "A",
        "P",
        "R",
        "L",
        "S",
        "I",
        "A",
        "P",
        "S",
        "I",
    ]


def test_planes_go_where_most_is_predicted_or_through_the_middle(tmp_path, monkeypatch):
    classes = np.zeros((6, 40, 30), dtype=np.uint8)
    classes[5, 3:9, 20:29] = 1
    classes[1, 30, 2] = 1
    written = texts(monkeypatch, picture(classes=classes), tmp_path / "check.png")
    assert {"z 5", "y 6", "x 24"} <= set(written)
    nothing = picture(classes=np.zeros_like(classes), novelty=None, no_novelty="nothing is predicted")
    written = texts(monkeypatch, nothing, tmp_path / "check.png")
    assert {"z 2", "y 19", "x 14", "novelty not judged", "nothing is predicted"} <= set(written)


def test_nothing_predicted_is_flagged_without_a_score(tmp_path, monkeypatch):
    written = texts(monkeypatch, picture(novelty=NOVELTY | {"flag": True, "score_nats": None}), tmp_path / "check.png")
    assert "nothing is predicted, which is always flagged" in written
    assert not any("of cases like the" in text for text in written)  # it is no share of those


def test_a_flag_and_warnings_are_seen(tmp_path, monkeypatch):
    flagged = picture(novelty=NOVELTY | {"flag": True, "score_nats": 0.5}, warnings=("voxels are 10 mm along y",))
    written = texts(monkeypatch, flagged, tmp_path / "check.png")
    pixels = imread(tmp_path / "check.png")
    assert has_colour(pixels, FLAG)
    assert has_colour(pixels, WARN)
    assert "OUT OF DISTRIBUTION" in written
    assert "! voxels are 10 mm along y" in written
    assert any("0.500 > threshold 0.300" in text for text in written)


@pytest.mark.parametrize("shape", [(1, 64, 64), (60, 8, 8), (12, 16, 120), (2, 2, 2)])
def test_any_shape_and_any_names_fit(tmp_path, monkeypatch, shape):
    many = tuple(Finding(f"structure number {n} of the liver$", 1234.5, 0.1, DICE) for n in range(7))
    blank = np.zeros(shape)
    drawn = replace(
        picture(), images={"a very long channel name": blank}, classes=blank.astype(np.uint8), entropy=blank,
        findings=many, case_id="x_" * 80, warnings=("a warning " * 20,) * 9,
    )  # fmt: skip
    written = texts(monkeypatch, drawn, tmp_path / "check.png")
    assert "! and 3 more in result.json" in written
    assert "1234" in written or "1235" in written
