"""The table of experiments."""


from .removal import InsertDelete, Perturb, SingleDelete
from .masks import Segment, SegmentClasses
from .grid import Grid
from .label_free import LabelFree, OddObject
from .others import Sanity, Speed


EXPERIMENTS = {
    "perturb": Perturb,
    "segment": Segment,
    "segment-classes": SegmentClasses,
    "grid": Grid,
    "insert-delete": InsertDelete,
    "single-delete": SingleDelete,
    "sanity": Sanity,
    "label-free": LabelFree,
    "odd-object": OddObject,
    "speed": Speed,
}
