"""Samples that a machine was busy with something else for: more slices of a size take longer, so that one which takes far longer than a
finer one of its size is to be measured once more, and of both the lesser seconds count: nothing makes a kernel faster than it is."""

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from foldfit.cost.sample import Sample

FAR = 1.3
"""Times the seconds of a finer one."""


def spikes(samples: Iterable[Sample], new: Iterable[Sample]) -> set[tuple[object, ...]]:
    """The identities of those that are to be measured again, of sizes that have `new` samples; some kernels are really that slow in
    one piece."""
    by_size: dict[object, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_size[sample.key, sample.size].append(sample)
    found = set()
    for some in (by_size[key] for key in {(sample.key, sample.size) for sample in new}):
        for sample in some:
            finer = [other.seconds for other in some if other.rows < sample.rows]
            if any(mine > FAR * theirs > 0 for other in finer for mine, theirs in zip(sample.seconds[:2], other[:2], strict=True)):
                found.add(sample.identity)
    return found


def lesser(a: Sample, b: Sample) -> Sample:
    """Of two samples of one option."""
    names = ("forward", "backward", "host_forward", "host_backward")
    return msgspec.structs.replace(a, **{name: min(getattr(a, name), getattr(b, name)) for name in names})
