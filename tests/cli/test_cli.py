"""The command line, as a user would: results on stdout, one line on stderr, exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from foldfit.cli import main
from foldfit.inputs.a3m import read_a3m
from foldfit.plans import Plan

ROOT = Path(__file__).parents[2]
ALIGNMENT = str(ROOT / "examples" / "6kwc.a3m")
WIDTHS = "c_m=16 c_z=16 msa_heads=2 msa_dim=8 pair_heads=2 pair_dim=8 c_hidden_opm=4 c_hidden_mul=16".split()
TINY = ["--n-seq", "6", "--n-res", "9", "--blocks", "2", *(x for w in WIDTHS for x in ("--width", w)), "--memory", "64MiB"]
BIG = ["--n-seq", "128", "--n-res", "256", "--device", "H200", "--memory", "16GiB", "--mode", "train", "--precision", "bf16"]


def call(capsys, *argv: str) -> tuple[int, str, str]:
    try:
        code = main(list(argv))
    except SystemExit as error:
        code = int(error.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


def test_plan_prints_a_table_or_one_object(capsys):
    code, out, _ = call(capsys, "plan", *BIG)
    assert code == 0 and "promised peak" in out and "lower bound" in out
    code, out, _ = call(capsys, "plan", *BIG, "--costs", "modelled", "--json")
    plan = json.loads(out)
    assert code == 0 and plan["promised"]["peak_bytes"] <= 2**34 and plan["bound"]["gap"] < 0.01 and plan["costs"] == "modelled"
    assert {"schema", "problem", "policy", "solver", "schedule"} <= set(plan)


def test_a_plan_that_the_host_slows_says_what_graphs_would_take(capsys):
    hint = "the host's launches decide: as CUDA graphs"
    assert hint in call(capsys, "plan", *BIG)[1]
    graph = call(capsys, "plan", *BIG, "--launch", "graph")[1]
    assert hint not in graph and graph.split("promised time")[1].split("(")[0].strip() in call(capsys, "plan", *BIG)[1]
    assert hint in call(capsys, "plan", *BIG, "--gpus", "2")[1]
    for more in (["--host-memory", "8GiB"], ["--n-res", "1024", "--mode", "infer"], ["--json"]):
        assert hint not in call(capsys, "plan", *BIG, *more)[1], more


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_plan_run_and_save(capsys, tmp_path, mode):
    path = tmp_path / "plan.json"
    assert call(capsys, "plan", *TINY, "--mode", mode, "-o", str(path))[0] == 0
    more = ["--save", str(tmp_path / "out.safetensors")] if mode == "infer" else []
    code, out, err = call(capsys, "run", str(path), "-o", str(tmp_path / "run"), "--json", *more)
    measured = json.loads(out)
    assert code == 0 and measured["peak_bytes"] <= measured["promised_peak_bytes"] and "random" in err
    assert json.loads((tmp_path / "run" / "measured.json").read_text()) == measured
    assert Plan.load(tmp_path / "run" / "plan.json") == Plan.load(path)
    assert (tmp_path / "out.safetensors").exists() == bool(more)
    assert not list(tmp_path.rglob("*.tmp"))


def test_host_memory(capsys, tmp_path):
    path = str(tmp_path / "plan.json")
    flags = [*TINY, "--blocks", "6", "--mode", "train", "--host-memory", "1GiB"]
    least = call(capsys, "plan", *flags, "--memory", "1KiB")
    assert least[0] == 3 and "host memory makes a step faster, not smaller" in least[2]
    need = least[2].split("--memory ")[1].split()[0]
    code, out, _ = call(capsys, "plan", *flags, "--memory", need, "-o", path)
    assert code == 0 and "on the host" in out and "exposed" in out
    code, out, _ = call(capsys, "run", path, "-o", str(tmp_path / "run"))
    assert code == 0 and "\nhost " in out
    assert call(capsys, "report", str(tmp_path / "run"), "-o", str(tmp_path / "report.html"))[0] == 0
    code, out, _ = call(capsys, "compare", *flags, "--memory", need)
    assert code == 0 and "exposed" in out and "without host memory" in out
    code, out, _ = call(capsys, "compare", *flags, "--memory", need, "--json")
    assert json.loads(out)["policies"][-1]["host_bytes"] == Plan.load(path).promised.host_bytes > 0
    flags = [*TINY, "--host-memory", "1GiB"]
    code, _, error = call(capsys, "plan", *flags)
    assert code == 4 and "--inputs overwritten" in error
    least = call(capsys, "plan", *flags, "--inputs", "overwritten", "--memory", "1KiB")
    need = least[2].split("--memory ")[1].split()[0]
    code, out, _ = call(capsys, "plan", *flags, "--inputs", "overwritten", "--memory", need, "-o", str(tmp_path / "hosted.json"))
    assert code == 0 and "on the host" in out and "of copies exposed" in out
    code, out, _ = call(capsys, "run", str(tmp_path / "hosted.json"), "-o", str(tmp_path / "hosted"))
    assert code == 0 and "\nhost " in out and "\nexposed " in out
    assert call(capsys, "report", str(tmp_path / "hosted"), "-o", str(tmp_path / "hosted.html"))[0] == 0
    code, _, error = call(capsys, "plan", *flags[:-1], "many")
    assert code == 2 and "many" in error


def test_an_alignment_is_planned_and_run(capsys, tmp_path):
    path = str(tmp_path / "plan.json")
    flags = [x for w in WIDTHS for x in ("--width", w)]
    assert call(capsys, "plan", "--msa", ALIGNMENT, "--n-seq", "8", "--blocks", "1", *flags, "-o", path)[0] == 0
    assert Plan.load(path).problem.n_res == 191
    assert call(capsys, "run", path, "--msa", ALIGNMENT, "--repeat", "0")[0] == 0


def test_compare_max_analyze_devices_doctor(capsys):
    code, out, _ = call(capsys, "compare", *BIG, "--blocks", "12", "--memory", "6GiB", "--json")
    found = json.loads(out)
    fits = {row["policy"]: row["fits"] for row in found["policies"]}
    assert code == 0 and fits["auto"] and fits["large"] and not fits["none"]
    seconds = [point["seconds"] for point in found["frontier"]]
    assert seconds == sorted(seconds, reverse=True) and all(p["bound_seconds"] <= p["seconds"] * (1 + 1e-9) for p in found["frontier"])
    flags = ["--n-seq", "128", "--device", "H200", "--precision", "bf16", "--blocks", "2", "--memory", "3GiB", "--limits", "1GiB,2GiB"]
    code, out, _ = call(capsys, "max", *flags, "--json")
    longest = [row["n_res"] for row in json.loads(out)["longest"]]
    assert code == 0 and longest == sorted(longest) and longest[0] > 1000
    code, out, _ = call(capsys, "analyze", "--n-seq", "512", "--n-res", "384", "--precision", "fp16")
    assert code == 0 and "1.83 M" in out and "GPT-3" in out and "an s too many" in out
    assert "H200" in call(capsys, "devices")[1]
    assert json.loads(call(capsys, "doctor", "--json")[1])["torch"]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["plan", "--n-seq", "8"], 2, "how long is the protein"),
        (["plan", "--n-res", "8"], 2, "how many rows"),
        (["plan", "--n-seq", "0", "--n-res", "8"], 2, "at least 1, got 0"),
        (["plan", "--n-seq", "8", "--n-res", "-3"], 2, "at least 1, got -3"),
        (["plan", *TINY[:-1], "16Gi"], 2, "perhaps 16GiB"),
        (["plan", *TINY, "--stack", "openfold"], 2, "unknown stack 'openfold'"),
        (["plan", *TINY, "--policy", "tiny"], 2, "unknown policy 'tiny'"),
        (["plan", *TINY, "--policy", "no_such_module:f"], 2, "no_such_module"),
        (["plan", *TINY, "--policy", "math:sqrt"], 2, "policy 'math:sqrt' failed: TypeError"),
        (["plan", *TINY, "--policy", "math:pi"], 2, "policy 'math:pi' is no function"),
        (["plan", *TINY, "--policy", ":f"], 2, "expected an importable module"),
        (["plan", *TINY, "--precision", "fp8"], 2, "invalid choice: 'fp8'"),
        (["plan", *TINY, "--n-res", "long"], 2, "invalid int value: 'long'"),
        (["plan", *TINY, "--memory", "-1GiB"], 2, "--memory: expected one argument"),
        (["fold"], 2, "invalid choice: 'fold'"),
        ([], 2, "required: VERB"),
        (["plan", *TINY, "--solver", "magic"], 2, "unknown solver 'magic'"),
        (["plan", *TINY, "--device", "abacus"], 2, "unknown device"),
        (["plan", *TINY, "--width", "c_q=3"], 2, "unknown width 'c_q'"),
        (["plan", *TINY, "--optimizer", "adam"], 2, "--mode train"),
        (["plan", *TINY[:-1], "1kB"], 3, "give --memory"),
        (["plan", *BIG, "--policy", "none"], 3, "or --policy auto"),
        (["plan", "--n-seq", "8", "--n-res", "8", "--device", "V100-16GB", "--precision", "bf16"], 4, "V100-16GB has no bf16"),
        (["plan", *TINY, "-o", "/proc/none/plan.json"], 2, "cannot write"),
        (["plan", "--msa", "none.a3m"], 2, "No such file"),
        (["doctor", "--precisions", "bf16"], 2, "are of --kernels"),
        (["plan", "--n-seq=--8", "--n-res", "8"], 2, "--n-seq --8: expected 1 whole number"),
        (["plan", "--n-seq", "²", "--n-res", "8"], 2, "--n-seq ²"),
        (["plan", *TINY, "--gpus", "²"], 2, "--gpus ²"),
        (["plan", *TINY, "--width", "c_m=²"], 2, "--width c_m=²"),
        (["plan", *TINY, "--mode", "train", "--solver", "exhaustive"], 4, "at most 4 blocks of 9 combinations"),
        (["run", "none.json"], 2, "cannot read none.json"),
        (["run", ALIGNMENT], 2, "is not a plan"),
    ],
)
def test_bad_input_is_one_clear_line_and_the_right_exit_code(capsys, argv, code, words):
    got, out, err = call(capsys, *argv)
    assert (got, out) == (code, "") and words in err and err.count("\n") == 1 and "Traceback" not in err


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda p: edit(p, '"n_res": 9', '"n_res": 8'), 2, "was changed after it was planned"),
        (lambda p: edit(p, '"schema": 6', '"schema": 99'), 4, "plan schema 99"),
        (lambda p: edit(p, '"rows"', '"raws"'), 2, "is not a plan of foldfit"),
        (lambda p: p.write_text(p.read_text()[:300]), 2, "is not a plan of foldfit"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), 2, "is not a plan of foldfit"),
    ],
)
def test_a_plan_that_is_not_what_was_planned(capsys, tmp_path, change, code, words):
    path = tmp_path / "plan.json"
    call(capsys, "plan", *TINY, "-o", str(path))
    change(path)
    got, _, err = call(capsys, "run", str(path))
    assert got == code and words in err and err.count("\n") == 1


def test_inputs_that_are_not_the_plans(capsys, tmp_path):
    path = str(tmp_path / "plan.json")
    call(capsys, "plan", *TINY, "-o", path)
    assert "191 residues, the plan is for 9" in call(capsys, "run", path, "--msa", ALIGNMENT)[2]
    np.savez(tmp_path / "w.npz", x=np.zeros(3))
    code, _, err = call(capsys, "run", path, "--weights", str(tmp_path / "w.npz"))
    assert code == 2 and "is missing" in err
    assert call(capsys, "run", path, "--repeat", "-1")[0] == 2
    for seed in ("-1", str(2**63)):
        code, _, err = call(capsys, "run", path, "--seed", seed)
        assert code == 2 and f"seed: expected a whole number from 0 to 2**63 - 1, got {seed}" in err and err.count("\n") == 1


@pytest.mark.parametrize("argv", [["run", "PATH"], ["bench", "PATH"], ["plan", *TINY, "--costs", "PATH"], ["report", "DIR"]])
def test_json_of_any_depth_is_one_line(capsys, tmp_path, argv):
    path = tmp_path / "measured.json"
    path.write_text("[" * 100_000)
    (tmp_path / "plan.json").write_text("[" * 100_000)
    code, out, err = call(capsys, *(str({"PATH": path, "DIR": tmp_path}.get(word, word)) for word in argv))
    assert (code, out) == (2, "") and err.count("\n") == 1


def test_a_plan_beyond_its_card_says_so(capsys):
    argv = ["plan", "--n-seq", "512", "--n-res", "384", "--mode", "train", "--precision", "bf16", "--policy", "none"]
    code, _, err = call(capsys, *argv, "--device", "L4", "--memory", "500GiB")
    assert code == 0 and err.startswith("note: L4 has 23.25 GiB for plans, and this one needs ") and err.count("\n") == 1
    assert call(capsys, *argv[:-2], "--device", "L4", "--memory", "16GiB")[2] == ""


def test_no_output_overwrites_anything(capsys, tmp_path):
    path, out = str(tmp_path / "plan.json"), tmp_path / "out"
    call(capsys, "plan", *TINY, "-o", path)
    text = Path(path).read_text()
    code, _, err = call(capsys, "plan", *TINY, "--policy", "none", "-o", path)
    assert code == 2 and "exists: give another name, or --force" in err and Path(path).read_text() == text
    assert call(capsys, "plan", *TINY, "-o", path, "--force")[0] == 0
    code, said, _ = call(capsys, "run", path, "-o", str(tmp_path), "--repeat", "0")  # the very plan that runs
    assert code == 0 and "the time is that of the metered run" in said
    out.mkdir()
    for name in ("plan.json", "measured.json", "memory.svg"):
        (out / name).write_text("mine")
        code, _, err = call(capsys, "run", path, "-o", str(out))
        assert code == 2 and f"{name} exists" in err and (out / name).read_text() == "mine"
        (out / name).unlink()
    code, _, err = call(capsys, "run", path, "-o", str(out), "--trace", str(out / "measured.json"))
    assert code == 2 and "is given twice" in err and not list(out.iterdir())


@pytest.mark.parametrize("flag", ["--save", "--trace"])
def test_an_output_that_cannot_be_written_is_said_before_anything_runs(capsys, tmp_path, monkeypatch, flag):
    path = str(tmp_path / "plan.json")
    call(capsys, "plan", *TINY, "-o", path)
    monkeypatch.setattr("foldfit.runtime.measure.measure", lambda *_, **__: pytest.fail("ran"))
    code, _, err = call(capsys, "run", path, flag, "/proc/none/x")
    assert code == 2 and "cannot write" in err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, err = call(capsys, "run", path, "--save", str(tmp_path / "x"))
    assert code == 5 and "foldfit[save]" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
@pytest.mark.parametrize("argv", [["devices"], ["plan", *TINY], ["plan", *TINY, "-o", "PATH"], ["plan", *TINY, "--json"]])
def test_a_full_disk_behind_the_output_is_one_line(tmp_path, argv):
    argv = [str(tmp_path / "plan.json") if a == "PATH" else a for a in argv]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "foldfit", *argv], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    assert done.returncode == 5 and done.stderr.count("\n") == 1 and "make room" in done.stderr


def test_an_alignment_has_as_many_rows_whatever_the_length(capsys):
    with_rows, with_msa = (
        json.loads(call(capsys, "max", *rows, "--blocks", "1", "--device", "L4", "--limits", "", "--json")[1])["longest"]
        for rows in (["--n-seq", str(len(read_a3m(ALIGNMENT).rows))], ["--msa", ALIGNMENT])
    )
    assert with_rows == with_msa and with_msa[0]["n_res"] > 191


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--precisions", "nope"], "--precisions nope: expected fp32"), (["--compile", "nope"], "--compile nope"),
        (["--again", "nope"], "--again nope"), (["--n-res", "9999"], "nothing to measure"),
        (["--minutes", "nan"], "--minutes nan"), (["--minutes", "-1"], "--minutes -1"),
        (["--gpus", "2"], "--gpus 2 is for 2 ranks, 1 was started: torchrun --nproc-per-node 2 -m foldfit profile"),
    ],
)  # fmt: skip
def test_a_profile_without_sense_is_one_line(capsys, argv, words):
    code, out, err = call(capsys, "profile", *TINY, *argv)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_a_plan_for_a_card_that_is_not_here(capsys, tmp_path):
    path = str(tmp_path / "plan.json")
    call(capsys, "plan", *BIG, "-o", path)
    code, _, err = call(capsys, "run", path)
    assert code == 5 and "no CUDA device" in err


def test_a_users_policy(capsys, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import foldfit\n\n"
        "def halves(table):\n"
        "    four = lambda stack: tuple(foldfit.find_option(sub, rows=4) for sub in stack.sub_modules)\n"
        "    return [foldfit.BlockChoice(four(stack)) for stack in table.stacks]\n\n"
        "def nothing(table):\n    return []\n"
    )
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / "plan.json")
    assert call(capsys, "plan", *TINY, "--mode", "train", "--policy", "mine:halves", "-o", path)[0] == 0
    assert {c.rows for choices in Plan.load(path).choices.values() for c in choices} <= {3, 4}
    assert call(capsys, "run", path)[0] == 0
    assert call(capsys, "plan", *TINY, "--policy", "mine:nothing")[0] == 2
    sys.modules.pop("mine", None)


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_planning_never_imports_torch():
    done = fresh(
        f"import sys; from foldfit.cli import main; code = main({['plan', *BIG]!r}); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    assert done.returncode == 0, done.stderr


def test_help_imports_nothing_heavy():
    done = fresh(
        "import sys, foldfit.cli as c; c.parser_of().format_help(); assert not {'torch', 'numpy', 'msgspec', 'rich'} & set(sys.modules)"
    )
    assert done.returncode == 0, done.stderr


def test_ctrl_c_is_one_line(capsys, monkeypatch, tmp_path):
    path = str(tmp_path / "plan.json")
    call(capsys, "plan", *TINY, "-o", path)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("foldfit.runtime.measure.measure", interrupted)
    code, _, err = call(capsys, "run", path, "-o", str(tmp_path / "run"))
    assert code == 1 and "interrupted" in err and not list((tmp_path / "run").iterdir())


def test_ctrl_c_while_torch_is_imported_ends_at_once():
    done = fresh(
        "import os, signal, importlib, foldfit.cli as c\n"
        "importlib.import_module = lambda name: os.kill(os.getpid(), signal.SIGINT)\n"
        "c.import_torch(); print('went on')"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "foldfit: interrupted; nothing was left half-written\n")


def test_plans_for_several_devices(capsys, tmp_path):
    path = tmp_path / "plan.json"
    code, out, _ = call(capsys, "plan", *BIG, "--gpus", "8", "--axial", "4", "-o", str(path))
    assert code == 0 and "8, 4 to a sample, 2 samples" in out and "m0 z0 x 1 > m1 z0 x 4" in out
    assert f"torchrun --nproc-per-node 8 -m foldfit run {path}" in out
    assert (Plan.load(path).problem.world, Plan.load(path).problem.axial) == (8, 4)


def test_numbers_of_devices_are_compared(capsys):
    flags = ["--n-seq", "32", "--n-res", "48", "--blocks", "1", "--device", "H200", "--memory", "100MB", "--gpus"]
    code, out, _ = call(capsys, "compare", *flags, "1,2,4", "--policy", "chunk", "--policy", "auto", "--json")
    rows = json.loads(out)["ranks"]
    assert code == 0 and [(r["policy"], r["ranks"]) for r in rows] == [(p, n) for p in ("chunk", "auto") for n in (1, 2, 4)]
    assert rows[0]["efficiency"] == 1 and rows[3]["longest_n_res"] < rows[5]["longest_n_res"]
    code, out, _ = call(capsys, "compare", *flags, "1,2")
    assert code == 0 and "100.0 %" in out and len(out.splitlines()) == 4


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--gpus", "0"], 2, "--gpus 0: expected whole numbers of at least 1"),
        (["--gpus", "two"], 2, "--gpus two"),
        (["--gpus", "2,4"], 2, "expected one number"),
        (["--gpus", "4", "--axial", "3"], 2, "divisor of the 4 ranks"),
        (["--gpus", "4", "--axial", "0"], 2, "axial: expected a whole number"),
        (["--gpus", "2", "--mode", "infer", "--inputs", "overwritten"], 4, "keep the inputs"),
    ],
)
def test_devices_without_sense_are_one_line(capsys, more, code, words):
    got, out, err = call(capsys, "plan", *BIG, *more)
    assert (got, out) == (code, "") and words in err and err.count("\n") == 1


def test_an_inference_into_its_inputs_takes_less(capsys):
    peaks = []
    for inputs in ("kept", "overwritten"):
        code, out, _ = call(capsys, "plan", *TINY, "--inputs", inputs, "--json")
        assert code == 0
        peaks.append(json.loads(out)["promised"]["peak_bytes"])
    assert peaks[1] < peaks[0]
