"""Make the student that comes with Tablecast again: fetch its texts, distil it, and write it into models/shipped.

    python -m ops.shipped_student work/student

Cut off, the same command goes on where it was. models/DISTILLATION.md says what comes out, and how long it takes.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from models.base_model import load_base
from models.distillation import Distilled, Settings, distil
from models.export import SHIPPED_STUDENT, load_default_encoder
from models.student_weights import save_student
from ops.errors import explained
from ops.progress import progress_bar
from ops.student_texts import texts
from streams.logs import configure_logs

LAYERS, STEPS = 4, 1_200


def make(
    work: Annotated[Path, typer.Argument(help="A folder for archives, checkpoints and the finished student.")],
    *,
    steps: Annotated[int, typer.Option(min=1, help="So many steps the student learns.")] = STEPS,
    out: Annotated[Path, typer.Option(help="The file that is written.")] = SHIPPED_STUDENT,
) -> None:
    """Distil the shipped student from the packaged base model, on one core.

    Example: python -m ops.shipped_student work/student
    """
    with explained():
        configure_logs("student", "info")
        distilled = make_student(work, steps, out)
        typer.echo(f"{out}: {out.stat().st_size:,} bytes, {distilled.after}")


def make_student(work: Path, steps: int, out: Path) -> Distilled:
    """Fetch, distil and write; return how it went."""
    torch.set_num_threads(1)  # another number would round sums otherwise
    learned = texts(work / "archives")
    teacher = load_default_encoder(threads=1)
    with progress_bar() as bar:
        task = bar.add_task("learning", total=steps)
        student, manifest = distil(
            load_base(),
            teacher,
            learned,
            work / "run",
            Settings(layers=LAYERS, steps=steps),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    teacher.close()
    save_student(student, load_base(), manifest.kept_layers, out)
    return manifest


if __name__ == "__main__":
    typer.run(make)
