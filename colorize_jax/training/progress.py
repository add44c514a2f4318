"""What a run remembers besides its arrays: its progress, which is the note of a checkpoint."""

import dataclasses

from colorize_jax.json_files import COUNT, Number
from colorize_jax.training import early_stopping
from colorize_jax.training.early_stopping import EarlyStopping
from colorize_jax.training.meter import Window
from colorize_jax.training.start import RANDOM

# The form of a note on disk. Notes of older runs lack the fields "name?".
FORM = {
    "config?": {},
    "photos": COUNT,
    "names": str,
    "contents?": [(str, None)],
    "classes?": [str],
    "schedule?": [COUNT],
    "step": COUNT,
    "position?": COUNT,
    "microbatches?": COUNT,
    "evaluated": Number(int, -1, COUNT.largest),
    "scores": {str: float},
    "best": {str: float},
    "skipped": [COUNT],
    "seconds?": float,
    "spent?": {str: float},
    "start?": str,
    "which?": str,
    "window?": {"steps": COUNT, "sums": {str: float}},
}
# The form of the note of a run that searches for its schedule.
SEARCHING = FORM | {"search": {"stopping": early_stopping.STATE}}


@dataclasses.dataclass
class Progress:
    """What a run remembers besides the arrays of its state.

    Fields without a default identify the run. Fields with a default say what it has done; a resumed
    run takes them from its checkpoint.

    Attributes:
        config: the settings, as JSON holds them.
        photos: the number of photos to train on.
        names: the digest of the names of all photos.
        contents: the digests of a sample of the photos; None for a photo that cannot be read.
        classes: the names of the classes, in the order of the labels.
        schedule: the number of steps, and the known steps at which the rate drops.
        step: the number of steps done.
        microbatches: the number of microbatches of a step; 0 if not known yet.
        evaluated: the last step that was evaluated.
        scores: {"eval/...": number} of that evaluation.
        best: {"step": ..., "eval/<score>": ...} of the best evaluation so far.
        skipped: the steps that were skipped because they were not finite.
        seconds: the seconds that the run took so far.
        spent: {part: those of them that were not training}; see `Run.spending`.
        start: the checkpoint that its parameters come from, or "random".
        which: the photos that are evaluated, in words; see `results.evaluated`.
        window: the sums of metrics since the last row of metrics.jsonl.
        search: the state of early stopping if the run searches for its schedule, else None.
    """

    config: dict
    photos: int
    names: str
    contents: list[str | None]
    classes: list[str]
    schedule: list[int]
    step: int = 0
    microbatches: int = 0
    evaluated: int = -1
    scores: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: list[int] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    spent: dict[str, float] = dataclasses.field(default_factory=dict)
    start: str = RANDOM
    which: str = ""
    window: Window = dataclasses.field(default_factory=Window)
    search: EarlyStopping | None = None

    @property
    def position(self) -> int:
        """The number of photos drawn so far, which is the position in the run's order."""
        return self.step * self.config["data"]["batch_size"]

    @property
    def form(self) -> dict:
        """The form of a note that the run can resume from; see `json_files`."""
        return FORM if self.search is None else SEARCHING

    def to_json(self) -> dict:
        """The note of a checkpoint."""
        note = dataclasses.asdict(self) | {"position": self.position}
        search = note.pop("search")
        return note if search is None else note | {"search": {"stopping": self.search.to_json()}}

    def resume(self, note: dict) -> None:
        """Takes over from a note what the run has done; the fields that identify it stay.

        Args:
            note: a note of that `form`. Fields that it lacks stay too.
        """
        required = dataclasses.MISSING
        done = {
            field.name
            for field in dataclasses.fields(self)
            if field.default is not required or field.default_factory is not required
        } - {"window", "search"}
        for name in done & note.keys():
            setattr(self, name, note[name])
        if "window" in note:
            self.window = Window(note["window"]["steps"], note["window"]["sums"])
        if self.search is not None:
            self.search = EarlyStopping.from_json(note["search"]["stopping"])
            self.schedule = [self.schedule[0], *self.search.dropped]
