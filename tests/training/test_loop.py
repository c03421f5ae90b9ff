"""The loop does what a plain loop does, stops when it should, and says why."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from fallline import losses, optim, penalties
from fallline._core.errors import FalllineError
from fallline.data import Augment, Split, batches
from fallline.optim import schedules
from fallline.record import Reader, Writer
from fallline.training import Settings, aim, evaluate, train
from tests.training.toys import net, toy


def run(data=None, model=None, **settings):
    data = toy() if data is None else data
    writer = Writer(None)
    model = net() if model is None else model
    outcome = train(
        model, data, Settings(**{"lr": 0.05, "optimizer": "sgd", "epochs": 3, "keep": "last", **settings}), writer=writer, progress=False
    )
    return outcome, model, Reader(writer)


def plain_loop(data, model, *, lr, batch, epochs, seed=0, l1=0.0, l2=0.0, schedule=None, optimizer="sgd", clip=None):
    opt = optim.build(optimizer, list(model.named_parameters()), lr=lr, clip_norm=clip)
    lossf = torch.nn.CrossEntropyLoss()
    step = 0
    for epoch in range(epochs):
        for rows in batches(len(data.train), batch, seed=seed, epoch=epoch):
            if schedule:
                opt.param_groups[0]["lr"] = lr * schedule(step)
            opt.zero_grad()
            loss = lossf(model(data.train.x[rows]), data.train.y[rows])
            loss = loss + l1 * penalties.l1(model.named_parameters()) + l2 * penalties.l2(model.named_parameters())
            loss.backward()
            opt.step()
            step += 1
    return model


def same(a, b):
    """Equal to 1e-13, in double precision: our products and softmax round their last bit in their own order."""
    return all(float((x - y).abs().max()) <= 1e-13 for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def doubled(task="multiclass"):
    data = toy(task)
    return dataclasses.replace(data, **{n: Split(s.x.double(), s.y) for n in ("train", "validation", "test") for s in [getattr(data, n)]})


@pytest.mark.parametrize("batch", [1, 7, 32, 280])
def test_equals_a_plain_loop(batch):
    data = doubled()
    _, model, _ = run(data, net().double(), batch_size=batch)
    assert same(model, plain_loop(data, net().double(), lr=0.05, batch=batch, epochs=3))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"l1": 1e-3, "l2": 1e-2}, {"l1": 1e-3, "l2": 1e-2}),
        ({"optimizer": "adam", "clip_norm": 0.1}, {"optimizer": "adam", "clip": 0.1}),
        (
            {"schedule": "warmup:epochs=1+cosine"},
            {"schedule": schedules.build("warmup:epochs=1+cosine", total_steps=27, steps_per_epoch=9)},
        ),
    ],
)
def test_every_setting_equals_the_plain_loop_with_it_and_not_without(ours, theirs):
    data = doubled()
    _, model, _ = run(data, net().double(), **ours)
    assert same(model, plain_loop(data, net().double(), lr=0.05, batch=32, epochs=3, **theirs))
    bare = {"optimizer": ours["optimizer"]} if "optimizer" in ours else {}
    assert not same(model, run(data, net().double(), **bare)[1])


def test_full_batch_is_one_step_an_epoch():
    outcome, _, reader = run(batch_size="full", epochs=4)
    assert outcome.steps == 4
    assert len(reader.series("loss", "batch").value) == 4


def test_a_batch_above_the_rows_is_refused():
    with pytest.raises(FalllineError, match="batch_size <= 280"):
        run(batch_size=281)


def test_the_same_seed_repeats_and_another_does_not():
    a, b, c = (run(seed=seed)[1] for seed in (3, 3, 4))
    assert same(a, b)
    assert not same(a, c)


def test_the_users_random_numbers_are_untouched():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run(model=net(dropout=0.5))
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_draws_from_the_seed_of_the_run():
    torch.manual_seed(1)
    a = run(model=net(dropout=0.5))[1]
    torch.manual_seed(2)
    assert same(a, run(model=net(dropout=0.5))[1])


def test_record_holds_the_epochs_and_thinned_steps():
    outcome, model, reader = run(batch_size=1, epochs=2)
    loss = reader.series("loss")
    assert loss.step.tolist() == [280, 560]
    assert loss.epoch.tolist() == [1, 2]
    steps = reader.series("loss", "batch")
    assert 100 <= len(steps.step) / 2 <= 200
    assert steps.step[-1] == 560
    assert np.all(np.diff(steps.step) > 0)
    assert reader.series("loss", "validation").step.tolist() == [0, 280, 560]
    data = toy()
    goal = aim(data, Settings())
    again = evaluate(model, data.validation, goal)
    for key in ("loss", "accuracy", "precision", "recall", "f1", "roc_auc"):
        assert reader.series(key, "validation").last == pytest.approx(again[key])
    assert reader.series("accuracy", "test").value.tolist() == [outcome.metrics["test"]["accuracy"]]
    assert np.all(reader.series("grad_norm").value > 0)
    assert np.all(reader.series("lr").value == 0.05)
    weights = len(steps.step) // 2
    assert loss.value[0] == pytest.approx(np.average(steps.value[:weights], weights=np.diff([0, *steps.step[:weights]])), rel=1e-5)


def test_the_training_loss_weighs_every_row_alike():
    data = toy(rows=100)
    outcome, model, reader = run(data, lr=1e-12, batch_size=69, epochs=1)  # 70 rows: the last batch has one
    assert outcome.steps == 2
    assert reader.series("loss").value[0] == pytest.approx(evaluate(model, data.train, aim(data, Settings()))["loss"], rel=1e-6)


def test_frozen_parameters_stay_and_thawed_ones_start_from_their_own_gradient():
    data, model = toy(), net()
    model(data.train.x).sum().backward()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    norms = []

    def thaw(*_):
        norms.append(0.0 if model[0].weight.grad is None else float(model[0].weight.grad.norm()))
        model[0].weight.requires_grad_(True)

    run(data, model, epochs=1)
    assert model[0].weight.equal(before)
    writer = Writer(None)
    train(model, data, Settings(lr=1e-6, optimizer="sgd", epochs=9, batch_size="full"), writer=writer, progress=False, each_epoch=thaw)
    assert norms[0] == 0 < norms[1]
    assert norms[-1] == pytest.approx(norms[1], rel=1e-2)  # not the sum over all steps so far


def test_the_mode_of_every_module_is_put_back():
    model = net(dropout=0.5)
    model[2].eval()
    evaluate(model, toy().test, aim(toy(), Settings()))
    assert [m.training for m in model.modules()] == [True, True, True, False, True]


def test_the_gradient_norm_is_that_of_the_gradient():
    data = toy()
    model = net()
    norms = []
    for rows in [next(iter(batches(280, 280, seed=0, epoch=0)))]:
        torch.nn.functional.cross_entropy(model(data.train.x[rows]), data.train.y[rows]).backward()
        norms.append(math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters())))
    _, _, reader = run(data, batch_size="full", epochs=1)
    assert reader.series("grad_norm").value == pytest.approx(norms, rel=1e-5)


def test_regression_is_trained_in_standard_units_and_told_in_its_own():
    data = toy("regression")
    outcome, model, _ = run(data, net(1), loss="mse", epochs=30, optimizer="adam", lr=0.02, keep="best")
    assert outcome.metrics["test"]["r2"] > 0.9
    with torch.no_grad():
        assert abs(float(model(data.test.x).mean())) < 1
    seen = model(data.test.x).detach()[:, 0] * data.train.y.std(correction=0) + data.train.y.mean()
    error = float((data.test.y - seen).abs().mean())
    assert outcome.metrics["test"]["mae"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize(("task", "loss", "outputs"), [("binary", "binary_cross_entropy", 1), ("binary", "hinge", 1)])
def test_two_classes_are_learned_with_every_output(task, loss, outputs):
    outcome, _, _ = run(toy(task), net(outputs), loss=loss, signed_labels=True, epochs=15, optimizer="adam", lr=0.02)
    assert outcome.metrics["test"]["accuracy"] > 0.85


def test_a_model_of_shape_n_is_taken_for_one_output():
    class Flat(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(1)

        def forward(self, x):
            return self.net(x)[:, 0]

    data = doubled("binary")
    flat, column = run(data, Flat().double(), loss="auto")[1], run(data, net(1).double(), loss="auto")[1]
    assert same(flat.net, column)


def test_class_weights_move_the_weights_as_torchs_do():
    data = toy()
    _, model, _ = run(data, class_weight="bee:3", batch_size="full", epochs=1)
    theirs = net()
    opt = torch.optim.SGD(theirs.parameters(), lr=0.05)
    rows = next(iter(batches(280, 280, seed=0, epoch=0)))
    torch.nn.functional.cross_entropy(theirs(data.train.x[rows]), data.train.y[rows], torch.tensor([1.0, 3.0, 1.0])).backward()
    opt.step()
    for a, b in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    balanced = aim(data, Settings(class_weight="balanced")).loss.class_weight
    assert float((balanced * torch.bincount(data.train.y)).sum()) == pytest.approx(280)
    assert len({round(float(v), 2) for v in balanced * torch.bincount(data.train.y)}) == 1


@pytest.mark.parametrize(
    ("task", "weight"), [("multiclass", "dog:2"), ("multiclass", "ant"), ("multiclass", "ant:-1"), ("regression", "balanced")]
)
def test_bad_class_weights_are_refused(task, weight):
    with pytest.raises(FalllineError):
        aim(toy(task), Settings(class_weight=weight))


def test_a_loss_of_another_task_and_labels_are_refused_with_the_way_out():
    with pytest.raises(FalllineError, match="mse"):
        aim(toy("regression"), Settings(loss="cross_entropy"))
    with pytest.raises(FalllineError, match="cross_entropy"):
        aim(toy(), Settings(loss="mse"))
    with pytest.raises(FalllineError, match="signed"):
        aim(toy("binary", raw_labels=(0, 1)), Settings(loss="hinge"))
    aim(toy("binary", raw_labels=(-1, 1)), Settings(loss="hinge"))


def test_augment_changes_training_batches_only_and_repeats():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 1, 8, 8, generator=g), torch.arange(60) % 3
    data = dataclasses.replace(
        toy(), train=Split(x[:40], y[:40]), validation=Split(x[40:50], y[40:50]), test=Split(x[50:], y[50:]), input_shape=(1, 8, 8)
    )

    def flat():
        return torch.nn.Sequential(torch.nn.Flatten(), net(3, 64))

    one, two, without = (run(data, flat(), batch_size=8, augment=a) for a in ("flip,shift:2", "flip,shift:2", None))
    assert same(one[1], two[1])
    assert not same(one[1], without[1])
    assert callable(Augment.parse("flip"))
    assert one[2].series("loss", "validation").value[0] == without[2].series("loss", "validation").value[0]


def test_best_weights_are_restored_and_patience_stops():
    data = toy(noise=3.0, rows=200)
    outcome, model, reader = run(data, net(hidden=64), optimizer="adam", lr=0.03, epochs=60, patience=3, keep="best")
    seen = reader.series("loss", "validation").value[1:]
    best = int(np.argmin(seen)) + 1
    assert outcome.best_epoch == best
    assert outcome.epochs_done == best + 3 < 60
    assert "no better validation loss for 3 epochs" in outcome.message
    assert evaluate(model, data.validation, aim(data, Settings()))["loss"] == pytest.approx(seen[best - 1], rel=1e-6)
    assert outcome.metrics["validation"]["loss"] == pytest.approx(seen[best - 1], rel=1e-6)


def test_min_change_counts_small_falls_as_none():
    all_epochs, few = (run(epochs=12, patience=2, min_change=m, lr=0.001)[0].epochs_done for m in (0.0, 0.5))
    assert (all_epochs, few) == (12, 3)


@pytest.mark.parametrize("lr", [1e4, 1e30])
def test_divergence_is_an_outcome_that_says_where_and_what_to_do(lr):
    outcome, _, _ = run(toy("regression"), net(1), loss="mse", lr=lr, epochs=5)
    assert outcome.status == "diverged"
    assert "diverged at step" in outcome.message
    assert "learning rate" in outcome.message
    assert "test" not in outcome.metrics


def test_the_step_of_divergence_is_the_first_bad_one():
    data = toy()
    rows = torch.cat(list(batches(280, 32, seed=0, epoch=0)))
    x = data.train.x.clone()
    x[rows[3 * 32]] = 3e38
    spoilt = dataclasses.replace(data, train=Split(x, data.train.y))
    outcome, _, _ = run(spoilt, lr=1e-6)
    assert "diverged at step 4 " in outcome.message


def test_after_divergence_the_best_weights_come_back():
    class Bomb(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.calls = net(), 0

        def forward(self, x):
            self.calls += self.training
            return self.net(x) * (math.nan if self.calls > 20 else 1)

    outcome, model, _ = run(model=Bomb(), keep="best")
    assert outcome.status == "diverged"
    assert outcome.epochs_done == outcome.best_epoch == 2
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_an_untrained_model_without_a_finite_loss_is_said():
    model = net()
    torch.nn.init.constant_(model[0].weight, math.inf)
    outcome, _, _ = run(model=model)
    assert outcome.status == "diverged"
    assert "untrained" in outcome.message


def test_stop_ends_after_the_step():
    count = iter(range(100))
    writer = Writer(None)
    outcome = train(net(), toy(), Settings(lr=0.1, epochs=5), writer=writer, progress=False, stop=lambda: next(count) == 11)
    assert (outcome.status, outcome.steps, outcome.epochs_done) == ("interrupted", 12, 1)


def test_no_validation_rows_keep_the_last_weights_and_refuse_patience():
    data = doubled()
    data = dataclasses.replace(data, validation=Split(data.train.x[:0], data.train.y[:0]))
    outcome, model, _ = run(data, net().double(), keep="best", epochs=3)
    assert outcome.status == "finished"
    assert "validation" not in outcome.metrics
    assert same(model, plain_loop(data, net().double(), lr=0.05, batch=32, epochs=3)) or outcome.best_epoch < 3
    with pytest.raises(FalllineError, match="patience"):
        run(data, patience=2)


def test_plateau_lowers_the_rate():
    _, _, reader = run(epochs=12, schedule="plateau:patience=0,factor=0.5,threshold=0.9", lr=0.01)
    assert len(set(reader.series("lr").value.tolist())) > 2


def test_a_loss_object_takes_the_place_of_the_name():
    writer = Writer(None)
    model = net()
    train(
        model,
        toy(),
        Settings(lr=0.05, optimizer="sgd", keep="last", epochs=2),
        writer=writer,
        progress=False,
        loss=losses.CrossEntropy(label_smoothing=0.3),
    )
    assert not same(model, run(epochs=2)[1])


def test_torch_hooks_on_the_optimizer_are_still_called():
    from torch.optim.optimizer import register_optimizer_step_post_hook

    calls = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    try:
        outcome, _, _ = run(epochs=1)
    finally:
        handle.remove()
    assert len(calls) == outcome.steps


@pytest.mark.parametrize(
    "bad",
    [
        {"lr": 0}, {"lr": math.nan}, {"batch_size": 0}, {"batch_size": 2.5}, {"epochs": 0}, {"epochs": True}, {"clip_norm": 0}, {"l1": -1},
        {"weight_decay": -1}, {"patience": 0}, {"dropout": 1}, {"track": "wandb"}, {"keep": "worst"}, {"checkpoint_seconds": 0},
        {"seed": 0.5},
    ],
)  # fmt: skip
def test_a_setting_out_of_range_is_refused(bad):
    with pytest.raises(FalllineError, match=next(iter(bad))):
        Settings(**bad)


def test_whole_numbers_of_numpy_are_taken():
    fields = {"batch_size": np.int64(8), "epochs": np.int32(2), "patience": np.int64(1), "seed": np.uint8(3)}
    settings = Settings(**fields)
    assert settings == Settings(batch_size=8, epochs=2, patience=1, seed=3)
    assert {type(getattr(settings, name)) for name in fields} == {int}


def test_settings_survive_json():
    settings = Settings(lr=0.1 + 0.2, schedule="cosine", class_weight="balanced")
    assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises(FalllineError, match="speed"):
        Settings.from_json({"speed": 1})


def test_an_unknown_device_is_refused():
    with pytest.raises(FalllineError, match="device"):
        run(device="abacus")
