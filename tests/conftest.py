"""Without a GPU, kernels run in Triton's interpreter. Triton reads the switch when it is first imported."""

import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"
    from foldfit.profile.moments import interpret_in_place

    interpret_in_place()
