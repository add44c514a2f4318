"""Converts arrays between a foreign network and ours by tables; all formats use it.

A table is a list of rows for one encoder, made by `weights/caffe.py` or `weights/torch.py`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses

from flax import traverse_util
import numpy as np

from colorize_jax.errors import WeightsError

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray | None]
Tree = dict

_SHOWN = 8  # the most names of each kind in an error


@dataclasses.dataclass(frozen=True)
class Row:
    """Some foreign arrays, our corresponding arrays, and the conversions between them.

    Attributes:
        theirs: {name: allowed shapes}; the first shape is the one that is written.
        ours: our paths, such as "params/encoder/conv1_1/kernel".
        to_ours: arrays in the order of `theirs` (None for a missing one) -> arrays in the order of
            `ours`.
        to_theirs: the inverse; it returns None for an array that is not written. None if the row
            has no inverse.
        optional: the names in `theirs` that may be missing.
        default: the values of `ours` if all of `theirs` are missing; () makes that an error.
    """

    theirs: Mapping[str, Sequence[Shape]]
    ours: Sequence[str]
    to_ours: Callable[..., Arrays]
    to_theirs: Callable[..., Arrays] | None
    optional: Collection[str] = ()
    default: Arrays = ()


def same(name: str, path: str, shape: Shape) -> Row:
    """The row of an array that is equal in both networks."""
    return Row({name: [shape]}, [path], lambda array: [array], lambda array: [array])


def to_ours(
    rows: Sequence[Row],
    arrays: Mapping[str, np.ndarray],
    shapes: Mapping[str, Shape],
    *,
    left_over: Callable[[str], bool] = lambda name: False,
    source: str = "the file",
) -> tuple[dict[str, Tree], list[str]]:
    """Converts foreign arrays to our tree.

    Args:
        rows: the table.
        arrays: {foreign name: array of real numbers}.
        shapes: {path: shape} of all our arrays; see `shapes_of`.
        left_over: whether a name may stay unused.
        source: the source of the arrays, for errors.

    Returns:
        {"params": {"encoder": ...}, "batch_stats": ...} in float32, and the unused names.

    Raises:
        WeightsError: the message lists names without a row, paths without an array, wrong shapes,
            and arrays with NaN or infinity.
    """
    problems = _Problems()
    filled: dict[str, np.ndarray] = {}
    for row in rows:
        found = [_float32(arrays[name]) if name in arrays else None for name in row.theirs]
        if row.default and all(array is None for array in found):
            filled |= zip(row.ours, row.default, strict=True)
            continue
        if _fits(row, found, problems):
            with np.errstate(all="ignore"):  # Arrays that are not finite are reported below.
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
    """Converts our tree to foreign arrays in float32, in the order of the table.

    Args:
        rows: the table.
        variables: {"params": {"encoder": ...}, "batch_stats": ...}.
        source: the source of the variables, for errors.

    Raises:
        WeightsError: the message lists paths without a row, missing paths, wrong shapes, and arrays
            with NaN or infinity.
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
    """{path: shape} of a tree of arrays or abstract arrays."""
    return {path: tuple(leaf.shape) for path, leaf in flat(variables).items()}


def flat(variables: dict[str, Tree]) -> dict:
    """{"params/encoder/conv1_1/kernel": leaf, ...}; an empty subtree has no leaf."""
    return traverse_util.flatten_dict(variables, sep="/")


def listed(names: Collection[str]) -> str:
    """Names as a part of a sentence; of many, the first few."""
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
    """Whether the arrays of a row exist and have allowed shapes; otherwise adds to `problems`."""
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
    with np.errstate(over="ignore"):  # Values that are too large become infinite and are reported.
        return np.asarray(array, np.float32)


def _either(shapes: Sequence[Shape]) -> str:
    return " or ".join(str(tuple(shape)) for shape in shapes)


def _nested(filled: dict[str, np.ndarray]) -> dict[str, Tree]:
    whole = {path: np.asarray(array, order="C") for path, array in filled.items()}
    nested = traverse_util.unflatten_dict(whole, sep="/")
    return {"params": {}, "batch_stats": {}} | nested
