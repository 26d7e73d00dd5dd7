import matplotlib.image as mpimg
import numpy as np

from segcal.records import SheetRow
from segcal.report.contact_sheet import PER_PAGE, draw_sheets


def row(index, fault=""):
    image = np.full((20, 30), 0.5)
    classes = np.zeros((20, 30), dtype=np.uint8)
    classes[5:15, 5:20] = 1
    classes[8:12, 8:14] = 2
    slices = () if fault else tuple((z, image, classes) for z in range(3))
    return SheetRow(f"case{index}", "t2, 3x20x30\n5x1x1 mm", 1.0, slices, fault)


def test_some_cases_a_page(tmp_path):
    pages = draw_sheets((row(i) for i in range(PER_PAGE + 1)), ("rim", "core"), tmp_path / "out")
    assert [page.name for page in pages] == ["sheet-01.png", "sheet-02.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sheet-01.png", "sheet-02.png"]


def test_outlines_have_the_colours_of_the_legend_and_faults_are_red(tmp_path):
    (page,) = draw_sheets([row(0), row(1, "case1: t2.nii must hold finite voxels")], ("rim", "core"), tmp_path)
    picture = mpimg.imread(page)[..., :3]

    def there(colour):
        wanted = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return np.count_nonzero(np.abs(picture - wanted).max(axis=-1) < 0.06)

    assert there("#56B4E9") > 100  # both outlines
    assert there("#E69F00") > 50
    assert there("#ff8080") > 30
    assert there("#CC79A7") == 0  # no structure of that number


def test_nothing_to_draw(tmp_path):
    assert draw_sheets([], ("rim",), tmp_path) == []
    (page,) = draw_sheets([row(0, "unreadable")], ("rim",), tmp_path)  # a page of faults alone
    assert page.stat().st_size > 1000
