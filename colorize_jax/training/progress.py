"""What a run remembers: its own state on the host, and the note of each of its checkpoints."""

import dataclasses

from colorize_jax.json_files import COUNT, Number
from colorize_jax.training import early_stopping
from colorize_jax.training.early_stopping import EarlyStopping
from colorize_jax.training.meter import Window
from colorize_jax.training.start import RANDOM

# A note on the disk; "name?" is what the notes of older runs lack.
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
    "start?": str,
    "which?": str,
    "window?": {"steps": COUNT, "sums": {str: float}},
}
# That of a run which searches for its schedule.
SEARCHING = FORM | {"search": {"stopping": early_stopping.STATE}}


@dataclasses.dataclass
class Progress:
    """What a run remembers, besides the arrays of its state.

    The fields without a default say which run it is. Those with one say what it has done, and come
    from its checkpoint where it goes on.

    Attributes:
        config: its settings, as JSON has them.
        photos: number of those to train on.
        names: digest of the names of all photos.
        contents: digests of a sample of them; None: a photo that cannot be read.
        classes: their names, in the order of the labels.
        schedule: its steps, and those at which the rate drops, as far as they are known.
        step: steps done.
        microbatches: of a step; 0: not known yet.
        evaluated: the last step that was evaluated.
        scores: {"eval/...": number} of that.
        best: {"step": ..., "eval/<score>": ...} so far.
        skipped: steps that were passed over because they were not finite.
        seconds: that the run took so far.
        start: the checkpoint that its parameters come from, or "random".
        which: the photos that are evaluated, in words; see `results.evaluated`.
        window: sums of the metrics since the last row of metrics.jsonl.
        search: of a run that searches for its schedule, else None.
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
    start: str = RANDOM
    which: str = ""
    window: Window = dataclasses.field(default_factory=Window)
    search: EarlyStopping | None = None

    @property
    def position(self) -> int:
        """Photos that were drawn so far, from the one order of the run."""
        return self.step * self.config["data"]["batch_size"]

    @property
    def form(self) -> dict:
        """What a note that the run goes on from must look like; see `json_files`."""
        return FORM if self.search is None else SEARCHING

    def to_json(self) -> dict:
        """The note of a checkpoint."""
        note = dataclasses.asdict(self) | {"position": self.position}
        search = note.pop("search")
        return note if search is None else note | {"search": {"stopping": self.search.to_json()}}

    def resume(self, note: dict) -> None:
        """Takes what the run has done from a note; which run it is stays as it is now.

        Args:
            note: of that `form`. What it lacks stays as it is too.
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
