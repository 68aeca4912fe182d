"""`foldfit report`: one file that opens by itself, with every number of its pictures in a table."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import pytest

from foldfit.cli import main
from foldfit.plans import Plan

FLAGS = ["--stack", "evoformer", "--n-seq", "6", "--n-res", "9", "--blocks", "3", "--mode", "train", "--device", "cpu", "--memory", "80MiB"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert main(["plan", *FLAGS, "-o", str(out / "p.json")]) == 0
    assert main(["run", str(out / "p.json"), "--repeat", "0", "-o", str(out / "tight")]) == 0
    return out / "tight"


class Tags(HTMLParser):
    """What a page loads, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]
        if tag not in ("meta", "br", "wbr", "img", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_report_is_one_file_with_pictures_and_their_numbers(folder, capsys, tmp_path):
    path = tmp_path / "r.html"
    assert main(["report", str(folder), str(folder), "-o", str(path), "--pictures", str(tmp_path / "p")]) == 0
    text = path.read_text()
    tags = Tags(text)
    text = text.replace("<wbr>", "")
    assert tags.open == [] and tags.loads == []
    assert text.count("<svg") == text.count("aria-label=") == 11
    assert {p.name for p in (tmp_path / "p").iterdir()} == {"plans.svg"} | {
        f"{i}-tight-{name}.svg" for i in (1, 2) for name in ("memory", "schedule", "sub_modules", "frontier", "lengths")
    }
    for picture in (tmp_path / "p").iterdir():
        svg = ElementTree.parse(picture).getroot()
        assert svg.tag.endswith("svg") and "#fff" in svg.attrib["style"] and len(list(svg.iter())) > 50
    for words in ("measured", "promised peak", "limit", "kept by msa_transition", "parameter gradients"):
        assert re.search(rf">\s*{words}\s*<", text), "the legend of the picture of memory"
    rows = re.findall(r"<tr><td>(\w+)</td><td>([^<]+)</td><td>([^<]+)</td><td>([\d.]+)</td>", text)
    assert len(rows) == 18 and all(0.9 <= float(ratio) <= 1 for *_, ratio in rows)
    shares = re.findall(r"<td>([\d.]+) %</td>", text)
    assert sum(map(float, shares)) == pytest.approx(2 * 100, abs=2), "the parts of both peaks"
    assert text.count("measured peak of msa_transition") == 1, "two runs are compared"
    stops = re.search(r"this plan&#39;s limit, 80.00 MiB</td>(.*?)</tr>", text)
    assert stops and re.fullmatch(r"(<td>(&[lg]t; )?\d+</td>){5}", stops.group(1))


def test_benches_are_in_it_and_compared(capsys, tmp_path):
    flags = ["--sizes", "4x6", "--blocks", "1", "--memory", "64MiB", "--predict"]
    for name, policies in (("a", "none"), ("b", "none,chunk")):
        assert main(["bench", *flags, "--policies", policies, "-o", str(tmp_path / name)]) == 0
    assert main(["report", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    text = (tmp_path / "a" / "report.html").read_text()
    assert Tags(text).open == [] and text.count("1 x evoformer (4 rows)") == 3
    assert "1 rows in both files, 1 changes beyond noise" in text and "row none -&gt; new" in text


def test_peers_stand_beside_the_run(folder, capsys, tmp_path):
    same = {"n_seq": 6, "n_res": 9, "blocks": 3, "precision": "fp32", "mode": "train", "peak": 10**8}
    rows = [{"who": "OpenFold", "ms": 1234.0, **same}, {"who": "absent", "absent": "not installed", **same}]
    rows += [{"who": "of another length", "ms": 1.0, **same, "n_res": 8}, {"what": "attention", "who": "cuEq", "forward_ms": 0.1}]
    path = tmp_path / "peers.json"
    path.write_text(json.dumps({"device": "cpu", "torch": "x", "rows": rows}))
    assert main(["report", str(folder), "-o", str(tmp_path / "r.html"), "--peers", str(path)]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "OpenFold, measured" in text and "<td>OpenFold</td><td>95.37 MiB</td><td>1.23 s</td>" in text
    assert "and 1 peers" in text and "another length" not in text and "absent" not in text
    capsys.readouterr()
    for wrong, words in (({"device": "NVIDIA H200", "rows": rows}, "no peer that ran the problem"), ({"rows": 3}, "has no measured peers")):
        path.write_text(json.dumps(wrong))
        assert main(["report", str(folder), "-o", str(tmp_path / "s.html"), "--peers", str(path)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not (tmp_path / "s.html").exists()


def test_nothing_is_overwritten(capsys, tmp_path):
    folder = str(tmp_path)
    assert main(["bench", "--sizes", "4x6", "--blocks", "1", "--memory", "64MiB", "--predict", "-o", folder]) == 0
    assert main(["report", folder]) == 0
    assert main(["report", folder]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["report", folder, "--force"]) == 0


def test_a_plan_that_was_not_the_one_that_ran_is_not_shown_with_it(folder, capsys, tmp_path):
    (tmp_path / "measured.json").write_text((folder / "measured.json").read_text())
    other = Plan.load(folder / "plan.json")
    promised = msgspec.structs.replace(other.promised, peak_bytes=other.promised.peak_bytes - 1)
    msgspec.structs.replace(other, promised=promised).signed().save(tmp_path / "plan.json")
    assert main(["report", str(tmp_path)]) == 2
    assert "measured.json is of another plan than plan.json" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "text", "words"), [
    ("measured.json", None, "has no measured.json"),
    ("measured.json", "{", "no measurement of foldfit"),
    ("measured.json", '{"peak_bytes": 3}', "missing required field `seconds`"),
    ("measured.json", "[1]", "no measurement of foldfit"),
    ("plan.json", "{}", "is not a plan"),
])  # fmt: skip
def test_wrong_folders_are_one_clear_line(folder, capsys, tmp_path, name, text, words):
    for each in ("plan.json", "measured.json"):
        (tmp_path / each).write_text((folder / each).read_text())
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    assert main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "report.html").exists()
