"""Train the blocks of a study as tasks on a Ray cluster: the same blocks, the same numbers, on other processes or machines.

A member is a pure function of its block. The driver cuts the blocks and writes the record; a worker rebuilds the population, trains one
block on as many threads of torch as the driver has, and sends back its results and the rows of its record, which are written in the order
of the blocks. So the study is the one that a single process makes, bit for bit where the processors are of one kind; only times differ.
A block whose worker dies is trained again from its start.

Source: Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018.
"""

import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import statistics
import tempfile
import threading
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from fallline._core.errors import FalllineError, FalllineTypeError, FalllineWarning, must
from fallline.population import Block, Population, Result
from fallline.record import Writer
from fallline.study.parcel import Parcel, pack, pack_rows, place, unpack, unpack_rows
from fallline.training.loop import Outcome

if TYPE_CHECKING:
    from fallline.data import Data

_RETRIES = 5  # of a block whose worker died
_WAIT = 0.2  # seconds between two questions whether to stop
_CONNECT = 5.0  # seconds until a cluster must have answered
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # RFC 9113, section 3.4, and empty settings
_STORE = 256 << 20  # bytes of shared memory of a cluster of our own, at least
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_LEFT = ("RAY_AUTH_MODE", "RAY_CLIENT_MODE")  # what Ray leaves in the environment
_PACKAGES = ("fallline", "torch")


class Ray:
    """Trains blocks on a Ray cluster; a `Runner`.

    Args:
        address: "ray://host:10001", "host:6379", "auto" (the cluster that runs on this machine), or "local": one is started here and ended
            by `close`. None: what the environment variable RAY_ADDRESS says, else "local".
        workers: blocks at a time on a local cluster; by default as many as the cores allow.
        threads: of torch in each worker; by default as here, as the last bits of a result may depend on it.

    Raises:
        FalllineError: Ray is not installed, or an argument has no meaning.

    >>> Ray("nowhere")
    Traceback (most recent call last):
        ...
    fallline._core.errors.FalllineError: `the address of a cluster is 'ray://HOST:PORT', 'HOST:PORT', 'auto' or 'local'` must hold, but got
    'nowhere'.
    """

    def __init__(self, address: str | None = None, workers: int | None = None, threads: int | None = None) -> None:
        must(workers is None or workers >= 1, "workers >= 1", workers)
        must(threads is None or threads >= 1, "threads >= 1", threads)
        law = "the address of a cluster is 'ray://HOST:PORT', 'HOST:PORT', 'auto' or 'local'"
        must(address is None or address in ("auto", "local") or _place_of(address) is not None, law, repr(address))
        self.address, self.workers, self.threads = address, workers, threads
        self._link: _Link | None = None

    def __enter__(self) -> "Ray":
        return self

    def __exit__(self, *why: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def run(
        self,
        population: Population,
        blocks: Sequence[Block],
        writer: Writer,
        *,
        stop: Callable[[], bool] = lambda: False,
        tick: Callable[[int, float], None] = lambda steps, loss: None,
    ) -> Iterator[tuple[Block, list[Result] | None]]:
        """Each block with its results, in the order of the blocks.

        Where `stop` says so, what runs is cancelled: the blocks that are whole come first, then one with None, and nothing more.

        Args:
            population: what the blocks were cut from.
            blocks: to be trained.
            writer: the record; a block's rows are written just before the block comes.
            stop: asked several times a second.
            tick: told after every block how many member-steps were made, and the middle of the last losses.

        Raises:
            FalllineError: no cluster, other versions on a worker, a block that loses every worker, or what the training itself refuses.
        """
        if not blocks:
            return
        if stop():
            yield blocks[0], None
            return
        if self._link is None:
            self._link = _Link(self.address, self.workers, self.threads or torch.get_num_threads(), _bytes(population.data))
        errand = _Errand(self._link, population, blocks, self.threads or torch.get_num_threads())
        whole = False
        try:
            yield from errand.results(writer, stop, tick)
            whole = not errand.stopped
        finally:
            errand.cancel()
            if not whole:
                self.close()


class _Link:
    """A connection to a cluster, and what was sent over it."""

    def __init__(self, address: str | None, workers: int | None, threads: int, size: int) -> None:
        self.ray = _imported()
        self.rows: tuple[Data, str, Any] | None = None
        self.sent: tuple[Population, str, Any] | None = None
        self.folder: str | None = None
        self.joined = not self.ray.is_initialized()  # else it is the caller's, who leaves it
        before = {name: os.environ.get(name) for name in _LEFT}
        if self.joined:
            address = address or os.environ.get("RAY_ADDRESS") or "local"
            self._start(workers, threads, size) if address == "local" else self._join(address)
        self._end = weakref.finalize(self, _leave, self.ray if self.joined else None, self.folder, before)
        cores = [node["Resources"].get("CPU", 0) for node in self.ray.nodes() if node["Alive"]]
        self.cores = int(min(threads, max(1, *cores, 1)) if any(cores) else threads)

    def _start(self, workers: int | None, threads: int, size: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        count = workers or max(1, cores // threads)
        root = tempfile.gettempdir()
        self.folder = tempfile.mkdtemp(
            prefix="fl-ray-", dir=root if len(root) < 24 or os.name == "nt" else "/tmp"
        )  # sockets: 107 characters
        try:
            with _quiet():
                self.ray.init(
                    "local",
                    num_cpus=count * threads,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.CRITICAL,
                    object_store_memory=max(_STORE, 2 * size + (128 << 20)),
                    _node_ip_address="127.0.0.1",
                    _temp_dir=self.folder,
                )
        except Exception as error:
            _leave(self.ray, self.folder, {})
            raise FalllineError(
                f"Ray could not be started on this machine: {_short(error)}; leave the cluster out to train here."
            ) from error

    def _join(self, address: str) -> None:
        where = _place_of(_named() if address == "auto" else address)
        if where is not None:
            _probe(address, *where)
        try:
            with _quiet():
                self.ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
        except Exception as error:
            with contextlib.suppress(Exception):
                self.ray.shutdown()
            raise FalllineError(
                f"no connection to the Ray cluster '{address}': {_short(error)}; see that it runs (`ray status`), or leave the cluster out."
            ) from error

    def close(self) -> None:
        """Leave; a cluster of our own ends."""
        self.rows = self.sent = None
        self._end()

    def ship(self, population: Population) -> tuple[tuple[str, Any], tuple[str, Any]]:
        """Rows and population in the cluster's memory, each under its name; sent once."""
        if self.rows is None or self.rows[0] is not population.data:
            self.rows, self.sent = (population.data, uuid.uuid4().hex, self.ray.put(pack_rows(population.data))), None
        if self.sent is None or self.sent[0] is not population:
            parcel = pack(replace(population, sizes={}), population.data)
            self.sent = (population, uuid.uuid4().hex, self.ray.put(tuple(parcel)))
        return self.rows[1:], self.sent[1:]


class _Errand:
    """The blocks of one call of `Ray.run`, on their way."""

    def __init__(self, link: _Link, population: Population, blocks: Sequence[Block], threads: int) -> None:
        self.link, self.blocks, self.stopped = link, blocks, False
        (rows_name, rows), (name, rest) = link.ship(population)
        cuda = any(_wants_cuda(block) for block in blocks)
        if cuda and not link.ray.cluster_resources().get("GPU"):
            raise FalllineError("no machine of the Ray cluster has a GPU that Ray knows of; use --device cpu, or leave the cluster out.")
        told = {"versions": _versions(), "threads": threads, "cuda": cuda, "rows": rows_name, "population": name}
        task = link.ray.remote(num_cpus=link.cores, num_gpus=int(cuda), max_retries=_RETRIES, retry_exceptions=False, max_calls=0)(_task())
        self.pending: dict[Any, int] = {}
        self.done: dict[int, Any] = {}
        for at, block in enumerate(blocks):
            self.pending[task.remote(told, rows, rest, tuple(pack(block, population.data)))] = at

    def results(
        self, writer: Writer, stop: Callable[[], bool], tick: Callable[[int, float], None]
    ) -> Iterator[tuple[Block, list[Result] | None]]:
        """See `Ray.run`."""
        at = 0
        while at < len(self.blocks):
            if at in self.done:
                yield self.blocks[at], self._unpacked(at, writer)
                at += 1
            elif stop():
                self.stopped = True
                self.cancel()
                for later in sorted(i for i, answer in self.done.items() if i > at and not isinstance(answer, BaseException)):
                    yield self.blocks[later], self._unpacked(later, writer)
                yield self.blocks[at], None
                return
            else:
                self._wait(tick)

    def _wait(self, tick: Callable[[int, float], None]) -> None:
        ready, _ = self.link.ray.wait(list(self.pending), num_returns=1, timeout=_WAIT)
        for ref in ready:
            at = self.pending.pop(ref)
            answer: dict[str, Any] | BaseException
            try:
                answer = self.link.ray.get(ref)
            except Exception as error:
                answer = self._lost(error, at)
            answer = self.done[at] = answer if isinstance(answer, BaseException) else _checked(answer)
            if isinstance(answer, BaseException):
                self.cancel(after=at)
            else:
                losses = _last_losses(answer["scalars"])
                tick(sum(each["outcome"]["steps"] for each in answer["results"]), statistics.median(losses) if losses else math.nan)

    def _lost(self, error: Exception, at: int) -> BaseException:
        """What is raised in the place of Ray's error."""
        kinds = self.link.ray.exceptions
        if isinstance(error, kinds.RayTaskError):
            cause = getattr(error, "cause", None)
            if isinstance(cause, BaseException) and not isinstance(cause, kinds.RayError):
                cause.__cause__ = error  # shows where on the worker it was raised
                return cause
        first = self.blocks[at].jobs[0].run
        if isinstance(error, kinds.RuntimeEnvSetupError | kinds.WorkerCrashedError | kinds.NodeDiedError | kinds.ObjectLostError):
            made = FalllineError(
                f"the block of member '{first}' was not trained: its worker died each of {_RETRIES + 1} times, "
                f"for want of memory or by a crash in the model's own code ({type(error).__name__})."
            )
        elif isinstance(error, kinds.OutOfMemoryError):
            made = FalllineError(
                f"the block of member '{first}' does not fit into the memory of a worker; take fewer workers, or machines with more memory."
            )
        elif isinstance(error, ConnectionError | kinds.RaySystemError):
            made = FalllineError(f"the connection to the Ray cluster was lost: {_short(error)}; what is recorded is kept.")
        else:
            return error
        made.__cause__ = error
        return made

    def cancel(self, after: int = -1) -> None:
        """Take back the blocks behind `after`."""
        for ref, at in list(self.pending.items()):
            if at > after:
                del self.pending[ref]
                with contextlib.suppress(Exception), _quiet():
                    self.link.ray.cancel(ref, force=True)

    def _unpacked(self, at: int, writer: Writer) -> list[Result]:
        answer, block = self.done.pop(at), self.blocks[at]
        if isinstance(answer, BaseException):
            raise answer
        for text in answer["warnings"]:
            warnings.warn(text, FalllineWarning, stacklevel=4)
        for run, key, split, step, epoch, seconds, value in answer["scalars"]:
            number = math.nan if value is None else value
            writer.series(key, [number], steps=[step], epochs=[epoch], seconds=[seconds], split=split, run=run)
        for run, key, step, value in answer["texts"]:
            writer.text(key, value, step=step, run=run)
        return [
            Result(job, Outcome(**each["outcome"]), each["marks"], each["block"], each["alone"])
            for job, each in zip(block.jobs, answer["results"], strict=True)
        ]


# -- on the worker ---------------------------------------------------------------------------------------------------------------------

_held: dict[str, tuple[str, Any]] = {}  # of this process: what the last task was sent


def _task() -> Callable[..., dict[str, Any]]:
    """What Ray runs: sent by value, so that a worker without fallline, or with another one, can say so."""

    def train_block(told: dict[str, Any], rows: list[Any], rest: tuple[Any, ...], block: tuple[Any, ...]) -> dict[str, Any]:
        import os
        import socket
        from importlib.metadata import PackageNotFoundError, version

        found = {}
        for name in told["versions"]:
            try:
                found[name] = version(name).partition("+")[0]
            except PackageNotFoundError:
                found[name] = "none"
        if found != told["versions"]:
            return {"kind": "versions", "found": found, "wanted": told["versions"], "host": socket.gethostname()}
        if not told["cuda"]:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # "auto" means here what it means at the driver
        from fallline.study.cluster import work

        return work(told, rows, rest, block)

    return train_block


def work(told: dict[str, Any], rows: list[Any], rest: tuple[Any, ...], block: tuple[Any, ...]) -> dict[str, Any]:
    """Train one block in this process.

    Args:
        told: names of what follows, and threads.
        rows: from `pack_rows`.
        rest: the population's parcel.
        block: the block's parcel.

    Returns:
        Plain values: results, rows of the record, warnings; or the sentence of what was refused.
    """
    torch.set_num_threads(told["threads"])
    folders: list[tempfile.TemporaryDirectory[str]]
    places: dict[str, str]
    try:
        data = _kept("rows", told["rows"], lambda: unpack_rows(rows))
        population, places, folders = _kept("population", told["population"], lambda: _settled(Parcel(*rest), data))
        mine = Parcel(*block)
        for file in mine.files:
            if file.spec not in places:
                folder, places[file.spec] = place(file)
                folders.append(folder)
        part = unpack(mine, data, places)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            writer = Writer(None)
            results = population.run(part, writer)
    except FalllineError as error:
        text = str(error)
        for given, here in (_held["population"][1][1] if "population" in _held else {}).items():
            text = text.replace(here, given).replace(here.rpartition(":")[0], given.rpartition(":")[0])
        return {"kind": "refused", "text": text, "of_type": isinstance(error, TypeError)}
    writer.flush()
    ask = writer.connection.execute
    return {
        "kind": "done",
        "results": [
            {"outcome": each.outcome.to_json(), "marks": each.marks, "block": each.block, "alone": each.alone} for each in results or []
        ],
        "scalars": ask("SELECT run, key, split, step, epoch, seconds, value FROM scalars ORDER BY rowid").fetchall(),
        "texts": ask("SELECT run, key, step, value FROM texts ORDER BY rowid").fetchall(),
        "warnings": list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, FalllineWarning))),
    }


def _settled(parcel: Parcel, data: "Data") -> tuple[Population, dict[str, str], list[Any]]:
    placed = [(file.spec, *place(file)) for file in parcel.files]
    places = {spec: here for spec, _, here in placed}
    return unpack(parcel, data, places), places, [folder for _, folder, _ in placed]


def _kept(kind: str, name: str, make: Callable[[], Any]) -> Any:
    if kind not in _held or _held[kind][0] != name:
        _held.pop(kind, None)
        _held[kind] = (name, make())
    return _held[kind][1]


# -- small pieces ----------------------------------------------------------------------------------------------------------------------


def _checked(answer: dict[str, Any]) -> dict[str, Any] | BaseException:
    """The answer, or the error that it tells of."""
    if answer["kind"] == "refused":
        return (FalllineTypeError if answer["of_type"] else FalllineError)(answer["text"])
    if answer["kind"] == "versions":
        said = [f"{name} {found}, here it is {answer['wanted'][name]}" for name, found in answer["found"].items()]
        wrong = [text for text, name in zip(said, answer["found"], strict=True) if answer["found"][name] != answer["wanted"][name]]
        return FalllineError(f"the worker on '{answer['host']}' has {' and '.join(wrong)}; install the same versions on all machines.")
    return answer


def _last_losses(scalars: list[tuple[Any, ...]]) -> list[float]:
    last = {run: value for run, key, split, _, _, _, value in scalars if key == "loss" and split == "train"}
    return [value for value in last.values() if value is not None]


def _versions() -> dict[str, str]:
    return {name: version(name).partition("+")[0] for name in _PACKAGES}


def _wants_cuda(block: Block) -> bool:
    named = {job.settings.device for job in block.jobs}
    return any(name.startswith("cuda") or (name == "auto" and torch.cuda.is_available()) for name in named)


def _bytes(data: "Data") -> int:
    return sum(t.numel() * t.element_size() for split in (data.train, data.validation, data.test) for t in (split.x, split.y))


def _place_of(address: str) -> tuple[str, int] | None:
    """Host and port; None where the address has no such form."""
    host, _, port = address.removeprefix("ray://").partition("?")[0].partition("/")[0].rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdigit() and int(port) < 65536 else None


def _named() -> str:
    """The address that Ray means by "auto": of the cluster that was last started on this machine, though it may run no more."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address("auto") or ""
    except ConnectionError:
        raise FalllineError("no Ray cluster runs on this machine; start one with `ray start --head`, or leave the address out.") from None


def _probe(address: str, host: str, port: int) -> None:
    """Ask whether a server of Ray's kind (gRPC over HTTP/2) is there: Ray itself would wait for one, for minutes."""
    try:
        with socket.create_connection((host, port), timeout=_CONNECT) as line:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                line.sendall(_HELLO)
                if line.recv(9)[3:4] != b"\x04":  # the frame of the server's own settings
                    raise OSError("what listens there is no Ray cluster")
    except OSError as error:
        raise FalllineError(
            f"no connection to the Ray cluster '{address}': {error.strerror or error}; see that it runs and that the address is right."
        ) from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text[:300] or type(error).__name__).rstrip(".")


def _imported() -> Any:
    """Ray, quietly."""
    try:
        with _quiet():
            import ray
            import ray.exceptions
    except ImportError as error:
        raise FalllineError("a cluster needs the package ray; install it with: pip install 'fallline[cluster]'.") from error
    return ray


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Ray's own warnings, reports of use and signal handlers."""
    before = {name: os.environ.get(name) for name in _QUIET}
    main = threading.current_thread() is threading.main_thread()
    handlers = {sign: signal.getsignal(sign) for sign in (signal.SIGTERM, signal.SIGINT)} if main else {}
    os.environ.update({name: value for name, value in _QUIET.items() if before[name] is None})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(ray|grpc|google)(\.|$)")
            yield
    finally:
        _put_back(before)
        for sign, handler in handlers.items():
            if handler is not None and handler is not signal.getsignal(sign):
                signal.signal(sign, handler)


def _leave(ray: Any, folder: str | None, environment: dict[str, str | None]) -> None:
    if ray is None:
        return
    with contextlib.suppress(Exception), _quiet():
        ray.shutdown()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    _put_back(environment)


def _put_back(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
