"""Save and restore the global random streams."""

import random

import numpy as np
import torch


class RandomState:
    """Save the state of every global random stream: python, numpy, torch and each CUDA device.

    Lightning's `isolate_rng` is not used: it does not restore after an exception.
    """

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        # Reading the CUDA state would initialize CUDA; without that there is no state to lose.
        started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if started else []

    def restore(self) -> None:
        """Restore every stream."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
