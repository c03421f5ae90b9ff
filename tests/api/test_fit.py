"""`fit` from Python: what it chooses, refuses, writes and gives back."""

import dataclasses
import json
import os
import signal
import sys
import threading

import numpy as np
import polars as pl
import pytest
import torch

import fallline as fl
from fallline._core.errors import FalllineError
from fallline.api.run import residual_quantiles
from fallline.data import Split
from fallline.record import Reader, read_info
from tests.training.toys import net, toy


def unheld(data):
    return dataclasses.replace(data, validation=Split(data.validation.x[:0], data.validation.y[:0]))


def normed():
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def net_without_arguments():
    return net()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fl.fit("mlp:16", "iris", lr=0.02, epochs=6, out=tmp_path_factory.mktemp("runs") / "iris", quiet=True)


def test_a_run_folder_holds_what_was_promised(run):
    names = {p.name for p in run.folder.iterdir()}
    assert names == {"run.json", "record.sqlite", "model.safetensors", "checkpoint.safetensors", "pipeline.json"}
    info = read_info(run.folder)
    assert info["status"] == run.status == "finished"
    assert info["config"] == run.settings.to_json()
    assert info["result"]["metrics"] == run.metrics
    assert info["data"]["source"]["source"] == "iris"
    assert info["model"]["spec"] == "mlp:16"
    assert info["choices"] == run.choices
    assert info["data"]["fingerprint"] == run.data.fingerprint


def test_the_history_has_one_value_an_epoch(run):
    assert len(run.history["train/loss"]) == len(run.history["validation/accuracy"]) == 6
    table = run.history.table()
    assert [row["epoch"] for row in table] == [1, 2, 3, 4, 5, 6]
    assert table[2]["validation/loss"] == run.history["validation/loss"][2]
    assert run.reader.series("loss", "test").value.tolist() == [run.metrics["test"]["loss"]]


def test_a_loaded_run_predicts_the_same(run, tmp_path):
    loaded = fl.load_run(run.folder)
    rows = pl.DataFrame(np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]]), schema=list(run.data.feature_names))
    rows.write_csv(tmp_path / "new.csv")
    for source in (rows, tmp_path / "new.csv"):
        one, two = run.predict(source), loaded.predict(source)
        assert one.label.tolist() == two.label.tolist() == ["setosa", "virginica"]
        np.testing.assert_array_equal(one.probability, two.probability)
        np.testing.assert_allclose(one.probability.sum(1), 1, atol=1e-6)
    assert loaded.metrics == run.metrics
    assert loaded.history.keys() == run.history.keys()


def test_predictions_are_written_in_three_forms(run, tmp_path):
    made = run.predict(run.data.test.x)
    assert len(made) == len(run.data.test)
    frame = made.to_frame()
    assert frame.columns == ["species", "probability_setosa", "probability_versicolor", "probability_virginica"]
    assert pl.read_csv(made.write(tmp_path / "p.csv"))["species"].to_list() == made.label.tolist()
    assert pl.read_parquet(made.write(tmp_path / "p.parquet")).equals(frame)
    assert json.loads(made.write(tmp_path / "p.json").read_text())[0]["species"] == made.label[0]
    with pytest.raises(FalllineError, match="csv"):
        made.write(tmp_path / "p.xlsx")


def test_whole_numbers_come_back_as_labels_and_a_raw_tensor_is_warned_of(tmp_path):
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 50 + 1000
    y = (x[:, 0] > 1000).long() + 3
    run = fl.fit("linear", (x, y), lr=0.1, epochs=10, out=tmp_path / "run", quiet=True)
    for one in (run, fl.load_run(tmp_path / "run")):
        made = one.predict(x.numpy())
        assert made.label.dtype == np.int64
        assert (made.label == y.numpy()).mean() > 0.9
        with pytest.warns(fl.FalllineWarning, match=r"predict\(x.numpy\(\)\)"):
            one.predict(x)
    pictures = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    with pytest.warns(fl.FalllineWarning, match="prepared already"):
        fl.fit("linear", (pictures, torch.arange(40) % 2), lr=0.1, epochs=1, quiet=True).predict(pictures)
    assert set(run.predict(run.data.test.x).label.tolist()) == {3, 4}  # its own rows are prepared: no warning


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"loss": torch.nn.MSELoss}, "got the class MSELoss; write MSELoss"),
        ({"optimizer": torch.optim.Adam}, "got Adam; 'adam'"),
        ({"task": "regression"}, "task belongs to the data: .*load"),
    ],
)
def test_what_a_torch_user_tries_is_refused_with_the_way_out(given, says):
    with pytest.raises(FalllineError, match=says):
        fl.fit("linear", "iris", epochs=1, quiet=True, **given)


def test_an_error_inside_a_torch_layer_names_no_line_of_torch():
    with pytest.raises(FalllineError, match="raised RuntimeError: mat1"):
        fl.fit(torch.nn.Linear(99, 3), "iris", epochs=1, quiet=True)


def test_the_interval_holds_nine_tenths_of_the_validation_rows():
    run = fl.fit("linear", toy("regression", rows=1000, noise=0.5), lr=0.05, epochs=10, quiet=True)
    made = run.predict(run.data.validation.x)
    y = run.data.validation.y.numpy()
    inside = (y >= made.interval[:, 0]) & (y <= made.interval[:, 1])
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    assert made.columns().keys() == {"y", "low", "high"}


def test_the_interval_of_few_validation_rows_holds_nine_tenths_of_new_rows():
    """The plain quantiles of 30 residuals hold 85 % of new ones."""
    rng, data = np.random.default_rng(0), toy("regression")
    run = fl.fit(torch.nn.Linear(6, 1), data, lr=0.01, epochs=1, quiet=True)
    shown = run.predict(data.validation.x[:30]).value
    new, inside = rng.normal(size=2000), []
    for _ in range(300):
        y = torch.from_numpy(shown + rng.normal(size=30)).float()
        few = dataclasses.replace(data, validation=Split(data.validation.x[:30], y))
        low, high = residual_quantiles(run.model, few, run.goal)
        inside.append(((new >= low) & (new <= high)).mean())
    assert 0.89 < np.mean(inside) < 0.93


def test_every_default_is_said():
    said = []
    run = fl.fit("linear", toy("regression", rows=40), quiet=True, epochs=1, say=said.append)
    assert said == run.choices
    assert any("loss: mse" in line for line in said)
    assert any("batch size: full" in line and "28" in line for line in said)
    assert any("learning rate" in line for line in said)
    assert any("target scale" in line for line in said)
    assert fl.fit("linear", toy(), loss="cross_entropy", lr=0.1, epochs=1, quiet=True).choices == ["loss: cross_entropy"]


def test_the_same_call_gives_the_same_weights_and_leaves_random_numbers_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    a, b, c = (fl.fit("mlp:8", toy(), lr=0.1, epochs=1, seed=s, quiet=True, dropout=0.2) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    flat = [torch.cat([p.flatten() for p in r.model.parameters()]) for r in (a, b, c)]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_a_module_is_trained_in_place_and_a_function_makes_one():
    model = net()
    before = model[0].weight.detach().clone()
    assert fl.fit(model, toy(), lr=0.1, epochs=1, quiet=True).model is model
    assert not torch.equal(model[0].weight, before)
    for make in (
        net_without_arguments,
        lambda outputs: net(outputs, 6),
        lambda input_shape, outputs: net(outputs, input_shape[0]),
        lambda a, b: net(b, a[0]),
    ):
        assert fl.fit(make, toy(), lr=0.1, epochs=1, quiet=True).status == "finished"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"model": "mpl:3"}, "mlp"),
        ({"model": 3}, "int"),
        ({"model": lambda: 3}, "Module"),
        ({"model": lambda: 1 / 0}, "ZeroDivisionError"),
        ({"model": lambda: net(4)}, "3"),
        ({"loss": "mse"}, "cross_entropy"),
        ({"optimizer": "adma"}, "adam"),
        ({"schedule": "cosin"}, "cosine"),
        ({"batch_size": 281}, "batch_size <= 280"),
        ({"class_weight": "dog:1"}, "ant"),
        ({"augment": "flip"}, "pictures"),
        ({"augment": "explode"}, "explode"),
        ({"speed": 3}, "speed"),
        ({"device": "abacus"}, "device"),
        ({"lr": -1}, "lr"),
        ({"lr": 0.1, "optimizer": "adam:lr=0.2"}, "given once"),
        ({"track": "wandb"}, "track"),
        ({"engine": "steam"}, "engine"),
        ({"schedule": "step:every=nan"}, "every is a number"),
        ({"schedule": "warm_restarts:mult=inf"}, "mult is a number"),
        ({"patience": 2, "data": unheld(toy())}, "validation rows"),
        ({"augment": "crop:20", "data": "digits", "model": "cnn"}, "crop < 8"),
        ({"model": "mlp:8", "data": toy("regression"), "loss": "msle:input_from=values"}, "above -1"),
        ({"model": normed(), "batch_size": 31}, "one row"),
        ({"model": normed(), "batch_size": 1}, "one row"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, arguments, says):
    given = {"model": net(), "data": toy(), "lr": 0.1, "epochs": 1, "quiet": True, **arguments}
    with pytest.raises(FalllineError, match=says) as error:
        fl.fit(out=tmp_path / "run", **given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_files_that_a_run_would_replace_are_left_alone(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(FalllineError, match=r"already holds model\.safetensors"):
        fl.fit(net(), toy(), lr=0.1, epochs=1, out=tmp_path, quiet=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("model.safetensors", b"mine")]


def test_a_norm_over_batches_takes_batches_of_two_or_more():
    assert fl.fit(normed(), toy(), lr=0.1, batch_size=30, epochs=1, quiet=True).status == "finished"


def test_no_data_is_said():
    with pytest.raises(FalllineError, match="data"):
        fl.fit("linear")


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FalllineError, match="permission"):
        fl.fit(net(), toy(), lr=0.1, epochs=1, out=tmp_path / "run")


def test_ctrl_c_saves_and_ends_as_interrupted(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    count = iter(range(1, 1000))

    def press():
        if next(count) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return False

    run = fl.fit(net(), toy(), lr=0.1, epochs=3, out=tmp_path / "run", quiet=True, stop=press)
    assert run.status == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert fl.resume(tmp_path / "run", model=net(), data=toy(), quiet=True).status == "finished"


def test_a_second_ctrl_c_ends_at_once():
    count = iter(range(1, 1000))

    def press():
        if next(count) in (5, 6):
            os.kill(os.getpid(), signal.SIGINT)
            if next(count) < 9:
                os.kill(os.getpid(), signal.SIGINT)
        return False

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fl.fit(net(), toy(), lr=0.1, epochs=3, quiet=True, stop=press)
    assert signal.getsignal(signal.SIGINT) is before


def test_fit_works_in_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(fl.fit(net(), toy(), lr=0.1, epochs=1, quiet=True).status))
    thread.start()
    thread.join()
    assert found == ["finished"]


def test_a_run_that_fails_says_so_in_its_folder(tmp_path):
    def stop():
        raise RuntimeError("the cat sat on the keyboard")

    with pytest.raises(RuntimeError):
        fl.fit(net(), toy(), lr=0.1, epochs=1, out=tmp_path / "run", quiet=True, stop=stop)
    info = read_info(tmp_path / "run")
    assert info["status"] == "failed"
    assert "cat" in info["result"]["message"]


def test_a_diverged_run_is_a_result(tmp_path):
    run = fl.fit(net(1), toy("regression"), optimizer="sgd", lr=1e5, epochs=3, out=tmp_path / "run", quiet=True)
    assert run.status == read_info(tmp_path / "run")["status"] == "diverged"
    assert "learning rate" in run.message
    assert "Run(diverged" in repr(run)


def test_tensorboard_mirrors_the_record(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fl.fit(net(), toy(), lr=0.1, epochs=2, out=tmp_path / "run", quiet=True, track="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    seen = [e.value for e in events.Scalars("loss/validation")]
    assert seen == pytest.approx(run.reader.series("loss", "validation").value.tolist())
    assert "lr/train" in events.Tags()["scalars"]


def test_tensorboard_that_is_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(FalllineError, match=r"fallline\[track\]"):
        fl.fit(net(), toy(), lr=0.1, epochs=1, out=tmp_path / "run", quiet=True, track="tensorboard")
    assert not (tmp_path / "run").exists()


def test_a_damaged_model_file_or_pipeline_is_named(run, tmp_path):
    import shutil

    for name in ("model.safetensors", "pipeline.json"):
        place = tmp_path / name.split(".")[0]
        shutil.copytree(run.folder, place)
        (place / name).write_bytes((place / name).read_bytes()[:60])
        with pytest.raises(FalllineError, match=name):
            fl.load_run(place)
    place = tmp_path / "killed"
    shutil.copytree(run.folder, place)
    (place / "pipeline.json").unlink()
    with pytest.raises(FalllineError, match="no model yet"):
        fl.load_run(place)


def test_a_run_is_read_while_it_is_written(tmp_path):
    seen = []

    def look():
        if (tmp_path / "run" / "checkpoint.safetensors").exists() and not seen:
            with Reader(tmp_path / "run") as reader:
                seen.append(reader.info["status"])
        return False

    fl.fit(net(), toy(), lr=0.1, epochs=2, out=tmp_path / "run", quiet=True, stop=look)
    assert seen == ["running"]


def test_a_rate_named_with_the_optimizer_is_used_and_survives_a_resume(tmp_path):
    run = fl.fit("linear", "iris", optimizer="adam:lr=0.2", epochs=1, out=tmp_path / "run", quiet=True)
    assert (run.settings.optimizer, run.settings.lr) == ("adam", 0.2)
    assert fl.resume(tmp_path / "run", epochs=2, quiet=True).settings.lr == 0.2


def test_equal_runs_write_equal_model_files(tmp_path):
    for name in "ab":
        fl.fit("linear", "iris", lr=0.1, epochs=1, out=tmp_path / name, quiet=True)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
