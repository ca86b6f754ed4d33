"""The most memory that a process held while it trained, by the operating system's count, in MB.

python -m benchlib.peak ours vgg_small 64 5                    5 steps of batch 64
python -m benchlib.peak torch_peer vgg_small 64 5 0            in the first of PyTorch's memory formats
"""

import importlib
import resource
import sys

from .cases import Train


def main() -> None:
    side, model, batch, steps, *memory_format = sys.argv[1:]
    module = importlib.import_module(f".{side}", __package__)
    step = module.training_step(Train(model, int(batch)), *(module.FORMATS[int(f)] for f in memory_format))
    for _ in range(int(steps)):
        step()
    unit = 2**20 if sys.platform == "darwin" else 2**10
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


if __name__ == "__main__":
    main()
