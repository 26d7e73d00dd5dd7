"""A case in a real browser: planes and 3-D by WebGL, the same as pictures without it, and a URL for every state.

Pictures: browser-screenshots/case-*.png.
"""

import io
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from segcal.service.app import create_app
from tests.service.browser import serving

pytest.importorskip("selenium", reason="selenium is not installed")

PIXELS = """
    const viewer = window.segcalCase.viewer;
    viewer.drawScene();  // what was drawn is to be read before the browser takes it away
    const { gl } = viewer, width = gl.drawingBufferWidth, height = gl.drawingBufferHeight;
    const bytes = new Uint8Array(4 * width * height);
    gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, bytes);
    let text = "";
    for (let n = 0; n < bytes.length; n += 8192) text += String.fromCharCode(...bytes.subarray(n, n + 8192));
    return [width, height, btoa(text)];"""
NO_WEBGL = """
    const before = HTMLCanvasElement.prototype.getContext;
    HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
      return kind.startsWith("webgl") ? null : before.call(this, kind, ...more);
    };"""


@pytest.fixture(scope="module")
def case_url(browser, reported, settings, cohort):
    """The page of a test case in a served application. The browser comes first: without it nothing is made."""
    case = cohort.cases("test")[0].case_id
    with serving(create_app(settings)) as url:
        yield f"{url}/reports/{reported['run_id']}/tiny/cases/{case}"


@pytest.fixture
def without_webgl(page):
    """A browser whose canvases have no WebGL."""
    made = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": NO_WEBGL})
    yield page
    page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", {"identifier": made["identifier"]})


def opened(page, url):
    """Wait until NiiVue has drawn the case."""
    page.open(url)
    page.wait(lambda: page.js("return document.getElementById('gl')?.dataset.drawn"), "the volumes", 60)


def pixels(page):
    """What the canvas shows, (rows, columns, 3) from the top."""
    import base64

    width, height, text = page.js(PIXELS)
    shown = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)
    return shown[::-1, :, :3].astype(int)


def coloured(shown):
    """How many pixels are neither black, grey nor the colour of the crosshair."""
    spread = shown.max(axis=2) - shown.min(axis=2)
    red = (shown[..., 0] > shown[..., 1] + 60) & (abs(shown[..., 1] - shown[..., 2]) < 8)
    return int(((spread > 40) & ~red).sum())


def query(page):
    return {key: values[0] for key, values in parse_qs(urlsplit(page.driver.current_url).query).items()}


def keys(element, *pressed):
    from selenium.webdriver.common.keys import Keys

    element.send_keys(*[getattr(Keys, key) for key in pressed])


def test_a_permalink_opens_three_planes_and_a_volume(page, case_url):
    opened(page, f"{case_url}?layer=probability&structure=edema&opacity=0.5&threshold=0.01&z=2&y=15&x=14")
    shown = pixels(page)
    height, width = shown.shape[:2]
    assert (shown[:, : width // 2].max(axis=2) > 60).mean() > 0.2  # the axial plane
    assert (shown[: height // 2, width // 2 :].max(axis=2) > 60).mean() > 0.05  # coronal and sagittal
    assert (shown[height // 2 :, width // 2 :].max(axis=2) > 30).mean() > 0.02  # 3-D
    assert coloured(shown) > 2000
    assert page.js("return segcalCase.viewer.volumes.map((v) => v.name)") == [
        "fine-2.nii.gz", "p-2.nii.gz", "outline-2.nii.gz"
    ]  # fmt: skip
    assert "z 2, y 15, x 14" in page.one("#values").text
    page.picture("case-light")
    page.prefer("dark")
    page.picture("case-dark")
    assert page.js("return getComputedStyle(document.getElementById('stage')).backgroundColor") == "rgb(0, 0, 0)"


def test_keys_on_a_slider_change_picture_and_url(page, case_url):
    opened(page, f"{case_url}?opacity=0.5&truth=0")
    before = pixels(page)
    keys(page.one("input[name=opacity]"), *["ARROW_RIGHT"] * 6)
    page.wait(lambda: query(page).get("opacity") == "0.8", "the URL to say the opacity")
    page.wait(lambda: page.js("return document.getElementById('gl').dataset.painted") == "0.8 0.05", "the new picture")
    after = pixels(page)
    assert coloured(after) >= coloured(before)
    assert np.abs(after - before).max() > 20
    keys(page.one("input[name=threshold]"), "END")
    page.wait(lambda: query(page).get("threshold") == "1", "the URL to say the threshold")
    page.wait(lambda: page.js("return document.getElementById('gl').dataset.painted") == "0.8 1", "the new picture")
    assert coloured(pixels(page)) < coloured(after) / 5  # nothing exceeds 1
    page.open(page.driver.current_url)
    assert page.one("input[name=opacity]").get_attribute("value") == "0.8"


def test_every_control_has_a_name(page, case_url):
    page.open(f"{case_url}?view=slices")
    controls = page.all("#controls select, #controls input:not([type=hidden])")
    assert [control.accessible_name.strip() for control in controls] == [
        "Method", "Member", "Image", "Overlay", "Structure", "Opacity", "Threshold", "True outline", "View",
        "z, axial", "y, coronal", "x, sagittal",
    ]  # fmt: skip


def test_another_view_is_in_the_url_and_shown(page, case_url):
    opened(page, case_url)
    keys(page.one("select[name=view]"), "ARROW_DOWN")
    page.wait(lambda: len(page.all("#slices img")) == 3, "the pictures")
    page.wait(lambda: query(page).get("view") == "slices", "the URL to say the view")
    assert page.one("select[name=view]").get_attribute("value") == "slices"


def test_who_goes_back_sees_the_choice_of_that_page(page, case_url):
    page.open(f"{case_url}?view=slices")
    title = page.one("select[name=method]").get_attribute("value")
    keys(page.one("select[name=member]"), "ARROW_DOWN")
    page.wait(lambda: query(page).get("member"), "the member's page")
    page.driver.back()
    page.wait(lambda: not query(page).get("member"), "the page before")
    page.wait(lambda: page.js("return document.readyState") == "complete", "the page to load")
    assert page.one(".numbers h2").text == title
    page.wait(lambda: page.one("select[name=member]").get_attribute("value") == "", "the choice of the page")


def test_a_slow_answer_does_not_replace_a_newer_voxel(page, case_url):
    page.open(f"{case_url}?view=slices&z=1&y=10&x=10")
    page.js("""
        const before = window.fetch;
        window.fetch = async (url) => {
          const answer = await before(url);
          if (url.includes("x=11")) await new Promise((done) => setTimeout(done, 800));
          return answer;
        };
        segcalCase.set({ x: 11 });
        setTimeout(() => segcalCase.set({ x: 12 }), 200);
        setTimeout(() => { window.later = true; }, 1500);""")
    page.wait(lambda: page.js("return window.later"), "the slow answer")
    assert "x 12" in page.one("#values").text


def test_a_lost_context_leaves_pictures(page, case_url):
    opened(page, case_url)
    page.js("segcalCase.viewer.gl.getExtension('WEBGL_lose_context').loseContext()")
    page.wait(lambda: len(page.all("#slices img")) == 3, "the pictures")
    assert "could not be drawn" in page.one("#nowebgl").text
    keys(page.one(".plane-z .picture"), "ARROW_UP")
    page.wait(lambda: "z" in query(page), "the URL to follow the key")


def test_planes_are_printed(page, case_url):
    opened(page, case_url)
    page.js("""
        window.addEventListener("beforeprint", () => {
          const { gl } = window.segcalCase.viewer, pixel = new Uint8Array(4 * 10000);
          gl.readPixels(gl.drawingBufferWidth / 4 - 50, gl.drawingBufferHeight / 2 - 50, 100, 100, gl.RGBA,
            gl.UNSIGNED_BYTE, pixel);
          window.printed = Math.max(...pixel.filter((_, n) => n % 4 < 3));
        });
        window.dispatchEvent(new Event("beforeprint"));
        window.dispatchEvent(new Event("afterprint"));""")
    assert page.js("return window.printed") > 60


def test_layers_and_voxels_follow_the_controls(page, case_url):
    opened(page, f"{case_url}?truth=0&z=1&y=15&x=15")
    page.js("""
        const layer = document.querySelector("select[name=layer]");
        layer.value = "error";
        layer.dispatchEvent(new Event("input", { bubbles: true }));""")
    drawn = "return document.getElementById('gl').dataset.drawn"
    page.wait(lambda: " error " in page.js(drawn), "the errors")
    page.wait(lambda: query(page).get("layer") == "error", "the URL to say the layer")
    assert page.js("return segcalCase.viewer.volumes[1].name") == "error.nii.gz"
    assert not page.one("#legend [data-layer=error]").get_attribute("hidden")
    assert page.one("input[name=threshold]").get_attribute("disabled")
    page.picture("case-errors")
    canvas = page.one("#gl")
    keys(canvas, "ARROW_RIGHT", "ARROW_RIGHT", "PAGE_UP")
    page.wait(lambda: [query(page).get(axis) for axis in "zyx"] == ["2", "15", "17"], "the URL to follow the keys")
    page.wait(lambda: "z 2, y 15, x 17" in page.one("#values").text, "the values of the voxel")


def test_a_member_is_looked_at_by_itself(page, case_url):
    opened(page, f"{case_url}?opacity=0.6")
    page.js("segcalCase.set({ layer: 'entropy' })")
    page.wait(lambda: query(page).get("layer") == "entropy", "the URL to say the layer")
    page.one(".members a[aria-label='seed 1']").click()
    page.wait(lambda: query(page).get("member") == "1", "the member's page")
    assert query(page)["layer"] == "entropy"  # what was changed is kept
    page.wait(lambda: page.js("return document.getElementById('gl')?.dataset.drawn"), "the volumes", 60)
    assert page.one(".members tr.chosen").text.startswith("1")
    assert "seed 1" in page.one(".numbers h2").text
    assert coloured(pixels(page)) > 500
    page.picture("case-member")


@pytest.mark.parametrize("view", ["3d", "slices"])
def test_planes_are_pictures_without_webgl(without_webgl, case_url, view):
    page = without_webgl
    page.open(f"{case_url}?view={view}&z=1&y=15&x=15&layer=probability&structure=edema")
    whole = "return [...document.querySelectorAll('#slices img')].filter((i) => i.complete && i.naturalWidth).length"
    page.wait(lambda: page.js(whole) == 3, "the pictures")
    assert page.one("#nowebgl").is_displayed() == (view == "3d")
    source = page.one("#slices img").get_attribute("src")
    keys(page.one(".plane-z .picture"), "ARROW_UP")
    page.wait(lambda: query(page).get("z") == "2", "the URL to follow the key")
    page.wait(lambda: page.one("#slices img").get_attribute("src") != source, "another picture")
    page.wait(lambda: page.js(whole) == 3, "the pictures")
    page.one(".plane-z .step[data-step='-1']").click()
    page.wait(lambda: query(page).get("z") == "1", "the URL to follow the click")
    page.wait(lambda: "z 1" in page.one("#values").text, "the values of the voxel")
    shown = np.asarray(Image.open(io.BytesIO(page.one("#stage").screenshot_as_png)).convert("RGB")).astype(int)
    assert coloured(shown) > 500
    page.picture(f"case-pictures-{view}")


@pytest.mark.parametrize("view", ["3d", "slices"])
def test_planes_and_controls_fit_a_laptop(page, case_url, view):
    page.open(f"{case_url}?view={view}")
    for selector in ("#stage", "#controls", "#values"):
        bottom = page.js(f"return document.querySelector('{selector}').getBoundingClientRect().bottom")
        assert bottom <= page.js("return innerHeight"), selector
    assert page.js("return document.documentElement.scrollWidth <= innerWidth")
    if view == "3d":
        page.wait(lambda: page.js("return document.getElementById('gl')?.dataset.drawn"), "the volumes", 60)
