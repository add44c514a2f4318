"""Tables between the names of a foreign network and ours: one mechanism for all formats.

A table is a list of rows, made for one encoder by `weights/caffe.py` or `weights/torch.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses

from flax import traverse_util
import numpy as np

from colorize_jax.errors import WeightsError

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray | None]
Tree = dict

_SHOWN = 8  # names of every kind in an error


@dataclasses.dataclass(frozen=True)
class Row:
    """Some foreign arrays, the arrays of ours that they stand for, and the way there and back.

    Attributes:
        theirs: {name: shapes that it may have}; the first of the shapes is the one that is written.
        ours: paths, as in "params/encoder/conv1_1/kernel".
        to_ours: arrays in the order of `theirs` (None for one that is not there) -> arrays in the
            order of `ours`.
        to_theirs: the way back; None for one that is not written. None: there is no way back.
        optional: of `theirs`, those that may be missing.
        default: in the order of `ours`, for when all of `theirs` are missing; (): that is an error.
    """

    theirs: Mapping[str, Sequence[Shape]]
    ours: Sequence[str]
    to_ours: Callable[..., Arrays]
    to_theirs: Callable[..., Arrays] | None
    optional: Collection[str] = ()
    default: Arrays = ()


def same(name: str, path: str, shape: Shape) -> Row:
    """The row of an array that is the same on both sides."""
    return Row({name: [shape]}, [path], lambda array: [array], lambda array: [array])


def to_ours(
    rows: Sequence[Row],
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
    *,
    left_over: Callable[[str], bool] = lambda name: False,
    source: str = "the file",
) -> tuple[dict[str, Tree], list[str]]:
    """Foreign arrays as our tree.

    Args:
        rows: the table.
        arrays: by foreign name, of any kind of real numbers.
        shapes: {path: shape} of all that must be filled, see `shapes_of`.
        left_over: which names may be left over.
        source: what the arrays are from, for errors.

    Returns:
        {"params": {"encoder": ...}, "batch_stats": ...}, float32, and the names left over.

    Raises:
        WeightsError: lists names without a row, paths that nothing fills, wrong shapes, and arrays
            with NaN or infinity.
    """
    problems = _Problems()
    filled: dict[str, np.ndarray] = {}
    for row in rows:
        found = [_float32(arrays[name]) if name in arrays else None for name in row.theirs]
        if row.default and all(array is None for array in found):
            filled |= zip(row.ours, row.default, strict=True)
            continue
        if _fits(row, found, problems):
            with np.errstate(all="ignore"):  # what is not finite then is named below
                made = [np.asarray(array, np.float32) for array in row.to_ours(*found)]
            filled |= zip(row.ours, made, strict=True)
    taken = {name for row in rows for name in row.theirs}
    rest = [name for name in arrays if name not in taken]
    problems.without_row = [name for name in rest if not left_over(name)]
    tried = {path for row in rows for path in row.ours}
    problems.missing += [path for path in shapes if path not in tried]
    for path, array in filled.items():
        if array.shape != shapes.get(path):
            problems.shapes.append(f"{path} would be {array.shape}, not {shapes.get(path)}")
        elif not np.isfinite(array).all():
            problems.infinite.append(path)
        elif path.endswith("/var") and (array < 0).any():
            problems.infinite.append(f"{path} (below zero)")
    problems.stop(f"{source} does not hold what the network needs")
    return _nested(filled), [name for name in rest if left_over(name)]


def to_theirs(
    rows: Sequence[Row], variables: dict[str, Tree], *, source: str = "the network"
) -> dict[str, np.ndarray]:
    """Our tree as foreign arrays, float32, in the order of the table.

    Args:
        rows: the table.
        variables: {"params": {"encoder": ...}, "batch_stats": ...}.
        source: what they are from, for errors.

    Raises:
        WeightsError: lists paths without a row, paths that are missing, wrong shapes, NaN and
            infinity.
    """
    ours = {path: np.asarray(array) for path, array in flat(variables).items()}
    problems = _Problems()
    written: dict[str, np.ndarray] = {}
    for row in rows:
        missing = [path for path in row.ours if path not in ours]
        problems.missing += missing
        infinite = [path for path in row.ours if path in ours and not np.isfinite(ours[path]).all()]
        problems.infinite += infinite
        if missing or infinite:
            continue
        if row.to_theirs is None:
            raise WeightsError(f"{', '.join(row.ours)} of {source} cannot be written back")
        values = row.to_theirs(*(ours[path] for path in row.ours))
        for (name, allowed), array in zip(row.theirs.items(), values, strict=True):
            if array is None:
                continue
            if array.shape not in [tuple(shape) for shape in allowed]:
                problems.shapes.append(f"{name} would be {array.shape}, not {_either(allowed)}")
            written[name] = np.asarray(array, order="C")
    taken = {path for row in rows for path in row.ours}
    problems.without_row = [path for path in ours if path not in taken]
    problems.stop(f"{source} does not fit the other format")
    return written


def shapes_of(variables: dict[str, Tree]) -> dict[str, Shape]:
    """{path: shape} of a tree of arrays or of their abstract values."""
    return {path: tuple(leaf.shape) for path, leaf in flat(variables).items()}


def flat(variables: dict[str, Tree]) -> dict:
    """{"params/encoder/conv1_1/kernel": leaf, ...}; an empty subtree has no leaf."""
    return traverse_util.flatten_dict(variables, sep="/")


def listed(names: Collection[str]) -> str:
    """Names in a sentence, the first few of many."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@dataclasses.dataclass
class _Problems:
    without_row: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    shapes: list[str] = dataclasses.field(default_factory=list)
    infinite: list[str] = dataclasses.field(default_factory=list)

    def stop(self, title: str) -> None:
        parts = (
            ("not known", self.without_row),
            ("missing", self.missing),
            ("of a wrong shape", self.shapes),
            ("not finite", self.infinite),
        )
        said = [f"{len(names)} {kind}: {listed(names)}" for kind, names in parts if names]
        if said:
            raise WeightsError(f"{title}; {'; '.join(said)}")


def _fits(row: Row, found: Arrays, problems: _Problems) -> bool:
    """Whether the arrays of a row are there and of their shapes; says so if not."""
    absent = [name for name, array in zip(row.theirs, found, strict=True)
              if array is None and name not in row.optional]  # fmt: skip
    problems.missing += [f"{name} (for {', '.join(row.ours)})" for name in absent]
    good = not absent
    for (name, allowed), array in zip(row.theirs.items(), found, strict=True):
        if array is None:
            continue
        if array.shape not in [tuple(shape) for shape in allowed]:
            problems.shapes.append(f"{name} is {array.shape}, not {_either(allowed)}")
            good = False
        elif array.dtype.kind not in "fiu":
            problems.shapes.append(f"{name} holds no numbers but {array.dtype}")
            good = False
        elif not np.isfinite(array).all():
            problems.infinite.append(name)
            good = False
    return good


def _float32(array: np.ndarray) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating):
        return array
    with np.errstate(over="ignore"):  # what is too large is infinite then, and named
        return np.asarray(array, np.float32)


def _either(shapes: Sequence[Shape]) -> str:
    return " or ".join(str(tuple(shape)) for shape in shapes)


def _nested(filled: dict[str, np.ndarray]) -> dict[str, Tree]:
    whole = {path: np.asarray(array, order="C") for path, array in filled.items()}
    nested = traverse_util.unflatten_dict(whole, sep="/")
    return {"params": {}, "batch_stats": {}} | nested
