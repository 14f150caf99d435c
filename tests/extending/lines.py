"""A tracker of one's own: a text file."""

from dataclasses import dataclass

from autol2.trackers.tracker import Shown, Tracker, TrackerOptions


@dataclass
class Lines(TrackerOptions):
    """A text file in the run's folder."""

    file: str = "figures.txt"
    """Its name."""

    def open(self, run: Shown) -> Tracker:
        """See `TrackerOptions`."""
        return Writer(run.folder / self.file)


class Writer:
    """Writes a line for each figure."""

    def __init__(self, path):
        self.file = path.open("a")

    def log(self, rows):
        """See `Tracker`."""
        for step, figures in rows:
            for name, value in figures.items():
                print(step, name, value, file=self.file)

    def close(self, status):
        """See `Tracker`."""
        print(status, file=self.file)
        self.file.close()
