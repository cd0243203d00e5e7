"""``tablecast export``: a base model as the encoder that serves, whole or as a student of fewer layers."""

import json
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from models.base_model import PACKAGED, BaseModel, load_base
from models.chunks import item_chunks
from models.dataset import META, check_new, read_items, read_meta, read_requests
from models.encoder import Encoder, Precision
from models.evaluation import catalogue_item
from ops.errors import explained
from ops.progress import progress_bar
from ops.terminal import Terminal
from schemas.domains import pack_for
from schemas.errors import BadInputError
from streams.logs import configure_logs

_COMPARED = 64  # texts on which an artefact is compared with the torch model, besides the built-in ones


def export(
    base: Annotated[
        str, typer.Argument(help=f"A Hugging Face name, a model's folder, a fine-tuning's folder, or {PACKAGED}.")
    ],
    out: Annotated[Path, typer.Argument(help="A new folder for the encoder.")],
    *,
    precision: Annotated[Precision, typer.Option(help="int8 for CPUs, fp16 for CUDA.")] = "int8",
    layers: Annotated[
        int | None, typer.Option(min=1, help="Distil a student of so many layers, which reads the requests.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="So many steps the student learns.")] = 3000,
    texts: Annotated[
        list[Path] | None,
        typer.Option(help="What the student learns from: text files, a text a line, or neutral dataset directories."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was exported as JSON.")] = False,
) -> None:
    """Export a language model to ONNX, checked against the original on real texts.

    A student keeps some of the model's layers, learns to read requests as the whole model does, and leaves items to
    it. Labels are not used. Cut off, the same command goes on where it was.

    Example: tablecast export intfloat/multilingual-e5-small encoders/e5

    Example: tablecast export packaged:multilingual-e5-small encoders/student --layers 4 --texts data/city
    """
    with explained():
        configure_logs("export", "warning")
        check_new(out)
        if layers and not texts:
            raise BadInputError("a student learns from texts: give --texts, files or dataset directories")
        started = time.perf_counter()
        read = [text for path in texts or [] for text in read_texts(path)]
        loaded = _load(base)
        if layers:
            _distil(loaded, read, out, precision, layers, steps)
        else:
            _export(loaded, out, precision, read)
        encoder = Encoder.load(out)
        report = {
            "encoder": str(out),
            "version": encoder.version,
            "base": encoder.manifest.base,
            "precision": precision,
            "megabytes": round(sum(file.stat().st_size for file in out.iterdir() if file.is_file()) / 1e6, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        encoder.close()
    if as_json:
        typer.echo(json.dumps(report))
    else:
        Terminal().print(
            f"{out}: {report['base']} as {precision}, {report['megabytes']} MB, in {report['seconds']} s",
            highlight=False,
        )


def read_texts(path: Path) -> list[str]:
    """Return the texts of a text file, one a line, or of a neutral dataset directory: its requests' and items'.

    Raises:
        BadInputError: it is neither, or can't be read.

    """
    if (path / META).is_file():
        pack = pack_for(read_meta(path).domain)
        asked = (request.text.strip() for request in read_requests(path) if request.text)
        described = (chunk for item in read_items(path) for chunk in item_chunks(pack, catalogue_item(item, pack)))
        return list(dict.fromkeys(text for text in (*asked, *described) if text))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(
            f"{path} is neither a text file in UTF-8 nor a neutral dataset directory: {error}"
        ) from error
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _load(base: str) -> BaseModel:
    from models.fine_tuning.result import MANIFEST, load_fine_tuned

    folder = Path(base)
    return load_fine_tuned(folder) if (folder / MANIFEST).is_file() else load_base(base)


def _export(base: BaseModel, out: Path, precision: Precision, texts: list[str]) -> None:
    from models.export import export_encoder

    with progress_bar() as bar:
        bar.add_task("exporting", total=None)
        export_encoder(base, out, precision, texts=list(islice(texts, _COMPARED)))


def _distil(base: BaseModel, texts: list[str], out: Path, precision: Precision, layers: int, steps: int) -> None:
    """Export the teacher, let the student learn beside ``out``, and export it; its weights go into ``out`` too."""
    from models.distillation import MODEL, Settings, distil
    from models.export import export_encoder

    work = out.with_name(f".{out.name}.distilling")
    teacher_folder = work / "teacher"
    if not teacher_folder.is_dir():
        _export(base, teacher_folder, precision, texts)
    teacher = Encoder.load(teacher_folder)
    with progress_bar() as bar:
        task = bar.add_task("learning", total=steps)
        student, _ = distil(
            base,
            teacher,
            texts,
            work / "student",
            Settings(layers=layers, steps=steps),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    teacher.close()
    export_encoder(student, out, precision, passages=teacher_folder, texts=list(islice(texts, _COMPARED)))
    shutil.move(work / "student" / MODEL, out / "weights")
    shutil.rmtree(work)
