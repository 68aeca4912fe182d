"""A report in a real browser: it loads without an error and without network, fits the screen, and its pictures are there."""

import json
import os
import re
import shutil
import subprocess

import pytest

from foldfit.cli import main

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
PROBE = """<script>
const errors = [];
addEventListener("error", e => errors.push(String(e.message)), true);
addEventListener("load", () => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
  const out = document.createElement("pre");
  out.textContent = "PROBE" + JSON.stringify({
    errors, loaded: performance.getEntriesByType("resource").map(e => e.name),
    pictures: [...document.querySelectorAll("figure svg")].map(e => [...box(e), e.querySelectorAll("path").length]),
    page: [document.documentElement.scrollWidth, innerWidth], ground: getComputedStyle(document.body).backgroundColor,
    names: [...document.querySelectorAll("figure")].map(e => e.getAttribute("aria-label")),
  }) + "END";
  document.body.append(out);
});
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    flags = ["--n-seq", "4", "--n-res", "6", "--blocks", "3", "--mode", "train", "--memory", "46MiB"]
    assert main(["plan", *flags, "-o", str(folder / "plan.json")]) == 0
    assert main(["run", str(folder / "plan.json"), "--repeat", "0", "-o", str(folder / "run"), "--trace", str(folder / "t.json")]) == 0
    assert main(["report", str(folder / "run"), "-o", str(folder / "plain.html")]) == 0
    text = (folder / "plain.html").read_text()
    (folder / "report.html").write_text(text.replace("<head>", "<head>" + PROBE, 1))
    return folder


def browse(folder, *flags: str) -> str:
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
               f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND", *flags]  # fmt: skip
    own = {f"XDG_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "DATA")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("size", "flags", "ground"), [
    ("1200,900", [], "rgb(255, 255, 255)"), ("420,900", ["--blink-settings=preferredColorScheme=0"], "rgb(22, 22, 22)"),
])  # fmt: skip
def test_wide_and_light_narrow_and_dark(report, size, flags, ground):
    dom = browse(report, f"--window-size={size}", *flags, "--dump-dom", (report / "report.html").as_uri())
    found = json.loads(re.search(r"PROBE(\{.*\})END", dom).group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert found["errors"] == [] and found["loaded"] == [] and found["ground"] == ground
    assert len(found["pictures"]) == len(found["names"]) == 6 and all(found["names"])
    for width, height, paths in found["pictures"]:
        assert width >= 600 and height > 60 and paths > 5
    assert found["page"][0] <= found["page"][1], "tables and pictures scroll, the page does not"


def test_it_prints(report):
    browse(report, f"--print-to-pdf={report / 'report.pdf'}", "--no-pdf-header-footer", (report / "plain.html").as_uri())
    pdf = (report / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page /") + pdf.count(b"/Type /Page>>") >= 3
