"""What every front end hands on, and the registry that its handlers stand in."""
from dataclasses import dataclass, field
from typing import Any, Callable, List, Optional, Tuple

from .passes import Finished

# Why a transformer is refused.
NO_ATTENTION = ("attention (a product of two tensors that depend on the image, as in transformers): AGF would need a rule "
                "that divides relevance among its factors; only convolutional networks are understood")


@dataclass
class Imported:
    """A network that a front end has read."""
    finished: Finished
    input_shape: Tuple[int, int, int]                # [C, H, W]
    reference: Optional[Callable] = None             # [tensor [C,H,W], ...] -> [what the original computes, flat, ...]; None:
                                                     # its runtime is not installed
    reference_name: str = ""                         # "ONNX Runtime" ...
    range: Optional[Tuple[float, float]] = None      # integers in it are all that the original takes
    files: List[str] = field(default_factory=list)   # everything that was read: no output may replace it
    labels: List[str] = field(default_factory=list)  # where the file itself carries them
    preprocessing: dict = field(default_factory=dict)  # fields of Preprocessing, where the file carries them
    tolerance: float = 1e-3                          # how far its logits may lie from ours, relative (check.py)
    exact: bool = True                               # False: the original rounds (quantised), so logits only resemble ours

# Of an operation: handler(node, *its arguments) gives what the operation does.
Handler = Callable[..., Any]


class Registry:
    """Handlers by operation and the version of the operations that they hold from.

        registry = Registry()
        @registry.handles("Clip", since=11)
        def clip(node, x, lo=None, hi=None): ...
    """

    def __init__(self) -> None:
        self._handlers = {}

    def handles(self, *names: str, since=0) -> Callable[[Handler], Handler]:
        def register(function) -> Handler:
            for name in names:
                self._handlers.setdefault(name, []).append((since, function))
            return function
        return register

    def find(self, name, version=0):
        """The handler of the newest version up to `version`; None if there is none."""
        found = [(since, function) for since, function in self._handlers.get(name, []) if since <= version]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def names(self):
        return sorted(self._handlers)
