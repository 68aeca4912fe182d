"""Without a GPU, kernels run in Triton's interpreter. Triton reads the switch when it is first imported."""

import os
import shutil
from pathlib import Path

from hypothesis import settings

os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent / "no-cache")  # costs measured on this machine are not the tests'
os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers times threads would be more than the cores
# A busy machine takes longer than any deadline; the same examples every time.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"
    from foldfit.profile.moments import interpret_in_place
    from tests.interpreter import remember_builtins

    interpret_in_place()
    remember_builtins()
