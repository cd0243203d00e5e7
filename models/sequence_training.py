"""Training the model of what a user chooses next (``models.sequence``) from sequences of choices.

Every choice of a sequence is predicted from those before it by softmax cross-entropy over the catalogue, of a large one
over a sample with log-Q correction, which matters more than the architecture (Klenitskiy and Vasilev, "Turning dross
into gold loss", RecSys 2023; Petrov and Macdonald, "gSASRec", RecSys 2023). Three things make minutes on one core
enough:

- the vectors of items begin as factors of what is chosen near each other, and the text's projection as what text can
  explain of them (ridge regression); the residual is the rest;
- the vector of a user begins as the average of the latest choices, faded, and the transformer learns what to add;
- of some items in each batch the residual is left out, so that the projection alone must do, as it must for new items.

The last choices of some users are put aside to know when to stop. Same choices, catalogue, seed and processor: the same
model.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import msgspec
import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from models.catalogue import SCALE, Catalogue
from models.fine_tuning.loss import log_inclusion, sampled_softmax
from models.fine_tuning.optimisation import learning_rate_factor, set_learning_rate
from models.item_tables import HOURS, Choice
from models.sequence import DISTANCES, GAPS, GRAPH, SequenceModel, Steps, open_graph, steps
from schemas.errors import ExplainedError

LENGTH = 50  # latest choices that are looked at
SPAN, FADE = 5, 0.7  # as in models.item_tables: how far apart choices are near each other, and what each step counts
PRIOR_PAIRS = 3.0  # choices of an item that say nothing yet about what goes with it
RIDGE = 30.0  # of the regression of factors on texts
FULL = 2000  # items up to which the softmax is over all of them
BARE = 0.1  # of the items in a batch go without their residual
HELD_BACK, MOST_HELD_BACK = 0.05, 1000  # of the users, whose last choice tells when to stop
WARM_UP = 0.05  # of the steps
LEAST_COSINE = 0.9999  # of the exported graph's vectors to torch's
_OPSET = 17
_log = structlog.get_logger(__name__)


class SequenceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the sequence model's training."""

    dimensions: int = 128
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    epochs: int = 4  # at most; training stops when the choices put aside are predicted worse
    batch_size: int = 128  # sequences
    negatives: int = 1024  # items drawn for each batch of a large catalogue
    learning_rate: float = 1e-3
    sharpness: float = 8.0  # to begin with
    text: bool = True  # whether items are known by their text; off to learn what it is worth
    residual: bool = True  # likewise, by what is learned about each item beyond its text
    times: bool = True  # likewise, gaps, hours and distances


class Epoch(NamedTuple):
    """What came of an epoch; mrr is that of the choices put aside, over the whole catalogue."""

    loss: float
    mrr: float


class _Sequences(NamedTuple):
    """Windows of users' choices, one after the other."""

    items: list[NDArray[np.int64]]  # rows of the residual, [n + 1] each
    steps: list[Steps]  # [n] each: of all but the last choice
    held_back: list[bool]  # whether the last choice is


class Network(nn.Module):
    """The transformer, and what it knows about items; item 0 is a new one."""

    def __init__(self, items: int, texts: NDArray[np.float32], settings: SequenceSettings) -> None:
        super().__init__()
        self.settings = settings
        dim = settings.dimensions
        self.register_buffer("texts", torch.from_numpy(texts))
        self.projection = nn.Parameter(torch.zeros(texts.shape[1], dim), requires_grad=settings.text)
        self.offset = nn.Parameter(torch.zeros(dim), requires_grad=settings.text)
        self.residual = nn.Parameter(torch.zeros(items + 1, dim), requires_grad=settings.residual)
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(settings.sharpness)))
        self.sequence = SequenceNetwork(settings)

    def item_vectors(self, items: torch.Tensor, bare: torch.Tensor | None = None) -> torch.Tensor:
        """Return unit vectors [n, dim] of items [n]; the residual is left out where ``bare`` [n] says so."""
        # Not by [items]: several threads would add up its gradients in the order in which they happen to run.
        residual = functional.embedding(items, self.residual)
        if bare is not None:
            residual = residual.masked_fill(bare[:, None], 0.0)
        texts = self.get_buffer("texts")[items]
        return functional.normalize(texts @ self.projection + self.offset + residual, dim=1)


class SequenceNetwork(nn.Module):
    """From vectors of choices to the vector of their user after each of them."""

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        dim = settings.dimensions
        self.settings = settings
        self.gap, self.hour, self.distance = (nn.Embedding(size, dim) for size in (GAPS, HOURS, DISTANCES))
        for table in (self.gap, self.hour, self.distance):
            nn.init.normal_(table.weight, std=0.02)
        self.blocks = nn.ModuleList(_Block(dim, settings.heads, settings.dropout) for _ in range(settings.layers))
        self.norm, self.drop = nn.LayerNorm(dim), nn.Dropout(settings.dropout)
        self.out = nn.Linear(dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)
        self.fade = nn.Parameter(torch.tensor(1.7))  # its sigmoid, .85, is what each step back counts

    def forward(
        self, items: torch.Tensor, gap: torch.Tensor, hour: torch.Tensor, distance: torch.Tensor
    ) -> torch.Tensor:
        """Return vectors [batch, n, dim] of whom chose items [batch, n, dim]; a choice sees none after it."""
        place = torch.arange(items.shape[1])
        back = place[:, None] - place[None, :]
        seen = back >= 0
        hidden = items * math.sqrt(items.shape[2])
        moment = self.gap(gap) + self.hour(hour) + self.distance(distance)
        # Not left out but multiplied away, so that the exported graph has the same inputs.
        hidden = hidden + (moment if self.settings.times else 0.0 * moment)
        hidden = self.drop(hidden)
        for block in self.blocks:
            hidden = block(hidden, back, seen)
        faded = torch.sigmoid(self.fade) ** back.clamp(min=0) * seen
        users: torch.Tensor = self.out(self.drop(self.norm(hidden))) + faded @ items
        return users


class _Block(nn.Module):
    """Attention, which fades with distance (Press et al., "Train short, test long", ICLR 2022), and a small network."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mix, self.merge = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.inner, self.outer = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.drop = nn.Dropout(dropout)
        self.register_buffer("slope", 2.0 ** -torch.arange(1, heads + 1).float()[:, None, None])

    def forward(self, hidden: torch.Tensor, back: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        batch, length, dim = hidden.shape
        parts = self.mix(self.before(hidden)).reshape(batch, length, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        weight = query @ key.transpose(-1, -2) / math.sqrt(dim // self.heads) - self.get_buffer("slope") * back
        weight = self.drop(torch.softmax(weight.masked_fill(~seen, -1e9), dim=-1))
        attended = (weight @ value).transpose(1, 2).reshape(batch, length, dim)
        hidden = hidden + self.drop(self.merge(attended))
        changed: torch.Tensor = hidden + self.drop(self.outer(functional.gelu(self.inner(self.between(hidden)))))
        return changed


def train_sequence(
    catalogue: Catalogue,
    choices: Iterable[Choice],
    settings: SequenceSettings,
    *,
    repeats: bool,
    seed: int,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
    tell: Callable[[Epoch], None] = lambda _: None,
) -> SequenceModel | None:
    """Learn from choices in order of time. None if nobody chose twice.

    Args:
        catalogue: the items with their embeddings.
        choices: of items that are not in it nothing is learned.
        settings: of the training.
        repeats: whether people choose the same item again.
        seed: of all chance.
        progress: is told how many batches are done, and of how many.
        tell: is told what came of each epoch.

    Raises:
        ExplainedError: the exported graph does not do what the network does.

    """
    chosen, sequences = _sequences(catalogue, choices, seed)
    if not sequences.items:
        return None
    torch.manual_seed(seed)
    rows = catalogue.rows(chosen)
    texts = np.zeros((len(chosen) + 1, catalogue.dim), np.float32)
    texts[1:] = catalogue.embedding[rows] / np.float32(SCALE)
    network = Network(len(chosen), texts, settings)
    _begin(network, sequences)
    if settings.epochs:
        _fit(network, sequences, repeats, seed, progress, tell)
    return _served(network, chosen, sequences)


def _sequences(catalogue: Catalogue, choices: Iterable[Choice], seed: int) -> tuple[list[str], _Sequences]:
    """Return the ids of the items that were chosen, and users' choices cut into windows."""
    known = [choice for choice in choices if choice.item in catalogue.row_of]
    chosen = sorted({choice.item for choice in known})
    number = {item: row for row, item in enumerate(chosen, 1)}
    rows = catalogue.rows(chosen)
    of_user: dict[str, list[Choice]] = defaultdict(list)
    for choice in known:
        of_user[choice.user].append(choice)
    generator = np.random.default_rng(seed)
    long = sorted(user for user, own in of_user.items() if len(own) > 1)
    held = set(generator.permutation(long)[: min(round(HELD_BACK * len(long)), MOST_HELD_BACK)].tolist())
    sequences = _Sequences([], [], [])
    for user in long:
        own = of_user[user]
        items = np.array([number[choice.item] for choice in own], np.int64)
        times = np.array([choice.time for choice in own], np.int64)
        places = rows[items[:-1] - 1]
        zones = [catalogue.time_zones[zone] for zone in catalogue.time_zone[places].tolist()]
        described = steps(times[:-1], times[1:], catalogue.point[places], zones)
        for start in range(0, len(own) - 1, LENGTH):
            end = min(start + LENGTH, len(own) - 1)
            sequences.items.append(items[start : end + 1])
            sequences.steps.append(Steps(*(column[start:end] for column in described)))
            sequences.held_back.append(user in held and end == len(own) - 1)
    return chosen, sequences


def _begin(network: Network, sequences: _Sequences) -> None:
    """Set items to factors of what is chosen near each other, split into what their text explains and the rest."""
    from scipy import sparse

    total, dim = network.residual.shape
    first, second, weight = [], [], []
    for items, held_back in zip(sequences.items, sequences.held_back, strict=True):
        known = items[:-1] if held_back else items
        for step in range(1, min(SPAN + 1, len(known))):
            first += [known[:-step], known[step:]]
            second += [known[step:], known[:-step]]
            weight.append(np.full(2 * (len(known) - step), FADE ** (step - 1)))
    entries = [
        np.concatenate([np.zeros(0, kind), *parts]) for kind, parts in ((float, weight), (int, first), (int, second))
    ]
    near = sparse.csr_matrix((entries[0], (entries[1], entries[2])), (total, total))
    mass = np.asarray(near.sum(axis=1)).ravel() + PRIOR_PAIRS
    scaled = (sparse.diags(mass**-0.5) @ near @ sparse.diags(mass**-0.5)).tocoo()
    matrix = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([scaled.row, scaled.col]).astype(np.int64)),
        torch.from_numpy(scaled.data.astype(np.float32)),
        (total, total),
        check_invariants=False,
    )
    left, sizes, _ = torch.svd_lowrank(matrix.coalesce(), q=min(dim, total), niter=3)
    factors = torch.zeros(total, dim)
    factors[:, : left.shape[1]] = functional.normalize(left * sizes.sqrt(), dim=1)
    factors[0] = 0.0
    texts, counts = network.get_buffer("texts"), torch.from_numpy(mass).float()[:, None]
    counts[0] = 0.0
    with torch.no_grad():
        if network.settings.text:
            usual = (texts * counts).sum(dim=0) / counts.sum()
            centred = texts - usual
            spread = centred.T @ (centred * counts) / counts.sum()
            penalty = RIDGE * spread.trace() / len(spread) * torch.eye(len(spread)) + 1e-6 * torch.eye(len(spread))
            network.projection.copy_(
                torch.linalg.solve(spread + penalty, centred.T @ (factors * counts) / counts.sum())
            )
            network.offset.copy_(-usual @ network.projection)
        if network.settings.residual:
            explained = texts @ network.projection + network.offset
            network.residual.copy_(factors - explained)
            network.residual[0] = 0.0


def _fit(
    network: Network,
    sequences: _Sequences,
    repeats: bool,
    seed: int,
    progress: Callable[[int, int], None],
    tell: Callable[[Epoch], None],
) -> None:
    """Train until the choices put aside are predicted worse, and keep the best epoch."""
    settings = network.settings
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    per_epoch = math.ceil(len(sequences.items) / settings.batch_size)
    total, step, best = settings.epochs * per_epoch, 0, -1.0
    kept: dict[str, torch.Tensor] = {}
    targets = [
        items[1:-1] if held_back else items[1:]
        for items, held_back in zip(sequences.items, sequences.held_back, strict=True)
    ]
    counts = np.bincount(np.concatenate(targets), minlength=len(network.residual)).astype(np.float64)
    share = counts / max(counts.sum(), 1.0)
    for epoch in range(settings.epochs):
        generator = np.random.default_rng([seed, epoch])
        losses = []
        network.train()
        for batch in _batches(sequences, settings.batch_size, generator):
            step += 1
            set_learning_rate(optimiser, settings.learning_rate * learning_rate_factor(step, total, WARM_UP, "cosine"))
            loss = _loss(network, sequences, batch, share, generator)
            if loss is not None:
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(trained, 5.0)
                optimiser.step()
                optimiser.zero_grad()
                losses.append(loss.item())
            progress(step, total)
        mrr = _mrr(network, sequences, repeats)
        tell(Epoch(float(np.mean(losses)), mrr))
        if mrr < best:
            break
        best = mrr
        kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(kept)


def _batches(sequences: _Sequences, size: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield numbers of sequences in random order, those of similar length together."""
    order = generator.permutation(len(sequences.items))
    lengths = np.array([len(items) for items in sequences.items])
    batches = []
    for start in range(0, len(order), 20 * size):
        some = order[start : start + 20 * size]
        some = some[np.argsort(lengths[some], kind="stable")]
        batches += [some[place : place + size] for place in range(0, len(some), size)]
    for place in generator.permutation(len(batches)).tolist():
        yield batches[place]


class _Padded(NamedTuple):
    """Sequences [batch, n] as tensors; padding is item 0 and comes last."""

    items: torch.Tensor
    steps: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    targets: torch.Tensor  # 0 where there is none, or it is held back


def _padded(sequences: _Sequences, batch: Sequence[int], *, held_back: bool) -> _Padded:
    """Return sequences with their targets: the last ones held back alone, or all others."""
    length = max(len(sequences.items[number]) for number in batch) - 1
    items, targets, *columns = (np.zeros((len(batch), length), np.int64) for _ in range(5))
    for row, number in enumerate(batch):
        own = sequences.items[number]
        items[row, : len(own) - 1], targets[row, : len(own) - 1] = own[:-1], own[1:]
        for column, values in zip(columns, sequences.steps[number], strict=True):
            column[row, : len(own) - 1] = values
        if held_back:
            targets[row, : len(own) - 2] = 0
        elif sequences.held_back[number]:
            targets[row, len(own) - 2] = 0
    gap, hour, distance = (torch.from_numpy(column) for column in columns)
    return _Padded(torch.from_numpy(items), (gap, hour, distance), torch.from_numpy(targets))


def _loss(
    network: Network,
    sequences: _Sequences,
    batch: NDArray[np.int64],
    share: NDArray[np.float64],
    generator: np.random.Generator,
) -> torch.Tensor | None:
    """Return the mean loss of a batch's choices, None if all are held back."""
    total, negatives = len(network.residual), network.settings.negatives
    padded = _padded(sequences, batch.tolist(), held_back=False)
    wanted = padded.targets > 0
    target = padded.targets[wanted]
    if not len(target):
        return None
    if total <= FULL:
        candidates = torch.arange(1, total)
        correction = torch.zeros(len(candidates))
    else:
        drawn = torch.from_numpy(generator.integers(1, total, negatives))
        candidates = torch.unique(torch.cat([target, drawn]))
        evenly = np.full(len(candidates), 1 - (1 - 1 / (total - 1)) ** negatives)
        correction = torch.from_numpy(log_inclusion(share[candidates.numpy()], len(target), evenly))
    used = torch.unique(torch.cat([torch.zeros(1, dtype=torch.int64), padded.items.ravel(), candidates]))
    place = torch.zeros(total, dtype=torch.int64)
    place[used] = torch.arange(len(used))
    bare = torch.from_numpy(generator.random(len(used)) < BARE) if network.settings.text else None
    vectors = network.item_vectors(used, bare)
    user = network.sequence(functional.embedding(place[padded.items], vectors), *padded.steps)[wanted]
    cosines = functional.normalize(user, dim=1) @ functional.embedding(place[candidates], vectors).T
    among = torch.zeros(total, dtype=torch.int64)
    among[candidates] = torch.arange(len(candidates))
    return sampled_softmax(
        cosines * network.log_sharpness.exp(),
        among[target],
        torch.ones((), dtype=torch.bool).expand_as(cosines),
        correction,
        temperature=1.0,
        label_smoothing=0.0,
    )


def _mrr(network: Network, sequences: _Sequences, repeats: bool) -> float:
    """Return the mean reciprocal rank of the choices held back among all items, or all that the user does not have."""
    held = [number for number, held_back in enumerate(sequences.held_back) if held_back]
    held.sort(key=lambda number: len(sequences.items[number]))
    network.eval()
    found = []
    with torch.inference_mode():
        vectors = network.item_vectors(torch.arange(len(network.residual)))
        for start in range(0, len(held), 128):
            padded = _padded(sequences, held[start : start + 128], held_back=True)
            last = padded.targets.argmax(dim=1)
            rows = torch.arange(len(last))
            user = network.sequence(vectors[padded.items], *padded.steps)[rows, last]
            scores = functional.normalize(user, dim=1) @ vectors.T
            target = padded.targets[rows, last]
            right = scores[rows, target]
            if not repeats:
                scores.scatter_(1, padded.items, -2.0)
            scores[:, 0] = -2.0
            found += (1 / (1 + (scores > right[:, None]).sum(dim=1))).tolist()
    return float(np.mean(found)) if found else 0.0


def _served(network: Network, chosen: Sequence[str], sequences: _Sequences) -> SequenceModel:
    """Return the network as it is served.

    Raises:
        ExplainedError: on some of the sequences it is not the same.

    """
    network.eval()
    graph = _traced(network.sequence)
    model = SequenceModel(
        open_graph(graph),
        graph,
        {item: row for row, item in enumerate(chosen, 1)},
        network.projection.detach().numpy().copy(),
        network.offset.detach().numpy().copy(),
        network.residual.detach().numpy().astype(np.float16),
        float(network.log_sharpness.exp().detach()),
        LENGTH,
        sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
    )
    with torch.inference_mode():
        for items, described in list(zip(sequences.items, sequences.steps, strict=True))[:64]:
            numbers = torch.from_numpy(items[:-1])
            columns = [torch.from_numpy(column)[None] for column in described]
            wanted = network.sequence(network.item_vectors(numbers)[None], *columns)[0, -1]
            texts = np.rint(network.get_buffer("texts")[numbers].numpy() * SCALE).astype(np.float32)
            served = model.user_vector(model.item_vectors(texts, items[:-1]).astype(np.float32), described)
            cosine = float(functional.normalize(wanted, dim=0).numpy() @ served)
            if not cosine >= LEAST_COSINE:
                raise ExplainedError(
                    f"the exported sequence model is not the same: cosine {cosine:.5f} to the original"
                )
    return model


def _traced(network: SequenceNetwork) -> bytes:
    """Return the graph that makes of one sequence [n, dim] the vector after its last choice [dim]."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(
            self, items: torch.Tensor, gap: torch.Tensor, hour: torch.Tensor, distance: torch.Tensor
        ) -> torch.Tensor:
            users: torch.Tensor = self.network(items[None], gap[None], hour[None], distance[None])
            return users[0, -1]

    codes = torch.zeros(3, dtype=torch.int64)
    example = torch.zeros(3, network.settings.dimensions), codes, codes, codes
    names = ["items", "gap", "hour", "distance"]
    with torch.inference_mode(), warnings.catch_warnings(), TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # that the exporter is the old one, and that shapes are traced
        torch.onnx.export(
            Last().eval(),
            example,
            str(path := Path(folder) / GRAPH),
            input_names=names,
            output_names=["user"],
            dynamic_axes={name: {0: "length"} for name in names},
            opset_version=_OPSET,
            dynamo=False,
        )
        return path.read_bytes()
