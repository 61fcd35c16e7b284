"""What long work looks like in a terminal, and in a log file."""

import contextlib
import time
from collections.abc import Iterator

import keras
from rich import progress
from rich.console import Console


@contextlib.contextmanager
def working(console: Console, title: str) -> Iterator[None]:
    """Show `title` with a spinner, then leave it with the seconds that it took.

    Args:
        console: Where to show it.
        title: What is being done.

    Yields:
        Nothing; the work is done inside.
    """
    start = time.perf_counter()
    with console.status(title):
        yield
    seconds = time.perf_counter() - start
    console.print(f"{title} [dim]({seconds:.1f} s)[/dim]", soft_wrap=True)


class EpochProgress(keras.callbacks.Callback):
    """A bar over all batches of a fit, with loss and accuracies of the last epoch.

    Where the output is no terminal, a line is printed for every tenth of the epochs.

    Args:
        console: Where to show it.
        title: What is being trained; "Training" and the model's name if None.
    """

    def __init__(self, console: Console, title: str | None = None):
        super().__init__()
        self._console = console
        self._title = title
        self._start = time.perf_counter()
        self._bar = progress.Progress(
            progress.SpinnerColumn(finished_text="[green]✓"),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(None),
            progress.TextColumn("{task.fields[state]}"),
            progress.TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._task = None

    def on_train_begin(self, logs=None):
        """Show the bar; the first batch takes long, as TensorFlow traces the model."""
        total = self.params["epochs"] * (self.params["steps"] or 1)
        title = self._title or f"Training {self.model.name}"
        self._bar.start()
        self._task = self._bar.add_task(title, total=total, state="tracing the model")

    def on_epoch_begin(self, epoch, logs=None):
        """Count the epochs that were trained before, too."""
        done = epoch * (self.params["steps"] or 1)
        self._bar.update(self._task, completed=done)

    def on_train_batch_end(self, batch, logs=None):
        """Advance the bar."""
        task = self._bar.tasks[self._task]
        if batch == 0 and task.fields["state"].startswith("tracing"):
            epoch = round(task.completed / (self.params["steps"] or 1)) + 1
            state = f"epoch {epoch}/{self.params['epochs']}"
            self._bar.update(self._task, state=state)
        self._bar.advance(self._task)

    def on_epoch_end(self, epoch, logs=None):
        """Show the epoch's figures."""
        epochs = self.params["epochs"]
        state = f"epoch {epoch + 1}/{epochs}  loss {logs['loss']:.3f}"
        if "val_accuracy" in logs:
            state += f"  test {logs['val_accuracy']:.2%}"
        self._bar.update(self._task, state=state)
        due = (epoch + 1) % max(1, epochs // 10) == 0 or epoch + 1 == epochs
        if not self._console.is_terminal and due:
            seconds = time.perf_counter() - self._start
            title = self._bar.tasks[self._task].description
            line = f"{title}: {state}  ({seconds:.0f} s)"
            self._console.print(line, soft_wrap=True)

    def on_train_end(self, logs=None):
        """Leave the finished bar where it is."""
        self._bar.stop()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        # Training that broke off must not leave a running bar.
        self._bar.stop()
