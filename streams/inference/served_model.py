"""A model that answers requests: its encoder, its catalogue, and who may touch the catalogue, one at a time.

What touches it runs in the model's own thread. Only a short ranking runs where it is asked for: both threads need the
interpreter for nearly all they do, and handing few requests over and back, with a fight for the interpreter between,
cost more of a busy processor than ranking them.

Nothing has to be closed: when the last request that was given to a model has its answer, nobody refers to the model any
more, and its memory and threads go with it.
"""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from models.artefact import load_ranker, load_recommender
from models.encoder import Encoder, TokenIds
from models.recommender import Answer, Recommender, Vectors, request_text
from schemas.records import JoinedRequest

T = TypeVar("T")
SHORT_SECONDS = 0.02  # of ranking in the event loop, which leaves everything else waiting


class ServedModel:
    """One version in memory.

    Attributes:
        announced: the version in the model store; None: what the stage came with (``inference.model``).
        seconds_per_token: moving average of encoding, to tell beforehand who would be late.
        seconds_per_list: likewise of ranking; infinite until the first has been timed.

    """

    def __init__(self, encoder: Encoder, recommender: Recommender, announced: str | None = None) -> None:
        self.encoder, self.recommender, self.announced = encoder, recommender, announced
        self.seconds_per_token = 0.0
        self.seconds_per_list = math.inf
        self._last_encoded = 0.0
        self._catalogue_in_use = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rank")

    @classmethod
    def load(cls, model: str | Path, *, name: str, threads: int, announced: str | None = None) -> "ServedModel":
        """Load what ``load_recommender`` loads."""
        return cls(*load_recommender(model, threads=threads, name=name), announced)

    def with_ranker_of(self, folder: Path, *, name: str, announced: str) -> "ServedModel":
        """Return a model of this one's encoder and catalogue, and so of its turns at it, and the ranker of another."""
        recommender = Recommender(self.encoder.dim, f"{name}@{announced}", ranker=load_ranker(folder))
        recommender.catalogue = self.recommender.catalogue
        model = ServedModel(self.encoder, recommender, announced)
        model.seconds_per_token = self.seconds_per_token
        model._thread, model._catalogue_in_use = self._thread, self._catalogue_in_use
        return model

    @property
    def version(self) -> str:
        """Return name@version, as it stands in every answer."""
        return self.recommender.version

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Call what touches the catalogue."""

        def call() -> T:
            with self._catalogue_in_use:
                return function()

        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def ranking(self, requests: int, function: Callable[[], T]) -> T:
        """Call what ranks for so many requests: here, if it is short and nobody else is at the catalogue."""

        def timed() -> T:
            started = time.perf_counter()
            ranked = function()
            self._note_ranking((time.perf_counter() - started) / max(requests, 1))
            return ranked

        if requests * self.seconds_per_list > SHORT_SECONDS or not self._catalogue_in_use.acquire(blocking=False):
            return await self.in_thread(timed)
        try:
            return timed()
        finally:
            self._catalogue_in_use.release()

    def _note_ranking(self, seconds: float) -> None:
        known = self.seconds_per_list
        self.seconds_per_list = seconds if math.isinf(known) else known + 0.2 * (seconds - known)

    def tokenize(self, joined: Sequence[JoinedRequest]) -> list[TokenIds | None]:
        """Return the tokens of each request's text; None of a request without one."""
        texts = [request_text(request) for request in joined]
        tokens = iter(self.encoder.tokenize([text for text in texts if text], "query"))
        return [next(tokens) if text else None for text in texts]

    def encode(self, tokens: Sequence[TokenIds]) -> tuple[Vectors, int]:
        """Return the vectors [len(tokens), dim] and when they were there, in milliseconds since 1970."""
        started = time.perf_counter()
        vectors = self.encoder.encode(tokens)
        ended = time.perf_counter()
        if tokens:
            # The encoder works off one batch after the other: time spent waiting for the one before is not this one's.
            spent = (ended - max(started, self._last_encoded)) / sum(map(len, tokens))
            self.seconds_per_token += 0.2 * (spent - self.seconds_per_token)
        self._last_encoded = ended
        return vectors, int(time.time() * 1000)

    def lists(self, joined: Sequence[JoinedRequest], vectors: Sequence[Vectors | None]) -> list[Answer | Exception]:
        """Rank for all requests; if that fails, for each alone, so that only the faulty one has no list."""
        try:
            return list(self.recommender.answer(joined, vectors))
        except Exception:  # whatever is wrong with one request, the others get their answers
            lists: list[Answer | Exception] = []
            for request, vector in zip(joined, vectors, strict=True):
                try:
                    lists += self.recommender.answer([request], [vector])
                except Exception as error:
                    lists.append(error)
            return lists

    def answer_alone(self, joined: JoinedRequest) -> tuple[Answer, float]:
        """Answer one request as if nothing else were going on; return the seconds of work that took.

        Raises:
            ValueError: what came out is not finite.

        """
        # On a processor, time that other threads had it does not count; a GPU's time is not this thread's.
        clock = time.thread_time if self.encoder.provider == "CPUExecutionProvider" else time.perf_counter
        started = clock()
        (tokens,) = self.tokenize([joined])
        vector = None if tokens is None else self.encoder.encode([tokens])[0]
        (answer,) = self.recommender.answer([joined], [vector])
        seconds = clock() - started
        if (vector is not None and not np.isfinite(vector).all()) or not np.isfinite(
            [item.score for item in answer.items]
        ).all():
            raise ValueError("its scores are not finite numbers")
        return answer, seconds
