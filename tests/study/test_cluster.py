"""Studies on a Ray cluster: the bits of one process, whatever happens to the workers; nothing is left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from fallline._core.errors import FalllineError
from fallline.data import load
from fallline.losses import Custom
from fallline.population import Job, Population
from fallline.record import Writer
from fallline.study import cluster, parcel
from fallline.study.cluster import Ray
from fallline.study.models import fresh
from fallline.study.runner import Local
from fallline.training import Settings

pytest.importorskip("ray")

TIMED = "('seconds_per_step', 'examples_per_second')"


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def ray():
    """A cluster of two workers for this file; started by the first test that trains on it."""
    with Ray("local", workers=2, threads=1) as runner:
        yield runner


@pytest.fixture
def short():
    """A folder with a short name: Ray's sockets lie in it, whose names have 107 characters at most."""
    with tempfile.TemporaryDirectory(prefix="fl-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


class _Threes(dict):
    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return 3


def population(data, model="mlp:16", loss=None):
    """Cut into blocks of three, whatever is fastest here."""

    def make(s, g):
        return fresh(model, data.input_shape, g.outputs, seed=s.seed, dropout=s.dropout)

    return Population(make, data, loss, sizes=_Threes())


def jobs(names=("sgd", "adam"), seeds=3, **settings):
    fields = {"lr": 0.05, "batch_size": 64, "epochs": 2, **settings}
    return [Job(f"{name}-{seed}", Settings(optimizer=name, seed=seed, **fields), marks=(1,)) for name in names for seed in range(seeds)]


def trained(runner, people, wanted, **asked):
    """Results and the whole record, times left out."""
    writer = Writer(None)
    asked = {"stop": lambda: False, "tick": lambda steps, loss: None, **asked}
    found = [(block, results) for block, results in runner.run(people, people.blocks(wanted), writer, **asked)]
    writer.flush()
    query = f"SELECT run, key, split, step, epoch, value FROM scalars WHERE key NOT IN {TIMED} ORDER BY rowid"
    texts = "SELECT run, key, step, value FROM texts ORDER BY rowid"
    said = [
        (r.job, r.outcome.status, r.outcome.steps, r.outcome.best_epoch, r.outcome.metrics, r.outcome.message, r.marks, r.block, r.alone)
        for _, results in found
        for r in results or []
    ]
    return said, writer.connection.execute(query).fetchall(), writer.connection.execute(texts).fetchall()


def same(ray, people, wanted):
    """Trains here and there; the results that both gave."""
    here, there = trained(Local(), people, wanted), trained(ray, people, wanted)
    assert len(here[0]) == len(wanted)
    assert len(here[1]) > 5 * len(wanted)
    assert repr(here) == repr(there)  # every digit, and NaN too
    return there[0]


# -- without Ray -----------------------------------------------------------------------------------------------------------------------


def test_rows_are_sent_as_they_are(data):
    parts = parcel.pack_rows(data)
    found = parcel.unpack_rows(parts)
    assert found.fingerprint == data.fingerprint
    assert (found.classes, found.input_shape, found.task) == (data.classes, data.input_shape, data.task)
    bytes_ = sum(t.numel() * t.element_size() for s in (data.train, data.validation, data.test) for t in (s.x, s.y))
    assert sum(len(part) for part in parts[1:]) == bytes_  # all tensors beside the header, none in it
    assert len(parts[0]) < 1 << 16
    found.train.x.zero_()  # memory of its own
    assert parcel.unpack_rows(parts).fingerprint == data.fingerprint


def test_rows_are_left_out_wherever_they_are_met(data):
    packed = parcel.pack(population(data), data)
    assert len(packed.content) < 20_000
    assert parcel.unpack(packed, data).data is data
    assert parcel.unpack(packed, data).make.__closure__ is not None


def test_a_model_file_is_sent_with_what_it_imports(tmp_path):
    (tmp_path / "width_of_it.py").write_text("WIDTH = 7\n")
    (tmp_path / "unused.py").write_text("raise RuntimeError\n")
    (tmp_path / "model.py").write_text(
        "from torch import nn\nfrom width_of_it import WIDTH\ndef make(outputs):\n    return nn.Linear(WIDTH, outputs)\n"
    )
    spec = f"{tmp_path / 'model.py'}:make"
    try:
        packed = parcel.pack(lambda: fresh(spec, (7,), 3, seed=0))
        assert [sorted(file.content) for file in packed.files] == [["model.py", "width_of_it.py"]]
        assert str(tmp_path).encode() not in packed.content.replace(spec.encode(), b"")
        for path in tmp_path.glob("*.py"):
            path.unlink()
        folder, here = parcel.place(packed.files[0])
        with folder:
            made = parcel.unpack(packed, places={spec: here})()
        assert made.weight.shape == (3, 7)
    finally:
        sys.modules.pop("width_of_it", None)


def test_what_cannot_be_sent_is_said():
    lock = threading.Lock()
    with pytest.raises(FalllineError, match=r"cannot be sent to the workers of a cluster \(TypeError: .*keep open files, locks"):
        parcel.pack(lambda: lock)


@pytest.mark.parametrize("address", ["nowhere", "ray://host", "host:port", "", "host:99999"])
def test_an_address_without_meaning(address):
    with pytest.raises(FalllineError, match="the address of a cluster is"):
        Ray(address)


@pytest.mark.parametrize("name", ["workers", "threads"])
def test_counts_are_from_one_on(name):
    with pytest.raises(FalllineError, match=rf"`{name} >= 1` must hold"):
        Ray(**{name: 0})


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_where_nobody_listens(data, address):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = address.format(port=taken.getsockname()[1])
        began = time.monotonic()
        with pytest.raises(FalllineError, match=f"no connection to the Ray cluster '{address}'"):
            trained(Ray(address), population(data), jobs())
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_where_somebody_else_listens(data, answer, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT", 0.5)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        threading.Thread(target=answer_with, args=(other, answer), daemon=True).start()
        with pytest.raises(FalllineError, match=r"no connection to the Ray cluster .*(timed out|no Ray cluster)"):
            trained(Ray(f"127.0.0.1:{other.getsockname()[1]}"), population(data), jobs())


def answer_with(server, answer):
    line, _ = server.accept()
    with line:
        line.sendall(answer)
        line.recv(1000)
        if not answer:
            time.sleep(2)


def test_a_cluster_of_yesterday(data, monkeypatch, short):
    """Ray keeps the address of a cluster that was killed, and would wait for it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", short)
    folder = Path(short) / "ray"
    folder.mkdir()
    with pytest.raises(FalllineError, match="no Ray cluster runs on this machine"):
        trained(Ray("auto"), population(data), jobs())
    (folder / "ray_current_cluster").write_text("127.0.0.1:9")
    with pytest.raises(FalllineError, match="no connection to the Ray cluster 'auto': Connection refused"):
        trained(Ray("auto"), population(data), jobs())


def test_without_the_package(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FalllineError, match=r"needs the package ray; install it with: pip install 'fallline\[cluster\]'"):
        trained(Ray(), population(data), jobs())


def test_nothing_to_train_starts_nothing(data):
    assert list(Ray().run(population(data), [], Writer(None), stop=lambda: False, tick=lambda n, loss: None)) == []


def test_other_versions_are_refused():
    answer = {"kind": "versions", "found": {"fallline": "none", "torch": "2.0"}, "wanted": {"fallline": "1", "torch": "2.0"}, "host": "far"}
    text = str(cluster._checked(answer))
    assert text == "the worker on 'far' has fallline none, here it is 1; install the same versions on all machines."


def test_the_task_looks_at_the_versions_first():
    answer = cluster._task()({"versions": {"torch": "0.1", "not-there": "2"}}, [], (), ())
    assert answer["found"] == {"torch": torch.__version__.partition("+")[0], "not-there": "none"}


# -- with Ray --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # starts a cluster, which leaves sockets for the collector to close when it likes
def test_the_record_is_that_of_one_process(ray, data):
    ticks = []
    people, wanted = population(data), [*jobs(dropout=0.2), *jobs(("muon",), lr=1e6, batch_size=32)]
    found = same(ray, people, wanted)
    assert {each[1] for each in found} == {"finished", "diverged"}
    assert {each[-2] for each in found} == {3}
    trained(ray, people, wanted, tick=lambda steps, loss: ticks.append(steps))
    assert len(ticks) == 3
    assert sum(ticks) == sum(each[2] for each in found)


class _Killed(nn.Module):
    """Kills its process in the middle of a training, as often as `path` has lines to lose."""

    def __init__(self, path, driver):
        super().__init__()
        self.path, self.driver, self.calls = Path(path), driver, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 20 and os.getpid() != self.driver:
            left = self.path.read_text().splitlines()
            if left:
                self.path.write_text("\n".join(left[1:]))
                os.kill(os.getpid(), signal.SIGKILL)
        return x


def killed(path, pid):
    def make(input_shape, outputs):
        return nn.Sequential(nn.Flatten(), _Killed(path, pid), nn.Linear(64, outputs))

    return make


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(ray, data, tmp_path):
    path = tmp_path / "kills"
    path.write_text("once\ntwice\n")
    found = same(ray, population(data, killed(path, os.getpid())), jobs())
    assert path.read_text() == ""
    assert len(found) == 6


@pytest.mark.slow
def test_a_block_that_kills_every_worker_is_said(ray, data, tmp_path):
    path = tmp_path / "kills"
    path.write_text("again\n" * 100)
    people = population(data, killed(path, os.getpid()))
    with pytest.raises(FalllineError, match="the block of member 'sgd-0' was not trained: its worker died each of 6 times"):
        trained(ray, people, jobs(("sgd",)))


@pytest.mark.slow
def test_models_and_losses_of_ones_own(ray, data, tmp_path):
    def pinball(raw, y):
        return nn.functional.cross_entropy(raw, y, reduction="none") + 0.01 * raw.square().mean(1)

    same(ray, population(data, lambda shape, outputs: nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))), jobs())
    same(ray, population(data, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), jobs())
    same(ray, population(data, loss=Custom(pinball, task="multiclass")), jobs())
    same(ray, population(data), jobs(loss="multiclass_hinge"))
    alone = same(ray, population(data, _reads_values), jobs(("sgd",), seeds=2))
    assert all("value" in each[-1] for each in alone)


class _Reads(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.last = nn.Linear(64, outputs)

    def forward(self, x):
        return self.last(x.flatten(1) if float(x.sum()) > -1e9 else x)


def _reads_values(input_shape, outputs):
    return _Reads(outputs)


@pytest.mark.slow
def test_a_model_file_and_its_refusal(ray, data, tmp_path):
    (tmp_path / "parts_of_it.py").write_text("from torch import nn\n\ndef head(n):\n    return nn.Linear(64, n)\n")
    body = """
        from torch import nn
        import parts_of_it

        def make(input_shape, outputs, seed):
            if seed == {bad}:
                raise RuntimeError("no such seed")
            return nn.Sequential(nn.Flatten(), parts_of_it.head(outputs))
    """
    path = tmp_path / "model.py"
    path.write_text(textwrap.dedent(body.format(bad=-1)))
    try:
        same(ray, population(data, f"{path}:make"), jobs())
        people, wanted = population(data, f"{path}:make"), jobs()
        blocks = people.blocks(wanted)
        bad = fresh_seed(wanted[4])
        path.write_text(textwrap.dedent(body.format(bad=bad)))
        texts = []
        for runner in (Local(), ray):
            writer, whole = Writer(None), []
            with pytest.raises(FalllineError, match="no such seed") as error:
                whole.extend(runner.run(people, blocks, writer, stop=lambda: False, tick=lambda n, loss: None))
            texts.append(str(error.value))
        assert texts[0] == texts[1]
        assert str(path) in texts[0]
    finally:
        sys.modules.pop("parts_of_it", None)


def fresh_seed(job):
    from fallline._core.seeds import stream

    return stream(job.settings.seed, "init")


@pytest.mark.slow
def test_other_errors_come_as_they_are(ray, data):
    def make(input_shape, outputs):
        return nn.Sequential(nn.Flatten(), nn.Linear(63, outputs))

    for runner in (Local(), ray):
        people = population(data, make)
        blocks = [
            type(block)(block.jobs, block.goal, "to see it fail in training") for block in population(data).blocks(jobs(("sgd",), seeds=1))
        ]
        with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
            list(runner.run(people, blocks, Writer(None), stop=lambda: False, tick=lambda n, loss: None))


def descendants(pid):
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from descendants(int(child))


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_a_stop_leaves_nothing_behind(data, tmp_path):
    before = set(descendants(os.getpid()))
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    environment = dict(os.environ)
    done = []
    people, writer = population(data), Writer(None)
    blocks = people.blocks([*jobs(("sgd",)), *jobs(("adam",), epochs=100_000), *jobs(("rmsprop",))])
    assert [block.jobs[0].settings.optimizer for block in blocks] == ["sgd", "rmsprop", "adam"]
    blocks = [blocks[0], blocks[2], blocks[1]]  # the endless one in the middle
    runner = Ray("local", workers=2, threads=1)
    found = list(runner.run(people, blocks, writer, stop=lambda: len(done) == 2, tick=lambda steps, loss: done.append(steps)))
    assert [(block.jobs[0].run, results is None) for block, results in found] == [("sgd-0", False), ("rmsprop-0", False), ("adam-0", True)]
    writer.flush()
    assert [row[0] for row in writer.connection.execute("SELECT DISTINCT run FROM scalars ORDER BY run")] == [
        job.run for job in [*jobs(("rmsprop",)), *jobs(("sgd",))]
    ]
    until = time.monotonic() + 20
    while (left := [pid for pid in set(descendants(os.getpid())) - before if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert dict(os.environ) == environment


@pytest.mark.slow
def test_a_cluster_that_runs_is_joined_and_left(data, tmp_path):
    """In processes of their own: Ray's client keeps threads for the life of a process."""
    ports = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            held = stack.enter_context(socket.socket())
            held.bind(("127.0.0.1", 0))
            ports.append(held.getsockname()[1])
    gcs, client = ports
    words = f"--head --block --port={gcs} --ray-client-server-port={client} --num-cpus=2 --include-dashboard=false --disable-usage-stats"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words.split(), "--node-ip-address=127.0.0.1"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as head:
        try:
            wait_for(client)
            program = tmp_path / "program.py"
            program.write_text(textwrap.dedent(PROGRAM.format(here=str(Path(__file__).parent))))
            for address in (f"ray://127.0.0.1:{client}", f"127.0.0.1:{gcs}"):
                run = subprocess.run(
                    [sys.executable, "-W", "error", str(program), address],
                    capture_output=True,
                    text=True,
                    timeout=300,
                    env=environment,
                    check=False,
                )
                assert run.stdout.strip().splitlines()[-1:] == ["the same"], run.stdout + run.stderr
                assert run.stderr == ""
                assert head.poll() is None
                wait_for(client)
        finally:
            head.terminate()
            head.wait(60)
            forget(gcs)


def forget(port):
    """Take away Ray's note of the cluster that ended here (in Ray's own folder: its client server did not start in another)."""
    from ray._private.utils import get_ray_address_file

    note = Path(get_ray_address_file(None))
    if note.is_file() and note.read_text().endswith(f":{port}"):
        note.unlink()


def wait_for(port):
    until = time.monotonic() + 90
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < until, "the cluster did not start"
            time.sleep(0.3)


PROGRAM = """
    import sys
    sys.path.insert(0, {here!r})
    import torch
    torch.set_num_threads(1)
    import test_cluster as t
    data = t.load("digits")
    with t.Ray(sys.argv[1]) as ray:
        t.same(ray, t.population(data), t.jobs())
    print("the same")
"""
